//! `client::Client` without a wire: the same engine, the same admission and
//! validation, and the very objects of the caches.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;

use async_trait::async_trait;
use client::{Body, Client, DeleteOptions, EventStream, ListOptions, ObjectList, PatchType, WatchEvent, WriteOptions};
use futures::StreamExt;
use futures::stream;
use meta::{Gvr, Object, Status};
use serde_json::Value;

use crate::cache::{Begin, Delivery, Selection, Verb, Watch, select};
use crate::core::Core;
use crate::identity::User;
use crate::machinery;
use crate::projection::catch_up;
use crate::registry::{Call, DeleteRequest, Deleted, Input, ListQuery, PatchRequest, Target, parse_revision};
use crate::resource::Resource;

/// A client with an identity.
pub(crate) struct InProcess {
    core: Arc<Core>,
    user: Arc<User>,
}

impl InProcess {
    /// A client of an engine.
    pub(crate) fn new(core: Arc<Core>, user: User) -> Self {
        InProcess {
            core,
            user: Arc::new(user),
        }
    }

    fn resource(&self, gvr: &Gvr) -> Result<Arc<Resource>, Status> {
        self.core.catalog.resolve(gvr)
    }

    fn call(&self, options: &WriteOptions) -> Call {
        let mut call = Call::new(self.user.clone());
        call.dry_run = options.dry_run;
        call.force = options.force;
        call.field_manager = if options.field_manager.is_empty() {
            // The last part of a service account's name says which controller it is.
            self.user.name.rsplit(':').next().unwrap_or_default().to_owned()
        } else {
            options.field_manager.clone()
        };
        call
    }

    fn selection(resource: &Resource, namespace: &str, options: &ListOptions) -> Result<Selection, Status> {
        Selection::parse(
            &resource.kind,
            namespace,
            "",
            &options.label_selector,
            &options.field_selector,
        )
    }
}

fn answered(value: &Value) -> Result<Arc<Object>, Status> {
    Object::from_value(value.clone())
        .map(Arc::new)
        .map_err(Status::internal)
}

#[async_trait]
impl Client for InProcess {
    async fn get(&self, gvr: &Gvr, namespace: &str, name: &str) -> Result<Arc<Object>, Status> {
        let resource = self.resource(gvr)?;
        catch_up(&resource).await?;
        self.core.current(Target::of(&resource, namespace, name))
    }

    async fn list(&self, gvr: &Gvr, namespace: &str, options: &ListOptions) -> Result<ObjectList, Status> {
        let resource = self.resource(gvr)?;
        let selection = Self::selection(&resource, namespace, options)?;
        let query = ListQuery::parse(
            &options.resource_version,
            &options.resource_version_match,
            &options.limit.to_string(),
            &options.continue_token,
        )?;
        let target = Target::of(&resource, namespace, "");
        let listed = self.core.list(target, &selection, &query).await?;
        let (items, _) = select(
            &listed.snapshot,
            &resource.kind,
            &selection,
            &listed.after,
            listed.limit,
        );
        Ok(ObjectList {
            items: items.into_iter().map(|(_, item)| item.object.clone()).collect(),
            resource_version: listed.revision,
            continue_token: listed.continue_token,
        })
    }

    async fn watch(&self, gvr: &Gvr, namespace: &str, options: &ListOptions) -> Result<EventStream, Status> {
        let resource = self.resource(gvr)?;
        let selection = Self::selection(&resource, namespace, options)?;
        let after = parse_revision(&options.resource_version)?;
        let from = match (options.send_initial_events, after) {
            (true, _) | (false, 0) => Begin::State,
            (false, after) => Begin::After(after),
        };
        let target = Target::of(&resource, namespace, "");
        let mark = options.send_initial_events;
        match self.core.watch(target, selection, from).await {
            Ok(watch) => Ok(events(watch, mark)),
            Err(status) if status.is_expired() => Ok(stream::iter([Err(status)]).boxed()),
            Err(status) => Err(status),
        }
    }

    async fn create(
        &self,
        gvr: &Gvr,
        namespace: &str,
        (name, subresource): (&str, &str),
        body: Body,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Status> {
        let resource = self.resource(gvr)?;
        let target = Target::of(&resource, namespace, name).sub(subresource);
        let call = self.call(options);
        let input = machinery::decode(&body.0, false)?;
        if subresource.is_empty() {
            return self.core.create(&call, target, input).await;
        }
        answered(&self.core.post_subresource(&call, target, input).await?)
    }

    async fn update(
        &self,
        gvr: &Gvr,
        namespace: &str,
        (name, subresource): (&str, &str),
        body: Body,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Status> {
        let resource = self.resource(gvr)?;
        let target = Target::of(&resource, namespace, name).sub(subresource);
        let call = self.call(options);
        let input: Input = machinery::decode(&body.0, false)?;
        match subresource {
            "" | "status" => self.core.update(&call, target, input).await,
            "scale" => answered(&self.core.update_scale(&call, target, input).await?),
            _ => self.core.put_subresource(&call, target, input).await,
        }
    }

    async fn patch(
        &self,
        gvr: &Gvr,
        namespace: &str,
        (name, subresource): (&str, &str),
        patch: PatchType,
        body: Body,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Status> {
        let resource = self.resource(gvr)?;
        let target = Target::of(&resource, namespace, name).sub(subresource);
        let Input { value, problems } = machinery::decode(&body.0, false)?;
        let request = PatchRequest {
            form: patch,
            document: value,
            problems,
        };
        let mut call = self.call(options);
        if patch == PatchType::Apply {
            call.field_manager.clone_from(&options.field_manager);
        }
        match subresource {
            "" | "status" => self.core.patch(&call, target, request).await,
            "scale" => answered(&self.core.patch_scale(&call, target, request).await?),
            _ => self.core.patch_subresource(&call, target, request).await,
        }
    }

    async fn delete(
        &self,
        gvr: &Gvr,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Option<Arc<Object>>, Status> {
        let resource = self.resource(gvr)?;
        let request = DeleteRequest::from_value(&options.to_value())?;
        let target = Target::of(&resource, namespace, name);
        let call = self.call(&WriteOptions::default());
        Ok(match self.core.delete(&call, target, &request).await? {
            Deleted::Marked(object) => Some(object),
            Deleted::Gone(_) => None,
        })
    }
}

/// A watch as a stream. It ends when the watch does: the consumer resumes from what it has seen.
fn events(mut watch: Watch, mark: bool) -> EventStream {
    let mut ready: VecDeque<WatchEvent> = VecDeque::new();
    stream::poll_fn(move |cx| {
        loop {
            if let Some(event) = ready.pop_front() {
                return Poll::Ready(Some(Ok(event)));
            }
            match watch.poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Delivery::Object(verb, object))) => ready.push_back(match verb {
                    Verb::Added => WatchEvent::Added(object),
                    Verb::Modified => WatchEvent::Modified(object),
                    Verb::Deleted => WatchEvent::Deleted(object),
                }),
                Poll::Ready(Some(Delivery::InitialEnd(revision))) if mark => ready.push_back(WatchEvent::Bookmark {
                    resource_version: revision,
                    initial_events_end: true,
                }),
                Poll::Ready(Some(Delivery::InitialEnd(_))) => {}
            }
        }
    })
    .boxed()
}
