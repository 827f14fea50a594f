//! Where the state is kept: etcd, moving, saving, encryption.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use testkit::{Server, ServerOptions, until};

use crate::api_only;

const PATIENCE: Duration = Duration::from_secs(60);

/// An etcd of the test's own, killed when dropped.
struct Etcd {
    client: String,
    peer: String,
    dir: TempDir,
    child: Option<Child>,
}

impl Etcd {
    /// `None`, and said so, if etcd is not installed.
    fn start() -> Result<Option<Self>> {
        if Command::new("etcd").arg("--version").output().is_err() {
            eprintln!("skipped: no etcd program is installed (Debian: etcd-server)");
            return Ok(None);
        }
        let url = || -> Result<String> {
            let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            Ok(format!("http://127.0.0.1:{port}"))
        };
        let mut etcd = Etcd {
            client: url()?,
            peer: url()?,
            dir: tempfile::tempdir()?,
            child: None,
        };
        etcd.launch()?;
        Ok(Some(etcd))
    }

    fn launch(&mut self) -> Result<()> {
        let (client, peer) = (&self.client, &self.peer);
        let mut command = Command::new("etcd");
        command
            .arg("--data-dir")
            .arg(self.dir.path().join("data"))
            .args(["--listen-client-urls", client, "--advertise-client-urls", client])
            .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--logger", "zap"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.child = Some(command.spawn().context("start etcd")?);
        let address = client.trim_start_matches("http://").to_owned();
        until("etcd to listen", PATIENCE, || {
            std::net::TcpStream::connect(&address)
                .map(drop)
                .map_err(|e| e.to_string())
        })
    }

    fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    fn server(&self, more: &[&str]) -> Result<Server> {
        let mut flags = vec!["--datastore-endpoint".to_owned(), self.client.clone()];
        flags.extend(more.iter().map(|f| (*f).to_owned()));
        Server::start(ServerOptions {
            api_only: true,
            flags,
            ..ServerOptions::default()
        })
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("can't end etcd: {error}");
        }
    }
}

/// Runs the binary; what it printed, in whichever way it ended.
fn allmend(arguments: &[&str]) -> Result<(bool, String)> {
    let output = Command::new(Server::binary()).args(arguments).output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

/// Runs a verb that must succeed.
fn done(arguments: &[&str]) -> Result<String> {
    let (ok, text) = allmend(arguments)?;
    ensure!(ok, "{arguments:?}: {text}");
    Ok(text)
}

/// Runs a verb that must fail, with one line.
fn refused(arguments: &[&str], words: &str) -> Result<()> {
    let (ok, text) = allmend(arguments)?;
    ensure!(
        !ok && text.contains(words),
        "{arguments:?}: expected {words:?} in {text}"
    );
    Ok(())
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path")
}

/// Whether the bytes are in a file of the directory.
fn lies_in(dir: &Path, words: &str) -> Result<bool> {
    for entry in std::fs::read_dir(dir)? {
        let content = std::fs::read(entry?.path())?;
        if content.windows(words.len()).any(|w| w == words.as_bytes()) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn revision(server: &Server) -> Result<u64> {
    let list = server.kubectl().ok(&["get", "--raw", "/api/v1/configmaps"])?;
    let list: serde_json::Value = serde_json::from_str(&list)?;
    let text = list["metadata"]["resourceVersion"].as_str().context("a revision")?;
    Ok(text.parse()?)
}

#[test]
fn state_is_kept_in_etcd_and_outages_are_borne() -> Result<()> {
    let Some(mut etcd) = Etcd::start()? else { return Ok(()) };
    let server = etcd.server(&[])?;
    let kubectl = server.kubectl();
    kubectl.ok(&["create", "configmap", "a", "--from-literal=x=1"])?;
    ensure!(
        !server.data_dir().join("server/db").exists(),
        "nothing is kept beside etcd"
    );
    etcd.kill()?;
    let write = kubectl.refused(&["create", "configmap", "b"], "")?;
    ensure!(write.contains("can't be reached"), "{write}");
    let cached = kubectl.ok(&[
        "get",
        "--raw",
        "/api/v1/namespaces/default/configmaps?resourceVersion=0",
    ])?;
    ensure!(cached.contains(r#""name":"a""#), "reads from the cache go on: {cached}");
    let ready = kubectl.refused(&["get", "--raw", "/readyz"], "")?;
    ensure!(ready.contains("store failed: the datastore"), "{ready}");
    etcd.launch()?;
    until("writes to go on", PATIENCE, || {
        kubectl
            .ok(&["create", "configmap", "c"])
            .map(drop)
            .map_err(|e| e.to_string())
    })?;
    kubectl.ok(&["get", "configmap", "a", "c"])?;
    kubectl.ok(&["get", "--raw", "/readyz"])?;
    Ok(())
}

#[test]
fn two_servers_on_one_etcd_agree_and_one_of_them_works() -> Result<()> {
    let Some(etcd) = Etcd::start()? else { return Ok(()) };
    let mut one = etcd.server(&[])?;
    let config = one.data_dir().join("server/encryption.yaml");
    // With other keys a second server would write what the first can't read.
    let stranger = tempfile::tempdir()?;
    let flags = [
        "server",
        "--disable-agent",
        "--bind-address",
        "127.0.0.1",
        "--https-listen-port",
        "0",
    ];
    let place = [
        "--write-kubeconfig",
        "/dev/null",
        "--datastore-endpoint",
        &etcd.client,
        "--data-dir",
    ];
    refused(
        &[&flags[..], &place, &[path(stranger.path())?]].concat(),
        "put the file back",
    )?;
    let two = etcd.server(&["--encryption-config", path(&config)?])?;
    let (a, b) = (one.kubectl(), two.kubectl());
    for n in 0..10 {
        let name = format!("n{n}");
        a.ok(&["create", "secret", "generic", &name, "--from-literal=x=y"])?;
        b.ok(&["get", "secret", &name])?;
        b.ok(&["label", "secret", &name, "seen=yes"])?;
        ensure!(a.ok(&["get", "secret", "-l", "seen", "-o", "name"])?.lines().count() == n + 1);
    }
    let holder = |k: &testkit::Kubectl| {
        k.ok(&[
            "get",
            "lease",
            "-n",
            "kube-system",
            "allmend-controllers",
            "-o",
            "jsonpath={.spec.holderIdentity}",
        ])
    };
    let first = holder(&b)?;
    ensure!(!first.is_empty());
    a.ok(&["create", "deployment", "web", "--image=example.org/x", "--replicas=3"])?;
    let pods = || {
        b.ok(&["get", "pods", "-l", "app=web", "-o", "name"])
            .map(|t| t.lines().count())
    };
    let count = |wanted: usize| match pods() {
        Ok(n) if n == wanted => Ok(()),
        other => Err(format!("{other:?}")),
    };
    until("three pods", PATIENCE, || count(3))?;
    // Given back in order: the other goes on at once, and does nothing twice.
    one.stop()?;
    until("another leader", PATIENCE, || match holder(&b) {
        Ok(now) if now != first && !now.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    b.ok(&["scale", "deployment", "web", "--replicas=5"])?;
    until("five pods", PATIENCE, || count(5))?;
    Ok(())
}

#[test]
fn what_can_not_be_a_datastore_is_named() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let dir = path(dir.path())?;
    for (endpoint, words) in [
        ("127.0.0.1:2379", "must begin with http:// or https://"),
        ("http://127.0.0.1:1", "Connection refused"),
        ("mysql://root@tcp(localhost:3306)/x", "no URL of an etcd member"),
    ] {
        let flags = [
            "server",
            "--disable-agent",
            "--bind-address",
            "127.0.0.1",
            "--https-listen-port",
            "0",
        ];
        let place = [
            "--write-kubeconfig",
            "/dev/null",
            "--data-dir",
            dir,
            "--datastore-endpoint",
            endpoint,
        ];
        refused(&[&flags[..], &place].concat(), words)?;
    }
    Ok(())
}

#[test]
fn state_moves_to_etcd_and_back() -> Result<()> {
    let Some(etcd) = Etcd::start()? else { return Ok(()) };
    let mut server = api_only()?;
    let kubectl = server.kubectl();
    kubectl.ok(&["create", "secret", "generic", "s", "--from-literal=x=hidden"])?;
    kubectl.ok(&["create", "configmap", "c", "--from-literal=x=1"])?;
    let before = revision(&server)?;
    let data = server.data_dir();
    let data = path(&data)?;
    let flags = ["datastore", "migrate", "--from", data, "--to", &etcd.client];
    refused(&flags, "in use by another process")?;
    server.stop()?;
    done(&flags)?;
    refused(&flags, "already has objects")?;

    let other = tempfile::tempdir()?;
    let other = path(other.path())?;
    done(&["datastore", "migrate", "--from", &etcd.client, "--to", other])?;
    refused(
        &["datastore", "migrate", "--from", &etcd.client, "--to", other],
        "has a store already",
    )?;
    // The state that came back from etcd takes the place of the first one.
    let db = server.data_dir().join("server/db");
    std::fs::remove_dir_all(&db)?;
    std::fs::rename(Path::new(other).join("server/db"), &db)?;
    server.launch()?;
    ensure!(revision(&server)? > before, "revisions never go back");
    let secret = kubectl.ok(&["get", "secret", "s", "-o", "jsonpath={.data.x}"])?;
    ensure!(secret == "aGlkZGVu", "{secret}");
    kubectl.ok(&["get", "configmap", "c"])?;
    Ok(())
}

#[test]
fn state_is_saved_from_a_running_server_restored_and_checked() -> Result<()> {
    let mut server = api_only()?;
    let kubectl = server.kubectl();
    kubectl.ok(&["create", "secret", "generic", "s", "--from-literal=x=hidden"])?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("snapshot");
    server.allmend(&["datastore", "snapshot", "save", path(&file)?])?;
    ensure!(
        server
            .allmend(&["datastore", "snapshot", "save", path(&file)?])
            .is_err(),
        "never over a file"
    );
    kubectl.ok(&["create", "configmap", "later"])?;
    let seen = revision(&server)?;
    ensure!(server.allmend(&["datastore", "check"])?.contains("all whole"));
    ensure!(
        server
            .allmend(&["datastore", "snapshot", "restore", path(&file)?])
            .is_err(),
        "never over a store"
    );
    server.stop()?;
    std::fs::remove_dir_all(server.data_dir().join("server/db"))?;
    let junk = dir.path().join("junk");
    std::fs::write(&junk, "junk")?;
    ensure!(
        server
            .allmend(&["datastore", "snapshot", "restore", path(&junk)?])
            .is_err()
    );
    ensure!(!server.data_dir().join("server/db").exists(), "nothing half done");
    server.allmend(&["datastore", "snapshot", "restore", path(&file)?])?;
    server.launch()?;
    kubectl.refused(&["get", "configmap", "later"], "")?;
    ensure!(kubectl.ok(&["get", "secret", "s", "-o", "jsonpath={.data.x}"])? == "aGlkZGVu");
    ensure!(revision(&server)? > seen, "no revision comes twice");
    Ok(())
}

#[test]
fn secrets_are_encrypted_and_keys_are_changed() -> Result<()> {
    let mut server = api_only()?;
    let kubectl = server.kubectl();
    // In the store as kubectl sends it.
    let hidden = "bm90IGluIHRoZSBzdG9yZQ==";
    kubectl.ok(&["create", "secret", "generic", "s", "--from-literal=x=not in the store"])?;
    kubectl.ok(&["create", "configmap", "c", "--from-literal=x=in-the-store"])?;
    let db = server.data_dir().join("server/db");
    ensure!(!lies_in(&db, hidden)? && lies_in(&db, "in-the-store")?);
    let config = server.data_dir().join("server/encryption.yaml");
    let first = std::fs::read_to_string(&config)?;
    server.stop()?;

    // Without the key, and with another, nothing starts, and the reason is said.
    let data = server.data_dir();
    let start = [
        "server",
        "--disable-agent",
        "--bind-address",
        "127.0.0.1",
        "--https-listen-port",
        "0",
    ];
    let start = [
        &start[..],
        &["--write-kubeconfig", "/dev/null", "--data-dir", path(&data)?],
    ]
    .concat();
    std::fs::remove_file(&config)?;
    refused(&start, "put the file back")?;
    let name = first
        .lines()
        .find_map(|l| l.trim().strip_prefix("- name: "))
        .context("a name")?;
    let secret = first
        .lines()
        .find_map(|l| l.trim().strip_prefix("secret: "))
        .context("a secret")?;
    let other = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
    std::fs::write(&config, first.replace(secret, other))?;
    refused(&start, "does not fit")?;
    let (_, checked) = allmend(&["datastore", "check", "--data-dir", path(&server.data_dir())?])?;
    ensure!(checked.contains("/registry/core/secrets/default/s"), "{checked}");

    // A new key in front, everything written anew, the old key away.
    let key = format!("- secretbox:\n      keys:\n      - name: new\n        secret: {other}\n");
    let both = first.replace("- aesgcm", &format!("{key}  - aesgcm"));
    std::fs::write(&config, &both)?;
    server.allmend(&["datastore", "reencrypt"])?;
    ensure!(!lies_in(&db, name)? && lies_in(&db, "k8s:enc:secretbox:v1:new:")?);
    let aesgcm = first.find("- aesgcm").context("aesgcm")?;
    let identity = first.find("- identity").context("identity")?;
    std::fs::write(&config, format!("{}{key}  {}", &first[..aesgcm], &first[identity..]))?;
    server.launch()?;
    ensure!(kubectl.ok(&["get", "secret", "s", "-o", "jsonpath={.data.x}"])? == hidden);
    Ok(())
}
