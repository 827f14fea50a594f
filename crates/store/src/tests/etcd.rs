//! The same conformance suite on a real etcd, where its program is installed.

use crate::etcd::{Etcd, Options};
use crate::{Error, Store};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An etcd of our own on loopback, killed when dropped.
struct Server {
    child: Child,
    url: String,
    _dir: tempfile::TempDir,
}

impl Server {
    /// `None` if etcd is not installed.
    fn start() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let url = || {
            let port = TcpListener::bind("127.0.0.1:0")
                .and_then(|l| l.local_addr())
                .expect("a port")
                .port();
            format!("http://127.0.0.1:{port}")
        };
        let (client, peer) = (url(), url());
        let started = Command::new("etcd")
            .arg("--data-dir")
            .arg(dir.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args([
                "--initial-cluster",
                &format!("default={peer}"),
                "--logger",
                "zap",
                "--log-level",
                "error",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match started {
            Ok(child) => Some(Self {
                child,
                url: client,
                _dir: dir,
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => panic!("can't start etcd: {error}"),
        }
    }

    async fn ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let options = Options {
                timeout: Duration::from_secs(1),
                ..Options::new([&self.url])
            };
            let answer = match Etcd::connect(options).await {
                Ok(store) => store.revision().await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(_) => return,
                Err(error) if Instant::now() > deadline => panic!("etcd does not answer: {error:?}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("can't end etcd: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance() {
    let Some(server) = Server::start() else {
        eprintln!("skipped: no etcd program is installed (Debian: etcd-server)");
        return;
    };
    server.ready().await;
    crate::conformance::run(async |stamp| {
        let options = Options {
            stamp,
            ..Options::new([&server.url])
        };
        Arc::new(Etcd::connect(options).await.expect("connect")) as Arc<dyn Store>
    })
    .await;
}

#[tokio::test]
async fn an_absent_etcd_is_named() {
    let options = Options {
        timeout: Duration::from_secs(2),
        ..Options::new(["http://127.0.0.1:1"])
    };
    let error = Etcd::connect(options)
        .await
        .map(drop)
        .expect_err("nobody listens there");
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert!(error.to_string().contains("http://127.0.0.1:1"), "{error}");
}
