//! The server over real TLS on loopback, with made-up pods and a made-up
//! streaming server of a runtime.

mod containerd;
mod logs;
mod plain;
mod upgrades;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use meta::Object;
use pki::{Authority, CertSpec, ServerIdentity};
use runtime::{ContainerState, ContainerStatus, SandboxStatus};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::fake::{FakeLookup, FakeRuntime, lock};
use super::{MachineControl, Server};
use crate::lookup::PodLookup;

/// Longest that anything may take here.
const LIMIT: Duration = Duration::from_secs(20);

/// A server under test.
struct Stand {
    address: SocketAddr,
    authority: Authority,
    directory: tempfile::TempDir,
    runtime: Arc<FakeRuntime>,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn pod(name: &str, labels: Value) -> Arc<Object> {
    let value = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}"), "labels": labels},
        "spec": {"nodeName": "n1", "containers": [{"name": "c"}, {"name": "compute"}]},
        "status": {"phase": "Running", "startTime": "2026-01-01T00:00:00Z", "containerStatuses": [
            {"name": "c", "containerID": "fake://c-0", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
             "state": {"running": {"startedAt": "2023-11-14T22:13:20Z"}}}]},
    });
    Arc::new(Object::from_value(value).unwrap())
}

fn attempt(name: &str, attempt: u32, state: ContainerState) -> ContainerStatus {
    ContainerStatus {
        id: format!("{name}-{attempt}"),
        name: name.into(),
        attempt,
        state,
        started_at: 1_700_000_000_000_000_000,
        ..ContainerStatus::default()
    }
}

fn sandbox(pod: &str, containers: Vec<ContainerStatus>) -> SandboxStatus {
    SandboxStatus {
        id: "sandbox".into(),
        pod_uid: format!("uid-{pod}"),
        pod_name: pod.into(),
        pod_namespace: "ns".into(),
        ready: true,
        containers,
        ..SandboxStatus::default()
    }
}

async fn stand(pods: Vec<Arc<Object>>, runtime: FakeRuntime, machines: Option<Arc<dyn MachineControl>>) -> Stand {
    let runtime = Arc::new(runtime);
    let lookup = FakeLookup {
        pods,
        runtime: runtime.clone(),
    };
    let mut stand = stand_with(Arc::new(lookup), machines).await;
    stand.runtime = runtime;
    stand
}

async fn stand_with(lookup: Arc<dyn PodLookup>, machines: Option<Arc<dyn MachineControl>>) -> Stand {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::load_or_create(directory.path(), "ca").unwrap();
    let serving = CertSpec::server("n1", vec!["n1".into(), "127.0.0.1".into()]);
    let identity = ServerIdentity::new(&authority.issue(&serving).unwrap()).unwrap();
    let tls = pki::server_config(identity, authority.certificate(), true, &[b"h2", b"http/1.1"]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::new(lookup, machines, directory.path().join("pods"));
    let stop = CancellationToken::new();
    let served = tokio::spawn(server.serve(listener, Arc::new(tls), stop.clone()));
    Stand {
        address,
        authority,
        directory,
        runtime: Arc::default(),
        stop,
        served,
    }
}

/// A pod `p` whose container `c` runs.
async fn running() -> Stand {
    let runtime = FakeRuntime::default();
    *lock(&runtime.sandbox) = Some(sandbox("p", vec![attempt("c", 0, ContainerState::Running)]));
    stand(vec![pod("p", json!({}))], runtime, None).await
}

impl Stand {
    async fn connect(&self, user: Option<(&str, &str)>, alpn: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
        let pair = user.map(|(user, group)| self.authority.issue(&CertSpec::client(user, group)).unwrap());
        let mut config = pki::client_config(self.authority.certificate(), pair.as_ref()).unwrap();
        config.alpn_protocols = vec![alpn.to_vec()];
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("n1").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    async fn ask_as(
        &self,
        user: (&str, &str),
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Response<Incoming> {
        let tls = self.connect(Some(user), b"http/1.1").await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder().method(method).uri(path).header("host", "n1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let answered = tokio::time::timeout(LIMIT, sender.send_request(request)).await;
        answered.expect("an answer in time").unwrap()
    }

    async fn ask(&self, method: Method, path: &str, headers: &[(&'static str, &str)]) -> Response<Incoming> {
        let user = ("system:apiserver-node-client", "system:masters");
        self.ask_as(user, method, path, headers).await
    }

    /// Status and body of a GET.
    async fn get(&self, path: &str) -> (u16, String) {
        whole(self.ask(Method::GET, path, &[]).await).await
    }

    /// Status and message of a refused GET.
    async fn refusal(&self, path: &str) -> (u16, String) {
        let (status, body) = self.get(path).await;
        let value: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(value["code"], status);
        (status, value["message"].as_str().unwrap().to_owned())
    }
}

async fn whole(response: Response<Incoming>) -> (u16, String) {
    let status = response.status().as_u16();
    let body = tokio::time::timeout(LIMIT, response.into_body().collect()).await;
    let bytes = body.expect("the end in time").unwrap().to_bytes();
    (status, String::from_utf8_lossy(&bytes).into_owned())
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}
