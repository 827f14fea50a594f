//! The way of a request: route, authenticate, impersonate, authorise, limit,
//! handle, count. Must not look into objects.

use std::sync::Arc;
use std::time::Instant;

use http::header::ACCEPT;
use http::{HeaderMap, Method, Request, Response};
use hyper::body::Incoming;
use meta::Status;

use super::accept::Media;
use super::respond::error;
use super::route::{self, Query, ResourcePath, Route};
use super::{Body, Connection, Frontend};
use crate::auth::Access;
use crate::identity::{ANONYMOUS, User};

/// A request that was let in.
pub(crate) struct Admitted {
    /// Who sent it.
    pub user: Arc<User>,
    /// The request, with its body unread.
    pub request: Request<Incoming>,
    /// Its query.
    pub query: Query,
}

impl Frontend {
    /// Answers a request.
    pub(crate) async fn respond(&self, connection: &Connection, request: Request<Incoming>) -> Response<Body> {
        let start = Instant::now();
        let method = request.method().clone();
        let head = method == Method::HEAD;
        let media = Media::for_errors(header(request.headers(), ACCEPT));
        let mut label = ("", String::new());
        let answer = self.route(connection, request, &mut label).await;
        let mut response = answer.unwrap_or_else(|status| error(&status, media));
        if head {
            *response.body_mut() = Body::empty();
        }
        self.metrics
            .count(&method, label, response.status().as_u16(), start.elapsed());
        response
    }

    async fn route(
        &self,
        connection: &Connection,
        request: Request<Incoming>,
        label: &mut (&'static str, String),
    ) -> Result<Response<Body>, Status> {
        let query = Query::parse(request.uri().query());
        let route = route::parse(request.uri().path())?;
        let user = self
            .core
            .authenticate(connection.certificate.as_ref(), request.headers())?;
        let user = self.core.impersonate(user, request.headers())?;
        match route {
            Route::Resource(path) => {
                let verb = route::verb(request.method(), &path, &query);
                *label = (verb, path.resource.clone());
                self.authorise(&user, verb, &path, &query)?;
                let admitted = Admitted { user, request, query };
                if is_long_running(verb, &path, &admitted.query) {
                    return self.resource(admitted, path, verb).await;
                }
                let _permit = self
                    .in_flight
                    .try_acquire()
                    .map_err(|_| Status::too_many_requests("Too many requests, please try again later.", 1))?;
                self.limited(self.resource(admitted, path, verb)).await
            }
            Route::Other => {
                let path = request.uri().path().to_owned();
                self.authorise_path(&user, request.method(), &path)?;
                let admitted = Admitted { user, request, query };
                self.limited(self.other(admitted, &path)).await
            }
        }
    }

    async fn limited<T>(&self, work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        match tokio::time::timeout(self.core.config.request_timeout, work).await {
            Ok(done) => done,
            Err(_) => Err(Status::timeout("request did not complete within the allotted timeout")),
        }
    }

    fn authorise(&self, user: &User, verb: &'static str, path: &ResourcePath, query: &Query) -> Result<(), Status> {
        if verb.is_empty() {
            return Err(Status::method_not_allowed(&path.group, &path.resource, "this method"));
        }
        let many = matches!(verb, "list" | "watch" | "deletecollection") && path.name.is_empty();
        let fields = many.then(|| meta::FieldSelector::parse(query.get("fieldSelector")).ok());
        let demands = |field: &str| fields.as_ref()?.as_ref()?.requires(field);
        // A selector on the name is as good as a name in the path.
        let selected = demands("metadata.name");
        let access = Access {
            verb,
            group: &path.group,
            resource: &path.resource,
            subresource: &path.subresource,
            namespace: &path.namespace,
            name: selected.unwrap_or(&path.name),
            on_node: demands("spec.nodeName").unwrap_or_default(),
            path: "",
        };
        self.core.authorise(user, &access)
    }

    fn authorise_path(&self, user: &User, method: &Method, path: &str) -> Result<(), Status> {
        let verb = method.as_str().to_lowercase();
        let access = Access {
            verb: if verb == "head" { "get" } else { &verb },
            path,
            ..Access::default()
        };
        let open = matches!(
            path,
            "/healthz" | "/livez" | "/readyz" | "/version" | "/version/" | "/cacerts"
        );
        if open && user.name == ANONYMOUS && *method == Method::GET {
            return Ok(());
        }
        self.core.authorise(user, &access)
    }
}

fn is_long_running(verb: &str, path: &ResourcePath, query: &Query) -> bool {
    verb == "watch"
        || matches!(
            path.subresource.as_str(),
            "exec" | "attach" | "portforward" | "proxy" | "console" | "vnc"
        )
        || (path.subresource == "log" && query.flag("follow"))
}

/// A header's text; empty when absent or not text.
pub(crate) fn header(headers: &HeaderMap, name: http::header::HeaderName) -> &str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}
