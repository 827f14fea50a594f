//! The agent's end of CNI: a socket that answers plugins, and the files through which containerd
//! finds them.
//!
//! Must not print CNI results: that is the plugin's side.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Address, Answer, Failure, PLUGINS, Request, Verb, code};
use crate::agent::Agent;
use crate::book::write_atomically;
use crate::{Config, NetworkError};

/// Longest request.
const LIMIT: u64 = 1 << 20;

/// Listens, and then tells containerd.
pub(crate) fn start(
    config: &Config,
    agent: Arc<Agent>,
    stop: CancellationToken,
    tasks: &TaskTracker,
) -> Result<(), NetworkError> {
    let listener = listen(&config.socket()).map_err(NetworkError::host("listen for CNI plugins"))?;
    announce(config).map_err(NetworkError::host("write the CNI files"))?;
    let requests = tasks.clone();
    tasks.spawn(async move {
        loop {
            let stream = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match stream {
                Ok((stream, _)) => {
                    requests.spawn(serve(stream, agent.clone()));
                }
                Err(error) => tracing::warn!(%error, "cannot accept a CNI plugin"),
            }
        }
    });
    Ok(())
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// The plugins first: containerd reads the description as soon as it is there.
fn announce(config: &Config) -> io::Result<()> {
    let program = std::env::current_exe()?;
    fs::create_dir_all(config.plugins())?;
    for name in PLUGINS {
        let (link, fresh) = (
            config.plugins().join(name),
            config.plugins().join(format!(".{name}.new")),
        );
        if fs::read_link(&link).is_ok_and(|to| to == program) {
            continue;
        }
        match fs::remove_file(&fresh) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        symlink(&program, &fresh)?;
        fs::rename(fresh, link)?;
    }
    let conflist = json!({
        "cniVersion": "1.0.0",
        "name": "allmend",
        "plugins": [{
            "type": PLUGINS[0],
            "socket": config.socket(),
            "capabilities": {"portMappings": true},
        }],
    });
    let bytes = serde_json::to_vec_pretty(&conflist)?;
    if fs::read(config.conflist()).is_ok_and(|now| now == bytes) {
        return Ok(());
    }
    write_atomically(&config.conflist(), &bytes)
}

async fn serve(stream: UnixStream, agent: Arc<Agent>) {
    if let Err(error) = converse(stream, &agent).await {
        tracing::debug!(%error, "a CNI plugin went away");
    }
}

async fn converse(mut stream: UnixStream, agent: &Arc<Agent>) -> io::Result<()> {
    let mut line = String::new();
    let (reader, mut writer) = stream.split();
    BufReader::new(reader.take(LIMIT)).read_line(&mut line).await?;
    let answer = match serde_json::from_str::<Request>(&line) {
        Ok(request) => answer(agent, request).await,
        Err(error) => failure(code::DECODE, format!("decode the request: {error}")),
    };
    let mut bytes = serde_json::to_vec(&answer)?;
    bytes.push(b'\n');
    writer.write_all(&bytes).await
}

async fn answer(agent: &Arc<Agent>, request: Request) -> Answer {
    let id = request.container_id;
    let done = match request.command {
        Verb::Add => agent.attach(&id, &request.netns, request.port_mappings).await.map(Some),
        Verb::Del => agent.detach(&id).await.map(|()| None),
        Verb::Check if agent.knows(&id) => Ok(None),
        Verb::Check => return failure(code::UNKNOWN_CONTAINER, format!("sandbox {id} is not on the network")),
    };
    match done {
        Ok(attached) => Answer {
            error: None,
            address: attached.map(|attached| Address {
                address: attached.address,
                gateway: attached.gateway,
                host_link: attached.plugged.host_link,
                mac: attached.plugged.mac,
            }),
        },
        Err(error @ NetworkError::Late { .. }) => failure(code::TRY_AGAIN, error.chain()),
        Err(error) => failure(code::FAILED, error.chain()),
    }
}

fn failure(code: u32, msg: String) -> Answer {
    Answer {
        error: Some(Failure { code, msg }),
        address: None,
    }
}
