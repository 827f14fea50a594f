//! A server on a temporary store and a loopback port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use apiserver::{ApiServer, Config, User};
use bytes::Bytes;
use client::Client;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

/// How long a test waits for what must come.
pub const DEADLINE: Duration = Duration::from_secs(20);
pub const ADMIN: &str = "admin-token";

pub struct Fixture {
    pub server: ApiServer,
    pub store: Arc<dyn store::Store>,
    pub address: SocketAddr,
    pub clients: pki::Authority,
    tls: Arc<rustls::ClientConfig>,
    servers: String,
    issuer: pki::Authority,
    stop: CancellationToken,
    dir: tempfile::TempDir,
}

pub struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }

    pub fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }
}

pub async fn start() -> Fixture {
    start_with(|_| {}).await
}

pub async fn start_with(change: impl FnOnce(&mut Config)) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let mut options = store::embedded::Options::new(dir.path().join("db")).stamp(apiserver::stamp());
    options.sync = false;
    let store: Arc<dyn store::Store> = Arc::new(store::Embedded::open(options).unwrap());
    let servers = pki::Authority::load_or_create(dir.path(), "server-ca").unwrap();
    let clients = pki::Authority::load_or_create(dir.path(), "client-ca").unwrap();
    let pair = servers
        .issue(&pki::CertSpec::server(
            "test",
            vec!["127.0.0.1".into(), "localhost".into()],
        ))
        .unwrap();
    let identity = pki::ServerIdentity::new(&pair).unwrap();
    let serving = pki::server_config(identity, clients.certificate(), false, &[b"h2", b"http/1.1"]).unwrap();
    let to_nodes = clients
        .issue(&pki::CertSpec::client("system:apiserver-node-client", "system:masters"))
        .unwrap();
    let mut config = Config {
        node_tls: Some(Arc::new(
            pki::client_config(servers.certificate(), Some(&to_nodes)).unwrap(),
        )),
        tokens: vec![
            (ADMIN.to_owned(), User::master("admin")),
            ("bob-token".to_owned(), User::new("bob", &["farmers"])),
        ],
        signer: Some(Arc::new(pki::SigningKeys::load_or_create(dir.path()).unwrap())),
        advertise: Some(([192, 0, 2, 1], 6443).into()),
        root_ca: servers.certificate().to_owned(),
        ..Config::default()
    };
    change(&mut config);
    let server = ApiServer::open(config, store.clone()).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let (running, stopped) = (server.clone(), stop.clone());
    tokio::spawn(async move { running.serve(listener, Arc::new(serving), stopped).await });
    let tls = Arc::new(pki::client_config(servers.certificate(), None).unwrap());
    let fixture = Fixture {
        server,
        store,
        address,
        clients,
        tls,
        servers: servers.certificate().to_owned(),
        issuer: servers,
        stop,
        dir,
    };
    let account = json!({"metadata": {"name": "default"}});
    fixture
        .post("/api/v1/namespaces/default/serviceaccounts", &account)
        .await;
    fixture
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.stop.cancel();
        self.server.shut_down();
    }
}

impl Fixture {
    pub fn client(&self) -> Arc<dyn Client> {
        self.server.client(User::master("test"))
    }

    /// Stops the server, and opens another on the same store.
    pub async fn reopen(&self) -> ApiServer {
        self.stop.cancel();
        self.server.shut_down();
        ApiServer::open(Config::default(), self.store.clone()).await.unwrap()
    }

    pub async fn connect(&self) -> TlsStream<TcpStream> {
        self.connect_as(self.tls.clone()).await
    }

    /// A connection whose receive buffer is small.
    pub async fn connect_narrow(&self) -> TlsStream<TcpStream> {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = socket.connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(self.tls.clone())
            .connect(name, stream)
            .await
            .unwrap()
    }

    async fn connect_as(&self, config: Arc<rustls::ClientConfig>) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(config).connect(name, stream).await.unwrap()
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> Response<Incoming> {
        let stream = self.connect().await;
        exchange(stream, request).await
    }

    /// A request with a client certificate of a user in a group.
    pub async fn get_with_certificate(&self, user: &str, group: &str, path: &str) -> Answer {
        let pair = self.clients.issue(&pki::CertSpec::client(user, group)).unwrap();
        let config = Arc::new(pki::client_config(&self.servers, Some(&pair)).unwrap());
        let stream = self.connect_as(config).await;
        let request = Request::get(path)
            .header("host", "localhost")
            .body(Full::default())
            .unwrap();
        read(exchange(stream, request).await).await
    }

    pub async fn call(&self, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        if !headers.iter().any(|(k, _)| *k == "authorization") {
            request = request.header("authorization", format!("Bearer {ADMIN}"));
        }
        for (name, value) in headers.iter().filter(|(_, v)| !v.is_empty()) {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        tokio::time::timeout(DEADLINE, async { read(self.send(request).await).await })
            .await
            .unwrap()
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, &[], "").await
    }

    pub async fn get_as(&self, token: &str, path: &str) -> Answer {
        let value = format!("Bearer {token}");
        self.call(Method::GET, path, &[("authorization", &value)], "").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call(
            Method::POST,
            path,
            &[("content-type", "application/json")],
            body.to_string(),
        )
        .await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.call(
            Method::PUT,
            path,
            &[("content-type", "application/json")],
            body.to_string(),
        )
        .await
    }

    pub async fn patch(&self, path: &str, form: client::PatchType, body: &Value) -> Answer {
        self.call(
            Method::PATCH,
            path,
            &[("content-type", form.content_type())],
            body.to_string(),
        )
        .await
    }

    pub async fn delete(&self, path: &str, options: &Value) -> Answer {
        self.call(
            Method::DELETE,
            path,
            &[("content-type", "application/json")],
            options.to_string(),
        )
        .await
    }

    /// What a node named so serves with: it takes no client but the server.
    pub fn node_tls(&self, node: &str) -> rustls::ServerConfig {
        let pair = self
            .issuer
            .issue(&pki::CertSpec::server(node, vec![node.to_owned()]))
            .unwrap();
        let identity = pki::ServerIdentity::new(&pair).unwrap();
        pki::server_config(identity, self.clients.certificate(), true, &[]).unwrap()
    }

    pub fn path(&self) -> &std::path::Path {
        self.dir.path()
    }
}

pub async fn exchange(stream: TlsStream<TcpStream>, request: Request<Full<Bytes>>) -> Response<Incoming> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender.send_request(request).await.unwrap()
}

pub async fn read(response: Response<Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    Answer {
        code: parts.status.as_u16(),
        headers: parts.headers,
        body: body.collect().await.unwrap().to_bytes(),
    }
}

pub fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": "x"}}, "data": {"k": "v"}})
}

pub fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

pub const MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub const PODS: &str = "/api/v1/namespaces/default/pods";
