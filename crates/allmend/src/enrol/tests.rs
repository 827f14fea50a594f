//! Joining, against a real API server and the control loop of certificates, in this process.

use super::*;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use apiserver::{ApiServer, Config, User};
use client::{Client, ClientExt};
use controllers::CertificateController;
use driver::{Driver, Recorder};
use informer::Informers;
use kinds::resources::{CERTIFICATE_REQUESTS, NODES, SECRETS};
use pki::{Authority, CertSpec, ServerIdentity};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::certifier::Keys;
use crate::signing::Keeper;

const SECRET: &str = "s3cret";
const IP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

struct Cluster {
    url: String,
    token: String,
    api: ApiServer,
    stop: CancellationToken,
    dir: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
        self.api.shut_down();
    }
}

async fn start() -> Cluster {
    let dir = tempfile::tempdir().unwrap();
    let options = store::embedded::Options::new(dir.path().join("db")).stamp(apiserver::stamp());
    let store: Arc<dyn store::Store> = Arc::new(store::Embedded::open(options).unwrap());
    let servers = Arc::new(Authority::load_or_create(dir.path(), "server-ca").unwrap());
    let clients = Arc::new(Authority::load_or_create(dir.path(), "client-ca").unwrap());
    let groups = [
        "system:bootstrappers",
        "system:bootstrappers:allmend:default-node-token",
    ];
    let config = Config {
        tokens: vec![(SECRET.to_owned(), User::new("system:bootstrap:allmend", &groups))],
        root_ca: servers.certificate().to_owned(),
        ..Config::default()
    };
    let api = ApiServer::open(config, store).await.unwrap();
    let serving = servers
        .issue(&CertSpec::server("test", vec!["127.0.0.1".into()]))
        .unwrap();
    let identity = ServerIdentity::new(&serving).unwrap();
    let tls = pki::server_config(identity, clients.certificate(), false, &[b"h2"]).unwrap();
    let listener = tokio::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
        .await
        .unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let (running, stopped) = (api.clone(), stop.clone());
    tokio::spawn(async move { running.serve(listener, Arc::new(tls), stopped).await });
    let token = JoinToken::new(servers.certificate(), SECRET).to_string();
    let client: Arc<dyn Client> = api.client(User::master("test"));
    let driver = Driver {
        informers: Arc::new(Informers::new(client.clone())),
        recorder: Recorder::new(client.clone()),
        client,
    };
    let certifier = Arc::new(Keys {
        servers,
        clients,
        reserved: ["kubernetes".to_owned()].into(),
        core: api.core().clone(),
    });
    tokio::spawn(driver::run(
        driver,
        Arc::new(CertificateController { certifier }),
        stop.clone(),
    ));
    Cluster {
        url,
        token,
        api,
        stop,
        dir,
    }
}

async fn refusal(cluster: &Cluster, token: Option<&str>, node: &str) -> String {
    let place = Place::new(&cluster.dir.path().join("refused"));
    match enrol(&cluster.url, token, &place, node).await {
        Ok(_) => panic!("{node} joined"),
        Err(error) => format!("{error:#}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_joins_and_is_known_again() {
    let cluster = start().await;
    let place = Place::new(&cluster.dir.path().join("node"));
    let member = enrol(&cluster.url, Some(&cluster.token), &place, "n1").await.unwrap();
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    member.client.create_object(&NODES, "", &node).await.unwrap();
    let secrets = member.client.list(&SECRETS, "", &client::ListOptions::default()).await;
    assert_eq!(secrets.err().unwrap().code, 403);
    let mode = |path: PathBuf| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode(place.client()), 0o600);
    // No token is needed again, and one of the same cluster does no harm.
    let again = enrol(&cluster.url, None, &place, "n1").await.unwrap();
    again.client.get(&NODES, "", "n1").await.unwrap();
    assert!(enrol(&cluster.url, Some(&cluster.token), &place, "n1").await.is_ok());
    let other = format!("A10{}::server:x", "0".repeat(64));
    let error = enrol(&cluster.url, Some(&other), &place, "n1").await.err().unwrap();
    assert!(format!("{error:#}").contains("another cluster"), "{error:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_join_is_told_why() {
    let cluster = start().await;
    let fingerprint = format!("A10{}::server:{SECRET}", "0".repeat(64));
    let wrong = format!("{}x", cluster.token);
    let admin = cluster.api.client(User::master("test"));
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "taken"}});
    admin.create_object(&NODES, "", &node).await.unwrap();
    let table: &[(Option<&str>, &str, &str)] = &[
        (None, "n1", "--token"),
        (Some("wrong"), "n1", "does not know the token's secret"),
        (Some(&wrong), "n1", "does not know the token's secret"),
        (Some(&fingerprint), "n1", "fingerprint"),
        (Some(&cluster.token), "taken", "delete node taken first"),
        (Some(&cluster.token), "kubernetes", "a name of the API server"),
    ];
    for (token, node, words) in table {
        let said = refusal(&cluster, *token, node).await;
        assert!(said.contains(words) && !said.contains('\n'), "{said}");
        assert!(!said.contains(SECRET), "secrets are not printed");
    }
    assert!(!Place::new(&cluster.dir.path().join("refused")).client().exists());
    // The secret is good for asking, and for nothing else.
    let tls = pki::client_config(&cluster_authority(&cluster).await, None).unwrap();
    let bootstrap = HttpClient::new(&cluster.url, tls, Some(SECRET)).unwrap();
    assert_eq!(bootstrap.get(&NODES, "", "taken").await.err().unwrap().code, 403);
    // A bare secret will do, where one must.
    let place = Place::new(&cluster.dir.path().join("bare"));
    assert!(enrol(&cluster.url, Some(SECRET), &place, "n2").await.is_ok());
}

#[test]
fn refusals_name_the_remedy() {
    let broken =
        |why: &str| Status::unavailable(format!("connection to the API server: invalid peer certificate: {why}"));
    for (status, remedy) in [
        (Status::unauthorized(), "allmend token"),
        (broken("certificate not valid for name \"10.0.0.1\""), "--tls-san"),
        (broken("certificate not valid yet: verification time 0 (UNIX)"), "clock"),
        (broken("UnknownIssuer"), "check --server"),
        (Status::internal("x"), "https://a:1"),
    ] {
        let said = refused("https://a:1", &status).to_string();
        assert!(said.contains(remedy), "{said}");
    }
}

async fn cluster_authority(cluster: &Cluster) -> String {
    super::authority(&cluster.url).await.unwrap()
}

/// Certificates that have run out of most of their life are replaced, in the files and in use.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_without_a_restart() {
    let cluster = start().await;
    let place = Place::new(&cluster.dir.path().join("node"));
    let member = enrol(&cluster.url, Some(&cluster.token), &place, "n1").await.unwrap();
    let first = Place::read(&place.client()).unwrap();
    // One that holds for a little longer only: it is past its time.
    let clients = Authority::load_or_create(cluster.dir.path(), "client-ca").unwrap();
    let mut spec = CertSpec::client("system:node:n1", "system:nodes");
    spec.validity = std::time::Duration::from_secs(120);
    let old = clients.issue(&spec).unwrap();
    Place::write(&place.client(), &old).unwrap();
    member.identity.replace(&old).unwrap();
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    member.client.create_object(&NODES, "", &node).await.unwrap();
    let serves = ServerIdentity::none();
    let keeper = Keeper {
        client: member.client.clone(),
        place: place.clone(),
        node: "n1".into(),
        ip: IP,
        calls: member.identity.clone(),
        serves: serves.clone(),
    };
    let keeping = tokio::spawn(keeper.run());
    // What it serves with is signed once the Node has the address, not before.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    let wait = async |what: &str, done: &dyn Fn() -> bool| {
        while !done() {
            assert!(tokio::time::Instant::now() < deadline, "{what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let renewed = || {
        Place::read(&place.client())
            .is_some_and(|p| p.certificate != first.certificate && !p.certificate.starts_with(&old.certificate))
    };
    wait("a new client certificate", &renewed).await;
    assert!(!place.serving().exists());
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": IP.to_string()}]}});
    member
        .client
        .merge_patch(&NODES, "", "n1", "status", &status)
        .await
        .unwrap();
    wait("a serving certificate", &|| place.serving().exists()).await;
    let pair = Place::read(&place.serving()).unwrap();
    let (_, names) = pki::certificate_names(&pair.certificate).unwrap();
    assert_eq!(names, ["n1", &IP.to_string()]);
    keeping.abort();
    let admin = cluster.api.client(User::master("test"));
    let all = admin
        .list(&CERTIFICATE_REQUESTS, "", &client::ListOptions::default())
        .await
        .unwrap();
    assert_eq!(all.items.len(), 3, "nothing is asked for twice");
    let again = enrol(&cluster.url, None, &place, "n1").await.unwrap();
    again.client.get(&NODES, "", "n1").await.unwrap();
}
