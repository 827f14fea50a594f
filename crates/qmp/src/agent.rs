//! The QEMU guest agent: a program inside the guest, so everything it says is
//! the guest's word and may be a lie, endless or missing. Hence a reader of its
//! own with bounds instead of the monitor's library, which trusts its peer.
//!
//! Must not decide anything.

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as B64;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::QmpError;

/// Longest answer: `guest-exec` returns up to 16 MiB of output in base64.
const LONGEST_ANSWER: u64 = 24 << 20;
/// An answer without an end: the guest closed the channel, or talks without one.
const BROKE_OFF: &str = "the answer broke off or is too long";
/// How long the agent may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What the guest says it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestOs {
    /// Fields of `guest-get-osinfo`, by their names there.
    pub fields: Vec<(String, String)>,
}

/// A network interface as the guest sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestInterface {
    /// Name in the guest.
    pub name: String,
    /// MAC address, lower case; empty when it has none.
    pub mac: String,
    /// Addresses.
    pub addresses: Vec<String>,
}

/// A command's end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestExec {
    /// Exit code; 128 and the signal when a signal ended it.
    pub exit_code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

/// A connection to the agent. QEMU admits one at a time.
pub struct GuestAgent {
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
}

impl GuestAgent {
    /// Connects and waits for the agent's answer to a synchronisation.
    pub async fn connect(path: &Path) -> Result<Self, QmpError> {
        let stream = UnixStream::connect(path).await.map_err(|source| QmpError::Connection {
            path: path.to_owned(),
            source,
        })?;
        let (read, write) = stream.into_split();
        let mut agent = GuestAgent {
            read: BufReader::new(read),
            write,
        };
        agent.synchronise().await?;
        Ok(agent)
    }

    /// Answers to those who asked before us may be on their way: skip them.
    async fn synchronise(&mut self) -> Result<(), QmpError> {
        let command = "guest-sync";
        let id = i64::from(std::process::id()) * 1000 + i64::from(rand_low());
        let line = json!({"execute": command, "arguments": {"id": id}}).to_string();
        tokio::time::timeout(ANSWER_TIMEOUT, async {
            self.send(command, &line).await?;
            loop {
                let answer = self.receive(command).await?;
                if answer["return"].as_i64() == Some(id) {
                    return Ok(());
                }
            }
        })
        .await
        .unwrap_or(Err(QmpError::NoAnswer { command }))
    }

    /// Which system runs in the guest.
    pub async fn os(&mut self) -> Result<GuestOs, QmpError> {
        let answer = self.execute("guest-get-osinfo", Value::Null).await?;
        let fields = answer.as_object().into_iter().flatten();
        let fields = fields.filter_map(|(k, v)| Some((k.clone(), bounded(v.as_str()?))));
        Ok(GuestOs {
            fields: fields.collect(),
        })
    }

    /// The guest's network interfaces without its loopback.
    pub async fn interfaces(&mut self) -> Result<Vec<GuestInterface>, QmpError> {
        let answer = self.execute("guest-network-get-interfaces", Value::Null).await?;
        let mut out = Vec::new();
        for interface in answer.as_array().into_iter().flatten().take(64) {
            let name = bounded(interface["name"].as_str().unwrap_or_default());
            if name == "lo" {
                continue;
            }
            let addresses = interface["ip-addresses"].as_array().into_iter().flatten().take(64);
            out.push(GuestInterface {
                name,
                mac: bounded(interface["hardware-address"].as_str().unwrap_or_default()).to_ascii_lowercase(),
                addresses: addresses
                    .filter_map(|a| a["ip-address"].as_str().map(bounded))
                    .collect(),
            });
        }
        Ok(out)
    }

    /// Begins a command in the guest; its pid there.
    pub async fn exec(&mut self, command: &[String]) -> Result<i64, QmpError> {
        let (path, arguments) = command.split_first().map_or(("", &[][..]), |(p, a)| (p.as_str(), a));
        let call = json!({"path": path, "arg": arguments, "capture-output": true});
        let answer = self.execute("guest-exec", call).await?;
        Ok(answer["pid"].as_i64().unwrap_or(-1))
    }

    /// How a command ended; `None` while it runs.
    pub async fn exec_status(&mut self, pid: i64) -> Result<Option<GuestExec>, QmpError> {
        let answer = self.execute("guest-exec-status", json!({"pid": pid})).await?;
        if answer["exited"].as_bool() != Some(true) {
            return Ok(None);
        }
        let data = |field: &str| {
            B64.decode(answer[field].as_str().unwrap_or_default())
                .unwrap_or_default()
        };
        let number = |field: &str| answer[field].as_i64().and_then(|n| i32::try_from(n).ok());
        let code = number("exitcode").or_else(|| number("signal").map(|s| s.saturating_add(128)));
        Ok(Some(GuestExec {
            exit_code: code.unwrap_or(0),
            stdout: data("out-data"),
            stderr: data("err-data"),
        }))
    }

    pub(crate) async fn execute(&mut self, command: &'static str, arguments: Value) -> Result<Value, QmpError> {
        let mut request = json!({"execute": command});
        if !arguments.is_null() {
            request["arguments"] = arguments;
        }
        let line = request.to_string();
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, async {
            self.send(command, &line).await?;
            self.receive(command).await
        });
        let mut answer = asked.await.unwrap_or(Err(QmpError::NoAnswer { command }))?;
        if let Some(message) = answer["error"]["desc"].as_str() {
            return Err(QmpError::Refused {
                command,
                message: bounded(message),
            });
        }
        Ok(answer["return"].take())
    }

    /// Whether an error says that the agent hung up.
    pub(crate) fn is_gone(&self, message: &str) -> bool {
        message == BROKE_OFF
    }

    async fn send(&mut self, command: &'static str, line: &str) -> Result<(), QmpError> {
        let bytes = format!("{line}\n");
        let sent = self.write.write_all(bytes.as_bytes()).await;
        sent.map_err(|e| broken(command, &e.to_string()))
    }

    async fn receive(&mut self, command: &'static str) -> Result<Value, QmpError> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.read).take(LONGEST_ANSWER);
        let read = bounded.read_until(b'\n', &mut line).await;
        read.map_err(|e| broken(command, &e.to_string()))?;
        if line.last() != Some(&b'\n') {
            return Err(broken(command, BROKE_OFF));
        }
        // The agent marks the beginning of some answers with 0xff.
        let start = line.iter().rposition(|b| *b == 0xff).map_or(0, |i| i + 1);
        serde_json::from_slice(&line[start..]).map_err(|e| broken(command, &e.to_string()))
    }
}

fn broken(command: &'static str, why: &str) -> QmpError {
    QmpError::Refused {
        command,
        message: why.to_owned(),
    }
}

pub(crate) fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(256).collect()
}

/// Enough to tell two of our own connections apart.
fn rand_low() -> u16 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |d| (d.subsec_nanos() >> 10) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    /// An agent that first says something stale, then answers by the command's name.
    async fn fake(listener: UnixListener) {
        let (stream, _) = listener.accept().await.unwrap();
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        write.write_all(b"{\"return\": 1}\n").await.unwrap();
        while let Ok(Some(line)) = lines.next_line().await {
            let request: Value = serde_json::from_str(&line).unwrap();
            let answer = match request["execute"].as_str().unwrap() {
                "guest-sync" => json!({"return": request["arguments"]["id"]}),
                "guest-get-osinfo" => json!({"return": {"id": "debian", "n": 3}}),
                "guest-exec" => json!({"return": {"pid": 7}}),
                "guest-exec-status" => json!({"return": {"exited": true, "exitcode": 3, "out-data": "aGk="}}),
                _ => json!({"error": {"class": "CommandNotFound", "desc": "no such command"}}),
            };
            write.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn answers_are_read_and_stale_ones_skipped() {
        let path = std::env::temp_dir().join(format!("qga-{}-{}", std::process::id(), rand_low()));
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(fake(listener));
        let mut agent = GuestAgent::connect(&path).await.unwrap();
        let _ = std::fs::remove_file(&path);
        assert_eq!(
            agent.os().await.unwrap().fields,
            [("id".to_owned(), "debian".to_owned())]
        );
        let pid = agent.exec(&["true".into()]).await.unwrap();
        let end = agent.exec_status(pid).await.unwrap().unwrap();
        assert_eq!((end.exit_code, end.stdout.as_slice()), (3, &b"hi"[..]));
        let refused = agent.interfaces().await.unwrap_err();
        assert!(refused.to_string().contains("no such command"));
    }
}
