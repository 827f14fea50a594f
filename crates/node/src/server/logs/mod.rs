//! `GET /containerLogs/{namespace}/{pod}/{container}`: which file, which lines.
//! Must not ask the runtime for the log itself: it is a file of this host.

mod line;
mod read;

use std::path::{Path, PathBuf};

use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use runtime::{ContainerState, ContainerStatus};
use serde_json::Value;
use std::io::SeekFrom;
use tokio::io::AsyncSeekExt;
use tokio::sync::mpsc;

use super::Shared;
use super::answer::{Body, Refusal, stream, text, typed};
use super::route::Query;
use crate::lookup::Found;
use line::{Printer, Wanted};
use read::{Alive, Copy};

/// Chunks of a log that wait for a slow client.
const QUEUE: usize = 8;

/// What of a log is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Options {
    follow: bool,
    previous: bool,
    timestamps: bool,
    tail: Option<u64>,
    since: Option<Timestamp>,
    limit: Option<u64>,
    wanted: Wanted,
}

impl Options {
    fn read(query: &Query, now: Timestamp) -> Result<Self, Refusal> {
        let number = |key: &str| match query.get(key) {
            None | Some("") => Ok(None),
            Some(text) => {
                let number = text.parse::<u64>().map(Some);
                number.map_err(|_| Refusal::bad_request(format!("Unable to decode query: {key}: {text:?}")))
            }
        };
        let seconds = number("sinceSeconds")?;
        let ago = seconds.map(|s| now.saturating_sub(SignedDuration::from_secs(i64::try_from(s).unwrap_or(i64::MAX))));
        // Longer ago than time can tell is as good as always.
        let ago = ago.map(|at| at.unwrap_or(Timestamp::MIN));
        let since = match query.get("sinceTime") {
            None | Some("") => ago,
            Some(time) => {
                let wrong = |_| Refusal::bad_request(format!("Unable to decode query: sinceTime: {time:?}"));
                Some(time.parse().map_err(wrong)?)
            }
        };
        let wanted = match query.get("stream") {
            None | Some("" | "All") => Wanted::All,
            Some("Stdout") => Wanted::Stdout,
            Some("Stderr") => Wanted::Stderr,
            Some(other) => {
                return Err(Refusal::bad_request(format!(
                    "Unable to decode query: stream: {other:?}"
                )));
            }
        };
        Ok(Options {
            follow: query.is_on("follow"),
            previous: query.is_on("previous"),
            timestamps: query.is_on("timestamps"),
            tail: number("tailLines")?,
            limit: number("limitBytes")?,
            since,
            wanted,
        })
    }
}

/// Answers with a log.
pub(super) async fn answer(
    shared: &Shared,
    (namespace, pod, container): (&str, &str, &str),
    query: &Query,
) -> Result<Response<Body>, Refusal> {
    let options = Options::read(query, Timestamp::now())?;
    let found = shared.lookup.find(namespace, pod).await;
    let found = found.ok_or_else(|| Refusal::not_found("pod does not exist"))?;
    let value = found.pod.to_value();
    if !has_container(&value, container) {
        let message = format!("container {container:?} not found in pod {pod:?}");
        return Err(Refusal::not_found(message));
    }
    let chosen = choose(&found, &value, container, options.previous);
    let (path, alive) = match chosen {
        Ok(status) => {
            let alive = Alive {
                runtime: found.runtime.clone(),
                sandbox: found.sandbox.as_ref().map(|s| s.id.clone()).unwrap_or_default(),
                container: status.id.clone(),
            };
            (status.log_path.clone(), options.follow.then_some(alive))
        }
        // The runtime has forgotten the container, but its log may be there still.
        Err(why) => match left_behind(&shared.logs_root, &found, container, options.previous).await {
            Some(path) => (path, None),
            None => return Err(Refusal::bad_request(why)),
        },
    };
    send(shared, path, alive, &options).await
}

async fn send(
    shared: &Shared,
    path: PathBuf,
    alive: Option<Alive>,
    options: &Options,
) -> Result<Response<Body>, Refusal> {
    let mut file = tokio::fs::File::open(&path).await.ok();
    if file.is_none() && alive.is_none() {
        return Ok(text(
            StatusCode::OK,
            "unable to retrieve container logs: the log file is not there\n",
        ));
    }
    let failed = |e: std::io::Error| Refusal::internal(format!("failed to read the log file: {e}"));
    if let (Some(file), Some(lines)) = (&mut file, options.tail) {
        let start = read::tail(file, lines).await.map_err(failed)?;
        file.seek(SeekFrom::Start(start)).await.map_err(failed)?;
    }
    let (sender, receiver) = mpsc::channel(QUEUE);
    let copy = Copy {
        path,
        file,
        printer: Printer::new(options.wanted, options.since, options.timestamps, options.limit),
        alive,
        out: sender,
        stop: shared.stop.clone(),
    };
    shared.streams.spawn(copy.run());
    let mut response = typed(StatusCode::OK, "text/plain", "");
    *response.body_mut() = stream(receiver);
    Ok(response)
}

fn has_container(pod: &Value, name: &str) -> bool {
    ["containers", "initContainers", "ephemeralContainers"]
        .iter()
        .any(|list| {
            let containers = pod.pointer(&format!("/spec/{list}")).and_then(Value::as_array);
            containers.into_iter().flatten().any(|c| c["name"] == name)
        })
}

/// What the API says of a container.
fn status_of<'a>(pod: &'a Value, name: &str) -> Option<&'a Value> {
    let lists = [
        "containerStatuses",
        "initContainerStatuses",
        "ephemeralContainerStatuses",
    ];
    lists.iter().find_map(|list| {
        let statuses = pod.pointer(&format!("/status/{list}")).and_then(Value::as_array)?;
        statuses.iter().find(|s| s["name"] == name)
    })
}

/// The attempt whose log is meant, or why there is none.
fn choose<'a>(found: &'a Found, pod: &Value, name: &str, previous: bool) -> Result<&'a ContainerStatus, String> {
    let pod_name = found.pod.name();
    let all = found.sandbox.iter().flat_map(|s| &s.containers);
    let mut attempts: Vec<&ContainerStatus> = all
        .filter(|c| c.name == name && c.state != ContainerState::Created)
        .collect();
    attempts.sort_by_key(|c| (c.attempt, c.created_at));
    let status = status_of(pod, name);
    let waiting = status.and_then(|s| s.pointer("/state/waiting"));
    if previous {
        // Between two attempts the last one is already the previous one.
        let newest_counts = waiting.is_some() && attempts.last().is_some_and(|c| c.state == ContainerState::Exited);
        let found = if newest_counts {
            attempts.last()
        } else {
            attempts.iter().rev().nth(1)
        };
        let missing = || format!("previous terminated container {name:?} in pod {pod_name:?} not found");
        return found.copied().ok_or_else(missing);
    }
    attempts.last().copied().ok_or_else(|| {
        let reason = waiting
            .and_then(|w| w["reason"].as_str())
            .unwrap_or("ContainerCreating");
        let why = match reason {
            "ErrImagePull" => "image can't be pulled",
            "ImagePullBackOff" => "trying and failing to pull image",
            other => other,
        };
        format!("container {name:?} in pod {pod_name:?} is waiting to start: {why}")
    })
}

/// The log of a container that the runtime does not know any more.
async fn left_behind(root: &Path, found: &Found, container: &str, previous: bool) -> Option<PathBuf> {
    let pod = &found.pod;
    let plain = |s: &str| !s.is_empty() && !s.contains('/') && s != "..";
    if !plain(container)
        || found
            .sandbox
            .as_ref()
            .is_some_and(|s| s.containers.iter().any(|c| c.name == container))
    {
        return None;
    }
    let directory = root
        .join(format!("{}_{}_{}", pod.namespace(), pod.name(), pod.uid()))
        .join(container);
    let mut entries = tokio::fs::read_dir(&directory).await.ok()?;
    let mut attempts = Vec::new();
    while let Ok(Some(entry)) = entries.next_entry().await {
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|n| n.strip_suffix(".log"))
            .and_then(|n| n.parse::<u32>().ok());
        attempts.extend(number);
    }
    attempts.sort_unstable();
    let attempt = attempts.iter().rev().nth(usize::from(previous))?;
    Some(directory.join(format!("{attempt}.log")))
}
