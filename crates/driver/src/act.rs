//! Carrying out one action by the API.
//!
//! Must not choose: an action says everything but what the answer will be.

use std::collections::BTreeMap;

use client::{Body, Client, DeleteOptions, PatchType, Preconditions, WriteOptions};
use meta::{Gvr, Status};
use reconcile::Action;

use crate::Recorder;

/// What was written: up to which revision each resource must be seen before the next plan.
#[derive(Default)]
pub(crate) struct Written {
    /// By resource.
    pub revisions: BTreeMap<Gvr, u64>,
    /// Objects that must be gone or going: resource, namespace, name, uid.
    pub deleted: Vec<(Gvr, String, String, String)>,
}

impl Written {
    fn saw(&mut self, gvr: &Gvr, revision: u64) {
        let seen = self.revisions.entry(gvr.clone()).or_default();
        *seen = revision.max(*seen);
    }
}

/// Carries out an action in the name of a controller.
pub(crate) async fn act(
    client: &dyn Client,
    recorder: &Recorder,
    who: &str,
    action: &Action,
    written: &mut Written,
) -> Result<(), Status> {
    let options = WriteOptions {
        field_manager: who.to_owned(),
        ..WriteOptions::default()
    };
    match action {
        Action::Create {
            gvr,
            namespace,
            object,
            exists_ok,
        } => {
            let created = client.create(gvr, namespace, ("", ""), Body::from_value(object), &options);
            match created.await {
                Ok(o) => written.saw(gvr, o.resource_version()),
                Err(e) if *exists_ok && e.is_already_exists() => {}
                Err(e) => return Err(e),
            }
        }
        Action::Patch {
            gvr,
            namespace,
            name,
            subresource,
            patch,
        } => {
            let body = Body::from_value(patch);
            let patched = client.patch(gvr, namespace, (name, subresource), PatchType::Merge, body, &options);
            written.saw(gvr, patched.await?.resource_version());
        }
        Action::Replace {
            gvr,
            namespace,
            name,
            subresource,
            object,
        } => {
            let body = Body::from_value(object);
            let updated = client.update(gvr, namespace, (name, subresource), body, &options);
            written.saw(gvr, updated.await?.resource_version());
        }
        Action::Post {
            gvr,
            namespace,
            name,
            subresource,
            body,
        } => {
            let posted = client.create(gvr, namespace, (name, subresource), Body::from_value(body), &options);
            posted.await?;
        }
        Action::Delete {
            gvr,
            namespace,
            name,
            uid,
            grace,
        } => {
            let options = DeleteOptions {
                grace_period_seconds: *grace,
                preconditions: Preconditions {
                    uid: uid.clone(),
                    ..Preconditions::default()
                },
                ..DeleteOptions::default()
            };
            match client.delete(gvr, namespace, name, &options).await {
                Ok(_) => written
                    .deleted
                    .push((gvr.clone(), namespace.clone(), name.clone(), uid.clone())),
                // Gone, or another object of that name: the one that was meant is gone.
                Err(e) if e.is_not_found() || e.is_conflict() => {}
                Err(e) => return Err(e),
            }
        }
        Action::Event {
            regarding,
            kind,
            reason,
            message,
        } => recorder.say(who, regarding, *kind, reason, message),
    }
    Ok(())
}
