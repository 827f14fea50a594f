//! Logs from real files.

use std::path::PathBuf;

use runtime::ContainerStatus;
use tokio::io::AsyncWriteExt;

use super::*;

/// A pod `p` whose container `c` has these attempts, with log files of their own.
async fn logged(logs: &[(ContainerState, &str)], status: Value) -> (Stand, Vec<PathBuf>) {
    let mut object = pod("p", json!({})).to_value();
    object["status"]["containerStatuses"][0]["state"] = status;
    let stand = stand(
        vec![Arc::new(Object::from_value(object).unwrap())],
        FakeRuntime::default(),
        None,
    )
    .await;
    let mut paths = Vec::new();
    let mut containers = Vec::new();
    for (i, (state, text)) in logs.iter().enumerate() {
        let log_path = stand.directory.path().join(format!("{i}.log"));
        std::fs::write(&log_path, text).unwrap();
        paths.push(log_path.clone());
        containers.push(ContainerStatus {
            log_path,
            ..attempt("c", i as u32, *state)
        });
    }
    *lock(&stand.runtime.sandbox) = Some(sandbox("p", containers));
    (stand, paths)
}

fn line(n: u32) -> String {
    let stream = if n.is_multiple_of(2) { "stdout" } else { "stderr" };
    format!("2026-01-01T00:00:{n:02}Z {stream} F line {n}\n")
}

fn lines(range: std::ops::Range<u32>) -> String {
    range.map(line).collect()
}

#[tokio::test]
async fn lines_are_chosen() {
    let text = lines(0..10);
    let (stand, _) = logged(&[(ContainerState::Running, &text)], json!({"running": {}})).await;
    let log = async |query: &str| stand.get(&format!("/containerLogs/ns/p/c?{query}")).await;
    let all: String = (0..10).map(|n| format!("line {n}\n")).collect();
    assert_eq!(log("").await, (200, all.clone()));
    assert_eq!(log("tailLines=2").await.1, "line 8\nline 9\n");
    assert_eq!(log("tailLines=0").await.1, "");
    assert_eq!(log("tailLines=99").await.1, all);
    assert_eq!(log("sinceTime=2026-01-01T00:00:09Z").await.1, "line 9\n");
    assert_eq!(log("sinceSeconds=99999999999999").await.1, all);
    assert_eq!(log("limitBytes=9").await.1, "line 0\nli");
    assert_eq!(
        log("tailLines=1&timestamps=true").await.1,
        "2026-01-01T00:00:09.000000000Z line 9\n"
    );
    assert_eq!(log("stream=Stderr&tailLines=4").await.1, "line 7\nline 9\n");
    for wrong in [
        "tailLines=-1",
        "tailLines=x",
        "sinceTime=x",
        "stream=x",
        "limitBytes=1.5",
    ] {
        let (status, message) = stand.refusal(&format!("/containerLogs/ns/p/c?{wrong}")).await;
        assert_eq!(status, 400, "{wrong}");
        assert!(message.starts_with("Unable to decode query"), "{message}");
    }
}

#[tokio::test]
async fn a_long_log_is_read_from_its_end() {
    let text: String = (0..20_000)
        .map(|n| format!("2026-01-01T00:00:00Z stdout F {n:0>50}\n"))
        .collect();
    let (stand, _) = logged(&[(ContainerState::Exited, &text)], json!({"terminated": {}})).await;
    let (_, tail) = stand.get("/containerLogs/ns/p/c?tailLines=5000").await;
    assert_eq!(tail.lines().count(), 5000);
    assert!(tail.starts_with(&format!("{:0>50}\n", 15_000)));
    assert_eq!(stand.get("/containerLogs/ns/p/c").await.1.lines().count(), 20_000);
}

#[tokio::test]
async fn the_attempt_before_has_a_log_of_its_own() {
    let logs = [
        (ContainerState::Exited, line(1)),
        (ContainerState::Exited, line(2)),
        (ContainerState::Running, line(3)),
    ];
    let logs = logs.each_ref().map(|(s, l)| (*s, l.as_str()));
    let (stand, _) = logged(&logs, json!({"running": {}})).await;
    assert_eq!(stand.get("/containerLogs/ns/p/c").await.1, "line 3\n");
    assert_eq!(stand.get("/containerLogs/ns/p/c?previous=true").await.1, "line 2\n");
    // Waiting for the next attempt, the last one is both.
    let (stand, _) = logged(&logs[..2], json!({"waiting": {"reason": "CrashLoopBackOff"}})).await;
    assert_eq!(stand.get("/containerLogs/ns/p/c").await.1, "line 2\n");
    assert_eq!(stand.get("/containerLogs/ns/p/c?previous=true").await.1, "line 2\n");
}

#[tokio::test]
async fn refusals_have_the_words_that_people_know() {
    let refusals = [
        (json!({"waiting": {"reason": "ContainerCreating"}}), "ContainerCreating"),
        (json!({"waiting": {"reason": "ErrImagePull"}}), "image can't be pulled"),
        (
            json!({"waiting": {"reason": "ImagePullBackOff"}}),
            "trying and failing to pull image",
        ),
    ];
    for (state, why) in refusals {
        let (stand, _) = logged(&[(ContainerState::Created, "")], state).await;
        let message = format!("container \"c\" in pod \"p\" is waiting to start: {why}");
        assert_eq!(stand.refusal("/containerLogs/ns/p/c").await, (400, message));
    }
    let (stand, _) = logged(&[(ContainerState::Running, "")], json!({"running": {}})).await;
    let message = "previous terminated container \"c\" in pod \"p\" not found";
    assert_eq!(
        stand.refusal("/containerLogs/ns/p/c?previous=true").await,
        (400, message.into())
    );
    let message = "container \"x\" not found in pod \"p\"";
    assert_eq!(stand.refusal("/containerLogs/ns/p/x").await, (404, message.into()));
    assert_eq!(
        stand.refusal("/containerLogs/ns/x/c").await,
        (404, "pod does not exist".into())
    );
}

#[tokio::test]
async fn a_log_outlives_its_container() {
    let (stand, _) = logged(&[], json!({"terminated": {}})).await;
    let directory = stand.directory.path().join("pods/ns_p_uid-p/c");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("9.log"), line(9)).unwrap();
    std::fs::write(directory.join("10.log"), line(10)).unwrap();
    std::fs::write(directory.join("11.log.20260101-000000"), line(11)).unwrap();
    assert_eq!(stand.get("/containerLogs/ns/p/c").await.1, "line 10\n");
    assert_eq!(stand.get("/containerLogs/ns/p/c?previous=1").await.1, "line 9\n");
}

/// What has come of a log that is followed.
struct Followed {
    body: Incoming,
    text: String,
}

impl Followed {
    async fn until(&mut self, wanted: &str) {
        let reading = async {
            while self.text != wanted {
                assert!(wanted.starts_with(&self.text), "{:?}", self.text);
                let frame = self.body.frame().await.expect("more").unwrap();
                let data = frame.into_data().unwrap_or_default();
                self.text.push_str(&String::from_utf8_lossy(&data));
            }
        };
        tokio::time::timeout(LIMIT, reading).await.expect("the text in time");
    }

    async fn end(mut self) {
        let last = tokio::time::timeout(LIMIT, self.body.frame()).await;
        assert!(last.expect("the end in time").is_none());
    }
}

async fn append(path: &PathBuf, text: &str) {
    let mut file = tokio::fs::OpenOptions::new().append(true).open(path).await.unwrap();
    file.write_all(text.as_bytes()).await.unwrap();
    file.flush().await.unwrap();
}

#[tokio::test]
async fn a_log_is_followed_over_rotation_to_the_containers_end() {
    let (stand, paths) = logged(&[(ContainerState::Running, &lines(0..3))], json!({"running": {}})).await;
    let response = stand
        .ask(Method::GET, "/containerLogs/ns/p/c?follow=true&tailLines=1", &[])
        .await;
    let mut followed = Followed {
        body: response.into_body(),
        text: String::new(),
    };
    followed.until("line 2\n").await;
    // A line that comes in two pieces, the second just before the file is rotated.
    let (head, rest) = (&line(3)[..30], line(3)[30..].to_owned());
    append(&paths[0], head).await;
    append(&paths[0], &rest).await;
    std::fs::rename(&paths[0], paths[0].with_extension("log.1")).unwrap();
    std::fs::write(&paths[0], line(4)).unwrap();
    followed.until("line 2\nline 3\nline 4\n").await;

    append(&paths[0], &line(5)).await;
    if let Some(sandbox) = lock(&stand.runtime.sandbox).as_mut() {
        sandbox.containers[0].state = ContainerState::Exited;
    }
    followed.until("line 2\nline 3\nline 4\nline 5\n").await;
    followed.end().await;
}

#[tokio::test]
async fn a_log_of_a_container_that_has_ended_is_not_waited_for() {
    let (stand, _) = logged(&[(ContainerState::Exited, &lines(0..1))], json!({"terminated": {}})).await;
    assert_eq!(
        stand.get("/containerLogs/ns/p/c?follow=true").await,
        (200, "line 0\n".into())
    );
}

#[tokio::test]
async fn nobody_follows_a_server_that_ends() {
    let (mut stand, _) = logged(&[(ContainerState::Running, "")], json!({"running": {}})).await;
    let response = stand.ask(Method::GET, "/containerLogs/ns/p/c?follow=true", &[]).await;
    stand.stop.cancel();
    let ended = tokio::time::timeout(LIMIT, &mut stand.served).await;
    ended.expect("the end in time").unwrap().unwrap();
    drop(response);
}
