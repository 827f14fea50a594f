//! The API over HTTPS. Must not retry: callers know what is safe to repeat.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use futures::stream::StreamExt;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use meta::{Gvr, Object, Status};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{Body, Client, DeleteOptions, EventStream, ListOptions, ObjectList, PatchType, WatchEvent, WriteOptions};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a call other than WATCH may take, the server's own limit and some.
const CALL_TIMEOUT: Duration = Duration::from_secs(70);
/// Longest single watch event taken, above any object the server stores.
const MAX_EVENT: usize = 16 << 20;

/// A client of one API server.
#[derive(Clone)]
pub struct HttpClient {
    base: String,
    token: Option<HeaderValue>,
    pool: Pool<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// Why a client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server's address is not a URL.
    #[error("server address {0:?} is not an https:// URL with host and port")]
    Address(String),
    /// The token has characters that a header cannot carry.
    #[error("the bearer token has characters that HTTP does not allow")]
    Token,
}

impl HttpClient {
    /// `server` such as `https://127.0.0.1:6443`; a client certificate, if any, is in `tls`.
    pub fn new(server: &str, tls: rustls::ClientConfig, token: Option<&str>) -> Result<Self, ClientError> {
        let uri: Uri = server.parse().map_err(|_| ClientError::Address(server.to_owned()))?;
        if uri.scheme_str() != Some("https") || uri.authority().is_none() {
            return Err(ClientError::Address(server.to_owned()));
        }
        let token = match token {
            Some(t) => {
                let mut value = HeaderValue::from_str(&format!("Bearer {t}")).map_err(|_| ClientError::Token)?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_only()
            .enable_all_versions()
            .wrap_connector(tcp);
        let pool = Pool::builder(TokioExecutor::new())
            // A dead peer must not hold a watch open for ever.
            .http2_keep_alive_interval(Duration::from_secs(30))
            .http2_keep_alive_timeout(Duration::from_secs(15))
            .timer(hyper_util::rt::TokioTimer::new())
            .build(connector);
        let base = server.trim_end_matches('/').to_owned();
        Ok(HttpClient { base, token, pool })
    }

    /// Sends a request to a path of the server and returns the whole answer: code and body.
    pub async fn raw(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<(u16, Bytes), Status> {
        let call = async {
            let response = self.send(method, path, content_type, body).await?;
            let code = response.status().as_u16();
            let body = response.into_body().collect().await.map_err(|e| broken(&e))?.to_bytes();
            Ok((code, body))
        };
        match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(answer) => answer,
            Err(_) => Err(Status::timeout(format!("no answer from {} in time", self.base))),
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, Status> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(ACCEPT, "application/json");
        if !content_type.is_empty() {
            request = request.header(CONTENT_TYPE, content_type);
        }
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token.clone());
        }
        let request = request
            .body(Full::new(body))
            .map_err(|e| Status::bad_request(format!("request for {path}: {e}")))?;
        self.pool.request(request).await.map_err(|e| broken(&e))
    }

    async fn call(&self, method: Method, path: &str, content_type: &str, body: Bytes) -> Result<Bytes, Status> {
        let (code, body) = self.raw(method, path, content_type, body).await?;
        if (200..300).contains(&code) {
            return Ok(body);
        }
        Err(refusal(code, &body))
    }

    async fn write(&self, method: Method, path: &str, content_type: &str, body: Body) -> Result<Arc<Object>, Status> {
        object(&self.call(method, path, content_type, body.0).await?)
    }
}

#[async_trait]
impl Client for HttpClient {
    async fn get(&self, gvr: &Gvr, namespace: &str, name: &str) -> Result<Arc<Object>, Status> {
        let path = path(gvr, namespace, (name, ""));
        object(&self.call(Method::GET, &path, "", Bytes::new()).await?)
    }

    async fn list(&self, gvr: &Gvr, namespace: &str, options: &ListOptions) -> Result<ObjectList, Status> {
        let path = path(gvr, namespace, ("", "")) + &list_query(options, false);
        let body = self.call(Method::GET, &path, "", Bytes::new()).await?;
        let list: WireList = serde_json::from_slice(&body).map_err(|e| undecodable(&e))?;
        let items = list
            .items
            .into_iter()
            .map(|raw| object(raw.get().as_bytes()))
            .collect::<Result<_, _>>()?;
        Ok(ObjectList {
            items,
            resource_version: list.metadata.resource_version.parse().unwrap_or(0),
            continue_token: list.metadata.continue_token,
        })
    }

    async fn watch(&self, gvr: &Gvr, namespace: &str, options: &ListOptions) -> Result<EventStream, Status> {
        let path = path(gvr, namespace, ("", "")) + &list_query(options, true);
        let response = self.send(Method::GET, &path, "", Bytes::new()).await?;
        let code = response.status().as_u16();
        let mut body = response.into_body();
        if code != 200 {
            let refused = body.collect().await.map_err(|e| broken(&e))?.to_bytes();
            return Err(refusal(code, &refused));
        }
        let (sender, receiver) = futures::channel::mpsc::channel::<Result<WatchEvent, Status>>(64);
        // A task and not a stream adaptor: lines must be read while the consumer is busy,
        // or HTTP/2 flow control of one watch would stall the shared connection.
        tokio::spawn(async move {
            use futures::SinkExt;
            let mut sender = sender;
            let mut buffer = BytesMut::new();
            loop {
                while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
                    let line = buffer.split_to(end);
                    buffer.advance(1);
                    let event = event(&line);
                    let last = event.is_err();
                    if sender.send(event).await.is_err() || last {
                        return;
                    }
                }
                match body.frame().await {
                    Some(Ok(frame)) => {
                        if let Some(data) = frame.data_ref() {
                            buffer.extend_from_slice(data);
                        }
                        if buffer.len() > MAX_EVENT {
                            let _ = sender.send(Err(Status::internal("watch event too long"))).await;
                            return;
                        }
                    }
                    Some(Err(e)) => {
                        let _ = sender.send(Err(broken(&e))).await;
                        return;
                    }
                    None => return,
                }
            }
        });
        Ok(receiver.boxed())
    }

    async fn create(
        &self,
        gvr: &Gvr,
        namespace: &str,
        target: (&str, &str),
        body: Body,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Status> {
        let path = path(gvr, namespace, target) + &write_query(options);
        self.write(Method::POST, &path, "application/json", body).await
    }

    async fn update(
        &self,
        gvr: &Gvr,
        namespace: &str,
        target: (&str, &str),
        body: Body,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Status> {
        let path = path(gvr, namespace, target) + &write_query(options);
        self.write(Method::PUT, &path, "application/json", body).await
    }

    async fn patch(
        &self,
        gvr: &Gvr,
        namespace: &str,
        target: (&str, &str),
        patch: PatchType,
        body: Body,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Status> {
        let path = path(gvr, namespace, target) + &write_query(options);
        self.write(Method::PATCH, &path, patch.content_type(), body).await
    }

    async fn delete(
        &self,
        gvr: &Gvr,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Option<Arc<Object>>, Status> {
        let path = path(gvr, namespace, (name, ""));
        let body = Bytes::from(options.to_value().to_string());
        let answer = self.call(Method::DELETE, &path, "application/json", body).await?;
        // A finished delete answers with a Status of success, an unfinished one with the object.
        Ok(object(&answer).ok().filter(|o| o.header().kind != "Status"))
    }
}

#[derive(Deserialize)]
struct WireList<'a> {
    #[serde(default)]
    metadata: WireListMeta,
    #[serde(borrow, default)]
    items: Vec<&'a RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct WireListMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    continue_token: String,
}

#[derive(Deserialize)]
struct WireEvent<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// `/api/v1/namespaces/ns/pods/name/status` and the like.
fn path(gvr: &Gvr, namespace: &str, (name, subresource): (&str, &str)) -> String {
    let mut out = match gvr.group.as_ref() {
        "" => format!("/api/{}", gvr.version),
        group => format!("/apis/{group}/{}", gvr.version),
    };
    if !namespace.is_empty() {
        let _ = write!(out, "/namespaces/{}", escape(namespace));
    }
    let _ = write!(out, "/{}", gvr.resource);
    for part in [name, subresource].into_iter().filter(|p| !p.is_empty()) {
        let _ = write!(out, "/{}", part.split('/').map(escape).collect::<Vec<_>>().join("/"));
    }
    out
}

fn list_query(o: &ListOptions, watch: bool) -> String {
    let mut q = Query::default();
    q.text("labelSelector", &o.label_selector);
    q.text("fieldSelector", &o.field_selector);
    q.text("resourceVersion", &o.resource_version);
    q.text("resourceVersionMatch", &o.resource_version_match);
    q.text("continue", &o.continue_token);
    if o.limit > 0 {
        q.text("limit", &o.limit.to_string());
    }
    if watch {
        q.text("watch", "true");
        if o.send_initial_events {
            q.text("sendInitialEvents", "true");
            if o.resource_version_match.is_empty() {
                q.text("resourceVersionMatch", "NotOlderThan");
            }
        }
        if o.allow_bookmarks || o.send_initial_events {
            q.text("allowWatchBookmarks", "true");
        }
    }
    if o.timeout_seconds > 0 {
        q.text("timeoutSeconds", &o.timeout_seconds.to_string());
    }
    q.0
}

fn write_query(o: &WriteOptions) -> String {
    let mut q = Query::default();
    q.text("fieldManager", &o.field_manager);
    if o.force {
        q.text("force", "true");
    }
    if o.dry_run {
        q.text("dryRun", "All");
    }
    q.0
}

#[derive(Default)]
struct Query(String);

impl Query {
    fn text(&mut self, key: &str, value: &str) {
        if !value.is_empty() {
            let lead = if self.0.is_empty() { '?' } else { '&' };
            let _ = write!(self.0, "{lead}{key}={}", escape(value));
        }
    }
}

/// Percent-encoding of everything but RFC 3986's unreserved characters.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(b));
        } else {
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}

fn object(raw: &[u8]) -> Result<Arc<Object>, Status> {
    let has_managed = raw.windows(15).any(|w| w == b"\"managedFields\"");
    let made = if has_managed {
        let value = serde_json::from_slice(raw).map_err(|e| undecodable(&e))?;
        Object::from_value(value)
    } else {
        Object::from_json(Bytes::copy_from_slice(raw))
    };
    made.map(Arc::new).map_err(|e| undecodable(&e))
}

fn event(line: &[u8]) -> Result<WatchEvent, Status> {
    let wire: WireEvent<'_> = serde_json::from_slice(line).map_err(|e| undecodable(&e))?;
    let raw = wire.object.get().as_bytes();
    match wire.kind {
        "ADDED" => Ok(WatchEvent::Added(object(raw)?)),
        "MODIFIED" => Ok(WatchEvent::Modified(object(raw)?)),
        "DELETED" => Ok(WatchEvent::Deleted(object(raw)?)),
        "BOOKMARK" => {
            let mark = object(raw)?;
            Ok(WatchEvent::Bookmark {
                resource_version: mark.resource_version(),
                initial_events_end: mark
                    .annotations()
                    .get("k8s.io/initial-events-end")
                    .is_some_and(|v| v == "true"),
            })
        }
        _ => Err(Status::from_json(raw).unwrap_or_else(|| Status::internal("watch ended by an unknown event"))),
    }
}

fn refusal(code: u16, body: &[u8]) -> Status {
    Status::from_json(body).unwrap_or_else(|| {
        let text = String::from_utf8_lossy(&body[..body.len().min(500)]).into_owned();
        Status::new(
            code,
            meta::Reason::Other(String::new()),
            format!("the server answered {code}: {text}"),
        )
    })
}

fn broken(error: &dyn std::error::Error) -> Status {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let _ = write!(text, ": {inner}");
        source = inner.source();
    }
    Status::unavailable(format!("connection to the API server: {text}"))
}

fn undecodable(error: &dyn std::error::Error) -> Status {
    Status::internal(format!("the server's answer could not be decoded: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_queries() {
        let pods = Gvr::of("", "v1", "pods");
        assert_eq!(
            path(&pods, "ns", ("a", "status")),
            "/api/v1/namespaces/ns/pods/a/status"
        );
        let roles = Gvr::of("rbac.authorization.k8s.io", "v1", "clusterroles");
        assert_eq!(
            path(&roles, "", ("system:x/y?", "")),
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Ax/y%3F"
        );
        let options = ListOptions {
            label_selector: "a=b,c in (d)".into(),
            send_initial_events: true,
            ..ListOptions::default()
        };
        assert_eq!(
            list_query(&options, true),
            "?labelSelector=a%3Db%2Cc%20in%20%28d%29&watch=true&sendInitialEvents=true\
             &resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
        );
    }

    #[test]
    fn events_are_decoded_and_errors_end_the_stream() {
        let added = event(br#"{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"7"}}}"#).unwrap();
        assert!(matches!(added, WatchEvent::Added(o) if o.resource_version() == 7));
        let end = event(
            br#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}}"#,
        );
        assert!(matches!(
            end.unwrap(),
            WatchEvent::Bookmark {
                resource_version: 9,
                initial_events_end: true
            }
        ));
        let gone =
            event(br#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}"#);
        assert!(gone.unwrap_err().is_expired());
        assert!(event(b"junk").is_err());
    }
}
