//! Who may ask, and which handler answers. Must not answer itself.

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use rustls::pki_types::CertificateDer;

use super::answer::{Body, Refusal, text};
use super::{Shared, logs, machines, numbers, streams};

/// The group whose members may ask: the API server's client certificate for nodes carries
/// it, and the administrator's does.
const MASTERS: &str = "system:masters";

/// Who is at the other end of a connection.
pub(super) struct Caller {
    user: String,
    allowed: bool,
}

impl Caller {
    pub(super) fn of(certificates: Option<&[CertificateDer<'_>]>) -> Self {
        let identity = certificates.and_then(|c| c.first()).and_then(pki::peer_identity);
        let (user, groups) = identity.unwrap_or_default();
        let allowed = !user.is_empty() && groups.iter().any(|g| g == MASTERS);
        Caller { user, allowed }
    }
}

/// The query of a request.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(query: Option<&str>) -> Self {
        let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        Query(pairs.map(|(k, v)| (k.into_owned(), v.into_owned())).collect())
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    pub(super) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    pub(super) fn is_on(&self, key: &str) -> bool {
        matches!(self.get(key), Some("1" | "t" | "T" | "true" | "TRUE" | "True"))
    }
}

/// Answers a request.
pub(super) async fn answer(shared: &Arc<Shared>, caller: &Caller, request: Request<Incoming>) -> Response<Body> {
    if caller.user.is_empty() {
        return text(StatusCode::UNAUTHORIZED, "Unauthorized\n");
    }
    if !caller.allowed {
        let verb = match *request.method() {
            Method::GET => "get",
            Method::POST => "create",
            Method::PUT => "update",
            Method::DELETE => "delete",
            _ => "patch",
        };
        let user = &caller.user;
        let message = format!("Forbidden (user={user}, verb={verb}, resource=nodes, subresource=proxy)");
        return text(StatusCode::FORBIDDEN, message);
    }
    let path = request.uri().path();
    let streams = ["/exec/", "/attach/", "/portForward/"]
        .iter()
        .any(|p| path.starts_with(p));
    match route(shared, request).await {
        Ok(response) => response,
        Err(refusal) if streams => refusal.into_text(),
        Err(refusal) => refusal.into_response(),
    }
}

async fn route(shared: &Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let path = request.uri().path().to_owned();
    let query = Query::parse(request.uri().query());
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let method = request.method().clone();
    let reads = matches!(method, Method::GET | Method::HEAD);
    let streams = matches!(method, Method::GET | Method::POST);
    match parts.as_slice() {
        ["healthz" | "livez" | "readyz"] if reads => Ok(text(StatusCode::OK, "ok")),
        ["pods"] | ["runningpods"] if reads => Ok(numbers::pods(shared)),
        ["stats", "summary"] if reads => {
            let little = query.is_on("only_cpu_and_memory");
            numbers::summary(shared, !little).await
        }
        ["stats", "usage"] if reads => numbers::usage(shared).await,
        ["metrics", "resource"] if reads => numbers::resource_metrics(shared).await,
        ["metrics", "cadvisor"] if reads => numbers::cadvisor_metrics(shared).await,
        ["metrics", "probes"] if reads => Ok(numbers::probe_metrics()),
        ["metrics"] if reads => Ok(numbers::metrics(shared)),
        ["containerLogs", namespace, pod, container] if reads => {
            logs::answer(shared, (namespace, pod, container), &query).await
        }
        ["exec", namespace, pod, container] if streams => {
            streams::exec(shared, (namespace, pod, container), &query, request).await
        }
        ["attach", namespace, pod, container] if streams => {
            streams::attach(shared, (namespace, pod, container), &query, request).await
        }
        ["portForward", namespace, pod] if streams => {
            streams::port_forward(shared, (namespace, pod), &query, request).await
        }
        ["machines", namespace, instance, rest @ ..] => {
            machines::answer(shared, (namespace, instance), rest, request).await
        }
        _ => Err(Refusal::not_found("404 page not found")),
    }
}
