//! An etcd of the test's own, of one member or of several, on loopback.

use crate::Store;
use crate::etcd::{Etcd, Options};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a test waits for what must come.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

struct Member {
    name: String,
    client: String,
    peer: String,
    data: PathBuf,
    child: Option<Child>,
}

/// Killed when dropped.
pub(crate) struct Servers {
    members: Vec<Member>,
    _dir: tempfile::TempDir,
}

fn url() -> String {
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("a port")
        .port();
    format!("http://127.0.0.1:{port}")
}

impl Servers {
    /// `None`, and said so, if etcd is not installed.
    pub(crate) async fn start(count: usize) -> Option<Self> {
        if Command::new("etcd").arg("--version").output().is_err() {
            eprintln!("skipped: no etcd program is installed (Debian: etcd-server)");
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let member = |n: usize| Member {
            name: format!("m{n}"),
            client: url(),
            peer: url(),
            data: dir.path().join(format!("m{n}")),
            child: None,
        };
        let mut servers = Self {
            members: (0..count).map(member).collect(),
            _dir: dir,
        };
        for at in 0..count {
            servers.launch(at);
        }
        servers.ready().await;
        Some(servers)
    }

    /// Starts a member, or starts it again on its data.
    pub(crate) fn launch(&mut self, at: usize) {
        let all: Vec<String> = self.members.iter().map(|m| format!("{}={}", m.name, m.peer)).collect();
        let member = &mut self.members[at];
        let (client, peer) = (&member.client, &member.peer);
        let child = Command::new("etcd")
            .args(["--name", &member.name, "--data-dir"])
            .arg(&member.data)
            .args(["--listen-client-urls", client, "--advertise-client-urls", client])
            .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
            .args([
                "--initial-cluster",
                &all.join(","),
                "--logger",
                "zap",
                "--log-level",
                "error",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        member.child = Some(child.expect("start etcd"));
    }

    /// Kills a member as a power cut would.
    pub(crate) fn kill(&mut self, at: usize) {
        if let Some(mut child) = self.members[at].child.take() {
            child.kill().expect("kill etcd");
            child.wait().expect("wait for etcd");
        }
    }

    /// The member that leads; none while there is an election.
    pub(crate) async fn leader(&self) -> Option<usize> {
        for (at, member) in self.members.iter().enumerate() {
            let asked = async {
                let mut client = etcd_client::Client::connect([&member.client], None).await?;
                client.status().await
            };
            let Ok(Ok(status)) = tokio::time::timeout(Duration::from_secs(1), asked).await else {
                continue;
            };
            if status.leader() != 0 && Some(status.leader()) == status.header().map(|h| h.member_id()) {
                return Some(at);
            }
        }
        None
    }

    pub(crate) fn options(&self) -> Options {
        Options::new(self.members.iter().map(|m| m.client.clone()))
    }

    /// Waits until the servers answer.
    pub(crate) async fn ready(&self) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let options = Options {
                timeout: Duration::from_secs(1),
                filling: true,
                ..self.options()
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

impl Drop for Servers {
    fn drop(&mut self) {
        for at in 0..self.members.len() {
            self.kill(at);
        }
    }
}
