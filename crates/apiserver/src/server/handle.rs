//! Requests on resources: from verb and path to the engine, from its answer
//! to a response. Must not decide what the engine or a subresource should.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use http::header::{ACCEPT, CONTENT_TYPE};
use meta::{Object, Status};
use rand::Rng;
use serde_json::{Value, json};

use super::accept::{Accepted, Media, Offer};
use super::body::{ListBody, WatchBody, error_event};
use super::dispatch::{Admitted, header};

use super::route::ResourcePath;
use super::writer::{self, Writer};
use super::{Body, Frontend, compress, intake, respond};
use crate::cache::{Begin, Selection};
use crate::identity::User;
use crate::projection::catch_up;
use crate::registry::{Call, Deleted, ListQuery, Target, parse_revision};
use crate::resource::Resource;

/// Longest watch, when the client does not say; at least half of it.
const WATCH_SECONDS: u64 = 3600;

impl Frontend {
    /// A request on a resource.
    pub(super) async fn resource(
        &self,
        admitted: Admitted,
        path: ResourcePath,
        verb: &'static str,
    ) -> Result<Response<Body>, Status> {
        if path.group == "subresources.kubevirt.io" {
            return self.machine_subresource(admitted, path, verb).await;
        }
        let gvr = meta::Gvr::named(&path.group, &path.version, &path.resource);
        let resource = self.core.catalog.resolve(&gvr)?;
        let namespace = check_scope(&resource, &path, verb)?;
        let target = Target {
            resource: &resource,
            namespace: &namespace,
            name: &path.name,
            subresource: &path.subresource,
        };
        match path.subresource.as_str() {
            "" => {}
            "status" if resource.kind.has_status() => {}
            "scale" => return self.scale(admitted, target, verb).await,
            other => {
                let Some((_, verbs)) = resource.custom(other) else {
                    return Err(Status::no_such_path());
                };
                let streams = matches!(other, "exec" | "attach" | "portforward" | "proxy");
                if !streams && !verbs.contains(&verb) {
                    return Err(not_allowed(&resource, verb));
                }
                return self.subresource(admitted, target, verb, &path.rest).await;
            }
        }
        if !path.rest.is_empty() {
            return Err(Status::no_such_path());
        }
        if !resource.kind.verbs.contains(&verb) {
            return Err(not_allowed(&resource, verb));
        }
        match verb {
            "get" => self.get(&admitted, target).await,
            "list" => self.list(&admitted, target).await,
            "watch" => self.watch(&admitted, target).await,
            _ => self.write(admitted, target, verb).await,
        }
    }

    async fn get(&self, admitted: &Admitted, target: Target<'_>) -> Result<Response<Body>, Status> {
        let accepted = accepted(admitted, target, false)?;
        match parse_revision(admitted.query.get("resourceVersion"))? {
            0 if admitted.query.get("resourceVersion").is_empty() => self.core.read_barrier().await?,
            revision => self.core.wait_for(revision).await?,
        }
        catch_up(target.resource).await?;
        let object = self.core.current(target)?;
        self.object(200, accepted, target, &object)
    }

    /// An object in the form that the client wants.
    pub(super) fn object(
        &self,
        code: u16,
        accepted: Accepted,
        target: Target<'_>,
        object: &Object,
    ) -> Result<Response<Body>, Status> {
        let mut out = Vec::new();
        Writer::new(target.resource.kind.clone(), accepted).object(&mut out, object)?;
        Ok(respond::bytes(code, accepted.media.content_type(), out))
    }

    async fn list(&self, admitted: &Admitted, target: Target<'_>) -> Result<Response<Body>, Status> {
        let accepted = accepted(admitted, target, false)?;
        let q = &admitted.query;
        let query = ListQuery::parse(
            q.get("resourceVersion"),
            q.get("resourceVersionMatch"),
            q.get("limit"),
            q.get("continue"),
        )?;
        let selection = selection(admitted, target)?;
        let listed = self.core.list(target, &selection, &query).await?;
        let writer = Writer::new(target.resource.kind.clone(), accepted);
        let list = ListBody::new(writer, selection, listed).await?;
        let content_type = accepted.media.content_type();
        if accepted.media == Media::Yaml {
            let mut out = Vec::new();
            writer::yaml(&mut out, &list.collect())?;
            return Ok(respond::bytes(200, content_type, out));
        }
        if compress::wanted(admitted.request.headers()) {
            return Ok(compress::list(list));
        }
        let mut response = Response::new(Body::List(Box::new(list)));
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        Ok(response)
    }

    async fn watch(&self, admitted: &Admitted, target: Target<'_>) -> Result<Response<Body>, Status> {
        let accepted = accepted(admitted, target, true)?;
        let q = &admitted.query;
        let selection = selection(admitted, target)?;
        let (revision, initial) = (q.get("resourceVersion"), q.get("sendInitialEvents"));
        let wants_initial = q.flag("sendInitialEvents");
        check_watch(q.get("resourceVersionMatch"), initial, wants_initial)?;
        let after = parse_revision(revision)?;
        let from = match (initial.is_empty(), wants_initial, after) {
            (true, _, 0) | (false, true, _) => {
                self.core.wait_for(after).await?;
                Begin::State
            }
            (false, false, 0) => Begin::Now,
            (_, _, after) => Begin::After(after),
        };
        if revision.is_empty() {
            self.core.read_barrier().await?;
        }
        let bookmarks = q.flag("allowWatchBookmarks");
        let seconds: u64 = q.get("timeoutSeconds").parse().unwrap_or(0);
        let lifetime = match seconds {
            0 => Duration::from_secs(WATCH_SECONDS).mul_f64(rand::rng().random_range(0.5..1.0)),
            n => Duration::from_secs(n.min(24 * 3600)),
        };
        let body = match self.core.watch(target, selection, from).await {
            Ok(watch) => {
                let progress = self.core.progress.clone();
                let marks = (bookmarks, wants_initial && bookmarks);
                let writer = Writer::new(target.resource.kind.clone(), accepted);
                Body::Watch(Box::new(WatchBody::new(
                    writer,
                    watch,
                    progress,
                    marks,
                    lifetime,
                    self.recent.clone(),
                )))
            }
            // An expired watch is an event in a good response: informers expect it there.
            Err(status) if status.is_expired() => {
                let mut out = Vec::new();
                error_event(&mut out, accepted.media, &status)?;
                Body::from(out)
            }
            Err(status) => return Err(status),
        };
        let mut response = Response::new(body);
        response
            .headers_mut()
            .insert(CONTENT_TYPE, accepted.media.stream_type());
        Ok(response)
    }

    async fn write(
        &self,
        admitted: Admitted,
        target: Target<'_>,
        verb: &'static str,
    ) -> Result<Response<Body>, Status> {
        let accepted = accepted(&admitted, target, false)?;
        let (mut call, headers, body) = self.take(&admitted.user, &admitted.query, admitted.request).await?;
        let existed = self.core.current(target).is_ok();
        let mut response = match verb {
            "create" => {
                let object = self
                    .core
                    .create(&call, target, intake::object(&headers, &body)?)
                    .await?;
                self.object(201, accepted, target, &object)?
            }
            "update" => {
                let object = self
                    .core
                    .update(&call, target, intake::object(&headers, &body)?)
                    .await?;
                self.object(200, accepted, target, &object)?
            }
            "patch" => {
                let object = self
                    .core
                    .patch(
                        &call,
                        target,
                        intake::patch(&headers, &body, target.resource.kind.custom)?,
                    )
                    .await?;
                self.object(if existed { 200 } else { 201 }, accepted, target, &object)?
            }
            "delete" => {
                let (request, dry) = intake::delete(&headers, &body, &admitted.query)?;
                call.dry_run |= dry;
                match self.core.delete(&call, target, &request).await? {
                    Deleted::Marked(object) => self.object(200, accepted, target, &object)?,
                    Deleted::Gone(object) if returns_object(&target) => self.object(200, accepted, target, &object)?,
                    Deleted::Gone(object) => respond::value(200, accepted.media, &success(&target, &object)),
                }
            }
            _ => {
                let (request, dry) = intake::delete(&headers, &body, &admitted.query)?;
                call.dry_run |= dry;
                let q = &admitted.query;
                let selection = Selection::parse(
                    &target.resource.kind,
                    target.namespace,
                    "",
                    q.get("labelSelector"),
                    q.get("fieldSelector"),
                )?;
                let gone = self.core.delete_collection(&call, target, &selection, &request).await?;
                let items: Vec<Value> = gone.iter().map(|o| o.to_full_value()).collect();
                let kind = target.resource.kind.list_kind.to_string();
                let revision = self.core.revision().to_string();
                respond::value(
                    200,
                    accepted.media,
                    &json!({"kind": kind, "apiVersion": target.resource.api_version,
                    "metadata": {"resourceVersion": revision}, "items": items}),
                )
            }
        };
        respond::warn(&mut response, &call.warnings());
        Ok(response)
    }
}

impl Frontend {
    /// Reads what every write has: options and body.
    pub(super) async fn take(
        &self,
        user: &Arc<User>,
        query: &super::route::Query,
        request: http::Request<hyper::body::Incoming>,
    ) -> Result<(Call, http::HeaderMap, bytes::Bytes), Status> {
        let (parts, body) = request.into_parts();
        let mut call = Call::new(user.clone());
        intake::options(&mut call, query)?;
        let body = intake::read(body, self.core.config.max_body).await?;
        let applies = header(&parts.headers, CONTENT_TYPE).starts_with("application/apply-patch");
        if call.field_manager.is_empty() && !applies {
            call.field_manager = intake::default_manager(&parts.headers);
        }
        Ok((call, parts.headers, body))
    }

    async fn scale(&self, admitted: Admitted, target: Target<'_>, verb: &str) -> Result<Response<Body>, Status> {
        let Accepted { media, .. } = accepted(&admitted, target, false)?;
        if verb == "get" {
            return Ok(respond::value(200, media, &self.core.scale(target)?));
        }
        let (call, headers, body) = self.take(&admitted.user, &admitted.query, admitted.request).await?;
        let scale = match verb {
            "update" => {
                self.core
                    .update_scale(&call, target, intake::object(&headers, &body)?)
                    .await?
            }
            "patch" => {
                self.core
                    .patch_scale(
                        &call,
                        target,
                        intake::patch(&headers, &body, target.resource.kind.custom)?,
                    )
                    .await?
            }
            _ => return Err(not_allowed(target.resource, verb)),
        };
        let mut response = respond::value(200, media, &scale);
        respond::warn(&mut response, &call.warnings());
        Ok(response)
    }
}

/// What the client accepts of what the target can be written as.
pub(super) fn accepted(admitted: &Admitted, target: Target<'_>, stream: bool) -> Result<Accepted, Status> {
    let mut offer = Offer::of(&target.resource.kind, stream);
    // Scales and the like are built-in kinds, whatever they belong to.
    offer.protobuf |= matches!(target.subresource, "scale" | "token" | "eviction" | "binding");
    Accepted::negotiate(
        header(admitted.request.headers(), ACCEPT),
        admitted.query.get("includeObject"),
        offer,
    )
}

fn selection(admitted: &Admitted, target: Target<'_>) -> Result<Selection, Status> {
    let q = &admitted.query;
    let (labels, fields) = (q.get("labelSelector"), q.get("fieldSelector"));
    Selection::parse(&target.resource.kind, target.namespace, target.name, labels, fields)
}

/// The namespace of the target; 404 for a path that does not fit the kind's scope.
fn check_scope(resource: &Resource, path: &ResourcePath, verb: &str) -> Result<String, Status> {
    if !resource.kind.namespaced() {
        let of_namespace = resource.kind.plural == "namespaces" && resource.kind.group.is_empty();
        if !path.namespace.is_empty() && !of_namespace {
            return Err(Status::no_such_path());
        }
        return Ok(String::new());
    }
    if path.namespace.is_empty() {
        if !path.name.is_empty() {
            return Err(Status::no_such_path());
        }
        if verb == "create" || verb == "deletecollection" {
            return Err(not_allowed(resource, verb));
        }
    }
    Ok(path.namespace.clone())
}

fn check_watch(rv_match: &str, initial: &str, wants_initial: bool) -> Result<(), Status> {
    let refuse = |why: &str| {
        let message = format!("ListOptions.meta.k8s.io \"\" is invalid: {why}");
        Err(Status::new(422, meta::Reason::Invalid, message).about("meta.k8s.io", "ListOptions", ""))
    };
    match (initial.is_empty(), rv_match) {
        (true, "") | (false, "NotOlderThan") => Ok(()),
        (true, _) => refuse("resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch"),
        // Lenient where it can do no harm: without initial events nothing needs to match.
        (false, "") if !wants_initial => Ok(()),
        (false, _) => refuse(
            "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
    }
}

pub(super) fn not_allowed(resource: &Resource, verb: &str) -> Status {
    let _ = resource;
    let mut status = Status::method_not_allowed("", "", verb);
    status.message = "the server does not allow this method on the requested resource".into();
    status
}

/// Kinds whose last state DELETE answers, as upstream does.
fn returns_object(target: &Target<'_>) -> bool {
    target.resource.kind.group.is_empty()
        && matches!(
            &*target.resource.kind.plural,
            "pods"
                | "services"
                | "namespaces"
                | "serviceaccounts"
                | "persistentvolumes"
                | "persistentvolumeclaims"
                | "podtemplates"
                | "resourcequotas"
        )
}

fn success(target: &Target<'_>, object: &Object) -> Value {
    let kind = &target.resource.kind;
    let mut details = json!({"name": object.name(), "kind": kind.plural, "uid": object.uid()});
    if !kind.group.is_empty() {
        details["group"] = (*kind.group).into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}
