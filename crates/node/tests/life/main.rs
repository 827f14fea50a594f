//! The life of pods, from the API to a runtime and back, with both in memory.
//! Must not touch the host beyond a temporary directory.

mod api;
mod fake;
mod withdrawal;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::Api;
use client::{Client, DeleteOptions};
use fake::Fake;
use informer::Informers;
use kinds::resources::{CONFIG_MAPS, EVENTS, LEASES, NODES, PODS};
use node::{Config, Node, PodLookup, Ports};
use serde_json::{Value, json};
use withdrawal::Rules;

struct World {
    api: Arc<Api>,
    fake: Arc<Fake>,
    rules: Arc<Rules>,
    dir: tempfile::TempDir,
    node: Option<Node>,
    /// What the node sees of the API.
    informers: Option<Arc<Informers>>,
}

impl World {
    async fn new() -> Self {
        let mut world = World {
            api: Arc::default(),
            fake: Fake::new(),
            rules: Arc::default(),
            dir: tempfile::tempdir().unwrap(),
            node: None,
            informers: None,
        };
        world.begin().await;
        world
    }

    async fn begin(&mut self) {
        let config = Config {
            node_name: "w".into(),
            node_ip: [127, 0, 0, 1].into(),
            data_dir: self.dir.path().into(),
            kubelet_port: 10250,
            cluster_dns: vec![[10, 43, 0, 10].into()],
            cluster_domain: "cluster.local".into(),
            labels: BTreeMap::from([("size".to_owned(), "small".to_owned())]),
            taints: Vec::new(),
            cgroup_root: "allmend".into(),
            max_pods: 110,
            version: "v1.36.0".into(),
            pod_cidr: None,
        };
        let client: Arc<dyn Client> = self.api.clone();
        let ports = Ports {
            containers: self.fake.clone(),
            machines: None,
            volumes: None,
            services: Some(self.rules.clone()),
        };
        let informers = Arc::new(Informers::new(client.clone()));
        self.informers = Some(informers.clone());
        self.node = Some(Node::start(config, client, informers, ports).await.unwrap());
    }

    async fn restart(&mut self) {
        self.node.take().unwrap().stop().await;
        self.begin().await;
    }

    fn pod(&self, name: &str, spec: Value) {
        let mut spec = spec;
        spec["nodeName"] = "w".into();
        self.api.put(
            &PODS,
            json!({"apiVersion": "v1", "kind": "Pod", "spec": spec, "status": {"phase": "Pending"},
                "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-of-{name}"), "generation": 1}}),
        );
    }

    fn see(&self, name: &str) -> Value {
        self.api.see(&PODS, "shop", name)
    }

    fn status(&self, name: &str) -> Value {
        self.see(name)["status"].clone()
    }

    async fn delete(&self, name: &str, grace: i64) {
        let options = DeleteOptions {
            grace_period_seconds: Some(grace),
            ..DeleteOptions::default()
        };
        if grace == 0 {
            let patch =
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0}});
            self.api.change(&PODS, "shop", name, &patch);
        } else {
            self.api.delete(&PODS, "shop", name, &options).await.unwrap();
        }
    }

    async fn until(&self, what: &str, done: impl Fn(&World) -> bool) {
        let end = Instant::now() + Duration::from_secs(15);
        while !done(self) {
            assert!(
                Instant::now() < end,
                "{what}: {:#?}\n{:#?}\n{:#?}",
                self.fake.journal(),
                self.api.all(&PODS),
                self.fake.sandboxes()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn events(&self, reason: &str) -> Vec<String> {
        let all = self.api.all(&EVENTS);
        let of = all.iter().filter(|e| e["reason"] == reason);
        of.map(|e| e["message"].as_str().unwrap().to_owned()).collect()
    }
}

fn condition(status: &Value, kind: &str) -> String {
    let all = status["conditions"].as_array().cloned().unwrap_or_default();
    let found = all.iter().find(|c| c["type"] == kind);
    found
        .map(|c| c["status"].as_str().unwrap().to_owned())
        .unwrap_or_default()
}

fn main_container(image: &str) -> Value {
    json!({"containers": [{"name": "a", "image": image, "imagePullPolicy": "IfNotPresent"}]})
}

fn phase(world: &World, name: &str) -> String {
    world.status(name)["phase"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_starts_and_the_node_is_registered() {
    let world = World::new().await;
    world.pod("web", main_container("web:1"));
    world
        .until("ready", |w| condition(&w.status("web"), "Ready") == "True")
        .await;
    let status = world.status("web");
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["podIP"], "127.0.0.1");
    assert_eq!(status["qosClass"], "BestEffort");
    let c = &status["containerStatuses"][0];
    assert_eq!(
        (&c["ready"], &c["started"], &c["restartCount"]),
        (&json!(true), &json!(true), &json!(0))
    );
    assert_eq!(c["containerID"], "fake://s1-a-0");
    world.until("events", |w| !w.events("Started").is_empty()).await;
    assert_eq!(world.events("Started"), ["Started container a"]);
    assert_eq!(
        world.events("Pulled"),
        ["Container image \"web:1\" already present on machine"]
    );
    world.until("lease", |w| !w.api.all(&LEASES).is_empty()).await;
    let node = world.api.see(&NODES, "", "w");
    assert_eq!(condition(&node["status"], "Ready"), "True");
    assert_eq!(node["metadata"]["labels"]["size"], "small");
    // Others may judge the pod while the node is away; the node knows better.
    let mut judged = status["conditions"].clone();
    for c in judged.as_array_mut().unwrap() {
        c["status"] = "False".into();
    }
    world
        .api
        .change(&PODS, "shop", "web", &json!({"status": {"conditions": judged}}));
    world
        .until("ready again", |w| condition(&w.status("web"), "Ready") == "True")
        .await;
    let found = world.node.as_ref().unwrap().find("shop", "web").await.unwrap();
    assert_eq!(found.sandbox.unwrap().containers.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn init_containers_come_first_and_a_job_ends() {
    let world = World::new().await;
    world.pod(
        "job",
        json!({"restartPolicy": "Never", "initContainers": [{"name": "i", "image": "exit-0"},
            {"name": "side", "image": "side:1", "restartPolicy": "Always"}],
            "containers": [{"name": "a", "image": "exit-0"}]}),
    );
    world.until("succeeded", |w| phase(w, "job") == "Succeeded").await;
    world
        .until("stopped", |w| w.fake.sandboxes().iter().all(|s| !s.ready))
        .await;
    let starts: Vec<_> = world
        .fake
        .journal()
        .into_iter()
        .filter(|j| j != "stop sandbox")
        .collect();
    assert_eq!(starts, ["run job", "start i", "start side", "start a", "stop side"]);
    world.pod(
        "bad",
        json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "exit-1"}]}),
    );
    world.until("failed", |w| phase(w, "bad") == "Failed").await;
    let ended = &world.status("bad")["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&ended["exitCode"], &ended["reason"]), (&json!(1), &json!("Error")));
}

#[tokio::test(flavor = "multi_thread")]
async fn crashes_are_restarted_with_a_pause() {
    let world = World::new().await;
    world.pod("crash", main_container("exit-1"));
    let waiting = |w: &World| w.status("crash")["containerStatuses"][0]["state"]["waiting"].clone();
    world
        .until("back-off", |w| {
            let c = &w.status("crash")["containerStatuses"][0];
            waiting(w)["reason"] == "CrashLoopBackOff" && c["restartCount"] == 1
        })
        .await;
    let message = waiting(&world)["message"].clone();
    assert_eq!(
        message,
        "back-off 10s restarting failed container=a pod=crash_shop(uid-of-crash)"
    );
    let last = &world.status("crash")["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!(last["exitCode"], 1);
    world.until("event", |w| !w.events("BackOff").is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_cannot_be_pulled_are_waited_for() {
    let world = World::new().await;
    world.pod("none", main_container("missing:1"));
    let reason = |w: &World| w.status("none")["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
    world.until("error", |w| reason(w) == "ErrImagePull").await;
    world.until("back-off", |w| reason(w) == "ImagePullBackOff").await;
    assert_eq!(phase(&world, "none"), "Pending");
    // A deletion does not wait for a pull, however long it takes.
    world.pod("slow", main_container("slow:1"));
    world
        .until("pull", |w| w.fake.journal().contains(&"pull slow".to_owned()))
        .await;
    world.delete("slow", 5).await;
    world.until("gone", |w| w.see("slow").is_null()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_has_an_order() {
    let world = World::new().await;
    world.pod(
        "web",
        json!({"terminationGracePeriodSeconds": 5, "volumes": [{"name": "v", "emptyDir": {}}],
            "initContainers": [{"name": "side", "image": "side:1", "restartPolicy": "Always"}],
            "containers": [{"name": "a", "image": "web:1", "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                "lifecycle": {"preStop": {"exec": {"command": ["bye"]}}}}]}),
    );
    world.until("running", |w| phase(w, "web") == "Running").await;
    world.fake.forget_journal();
    world.delete("web", 5).await;
    world.until("gone", |w| w.see("web").is_null()).await;
    assert_eq!(
        world.fake.journal(),
        ["exec a bye", "stop a", "stop side", "stop sandbox", "remove sandbox"]
    );
    let left = || fs::read_dir(world.dir.path().join("agent/pods")).unwrap().count();
    world.until("directory", |_| left() == 0).await;
    // Another pod by the same name is another pod.
    world.api.put(
        &PODS,
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "shop", "uid": "second"},
            "spec": {"nodeName": "w", "containers": [{"name": "a", "image": "web:1"}]}}),
    );
    world.until("running again", |w| phase(w, "web") == "Running").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_object_vanished_is_ended() {
    let world = World::new().await;
    world.pod("web", main_container("web:1"));
    world.until("running", |w| phase(w, "web") == "Running").await;
    world.api.remove(&PODS, "shop", "web");
    world.until("gone", |w| w.fake.sandboxes().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_agent_takes_over_what_runs() {
    let mut world = World::new().await;
    let probe = json!({"exec": {"command": ["probe"]}, "periodSeconds": 1, "failureThreshold": 1});
    world.pod(
        "web",
        json!({"containers": [{"name": "a", "image": "web:1", "readinessProbe": probe}]}),
    );
    world
        .until("ready", |w| condition(&w.status("web"), "Ready") == "True")
        .await;
    world.pod("gone", main_container("web:1"));
    world.until("running", |w| phase(w, "gone") == "Running").await;
    world.node.take().unwrap().stop().await;
    world.fake.forget_journal();
    world.api.remove(&PODS, "shop", "gone");
    world.fake.stray("nobody");
    world.begin().await;
    world.until("strays", |w| w.fake.sandboxes().len() == 1).await;
    assert_eq!(condition(&world.status("web"), "Ready"), "True");
    assert!(
        !world.fake.journal().iter().any(|j| j == "start a"),
        "nothing is started anew"
    );
    // What was ready under the old agent can become unready under the new one.
    world.fake.exec_code(1);
    world
        .until("unready", |w| condition(&w.status("web"), "Ready") == "False")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_stays_ended_after_a_reboot() {
    let mut world = World::new().await;
    world.pod(
        "job",
        json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "exit-0"}]}),
    );
    world.until("succeeded", |w| phase(w, "job") == "Succeeded").await;
    world
        .until("written", |w| {
            !w.status("job")["containerStatuses"][0]["state"]["terminated"].is_null()
        })
        .await;
    world.fake.reboot();
    world.restart().await;
    world.fake.forget_journal();
    world.pod("next", main_container("web:1"));
    world.until("next", |w| phase(w, "next") == "Running").await;
    let status = world.status("job");
    assert_eq!(status["phase"], "Succeeded");
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["exitCode"], 0);
    assert!(!world.fake.journal().contains(&"run job".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_and_liveness_are_followed() {
    let world = World::new().await;
    let probe = json!({"exec": {"command": ["probe"]}, "periodSeconds": 1, "failureThreshold": 1});
    world.pod(
        "web",
        json!({"containers": [{"name": "a", "image": "web:1", "readinessProbe": probe, "livenessProbe": probe}]}),
    );
    world
        .until("ready", |w| condition(&w.status("web"), "Ready") == "True")
        .await;
    world.fake.exec_code(1);
    world
        .until("killed", |w| {
            w.status("web")["containerStatuses"][0]["restartCount"] == 1
        })
        .await;
    let killing = "Container a failed liveness probe, will be restarted";
    world
        .until("events", |w| {
            !w.events("Unhealthy").is_empty() && w.events("Killing").iter().any(|k| k == killing)
        })
        .await;
    world
        .until("ready again", |w| condition(&w.status("web"), "Ready") == "True")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn content_is_mounted_and_follows_changes() {
    let world = World::new().await;
    let map = |text: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "shop"},
            "data": {"key": text}})
    };
    world.pod(
        "web",
        json!({"volumes": [{"name": "c", "configMap": {"name": "m"}}, {"name": "e", "emptyDir": {}}],
            "containers": [{"name": "a", "image": "web:1", "args": ["$(WORD)"],
                "env": [{"name": "WORD", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "key"}}}],
                "volumeMounts": [{"name": "c", "mountPath": "/c"}, {"name": "e", "mountPath": "/e", "subPath": "part"}]}]}),
    );
    world.until("failure", |w| !w.events("FailedMount").is_empty()).await;
    assert_eq!(
        world.events("FailedMount").first().map(String::as_str),
        Some("MountVolume.SetUp failed for volume \"c\" : configmap \"m\" not found")
    );
    world.api.put(&CONFIG_MAPS, map("one"));
    world.until("running", |w| phase(w, "web") == "Running").await;
    let config = world.fake.config("a").unwrap();
    assert_eq!(config.args, ["one"]);
    let volumes = world.dir.path().join("agent/pods/uid-of-web/volumes");
    let key = volumes.join("c/key");
    assert_eq!(fs::read_to_string(&key).unwrap(), "one");
    // What the pod made of its directory stays when other volumes are written again.
    fs::set_permissions(volumes.join("e"), fs::Permissions::from_mode(0o700)).unwrap();
    world
        .api
        .change(&CONFIG_MAPS, "shop", "m", &json!({"data": {"key": "two"}}));
    world
        .until("update", |_| fs::read_to_string(&key).is_ok_and(|t| t == "two"))
        .await;
    let mode = fs::metadata(volumes.join("e")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o700);
    world.delete("web", 1).await;
    world.until("gone", |w| w.see("web").is_null()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_not_be_root_is_not() {
    let world = World::new().await;
    let pod = |image: &str| {
        json!({"securityContext": {"runAsNonRoot": true}, "containers": [{"name": "a", "image": image,
            "imagePullPolicy": "IfNotPresent"}]})
    };
    world.pod("root", pod("web:1"));
    world.pod("user", pod("user:1"));
    world.until("runs", |w| phase(w, "user") == "Running").await;
    let waiting = |w: &World| w.status("root")["containerStatuses"][0]["state"]["waiting"].clone();
    world
        .until("refused", |w| waiting(w)["reason"] == "CreateContainerConfigError")
        .await;
    assert_eq!(
        waiting(&world)["message"],
        "container has runAsNonRoot and image will run as root (pod: \"root_shop(uid-of-root)\", container: a)"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_need_a_node_that_can_run_them() {
    let world = World::new().await;
    world.api.put(
        &PODS,
        json!({"apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": "w", "containers": [{"name": "compute",
            "image": "machine:1"}]}, "metadata": {"name": "vm", "namespace": "shop", "uid": "vm",
            "annotations": {"machines.allmend.io/runtime": "qemu"}}}),
    );
    world
        .until("refused", |w| !w.events("FailedCreatePodSandBox").is_empty())
        .await;
    assert!(world.fake.sandboxes().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_name_two_pods() {
    let world = World::new().await;
    world.pod("web", main_container("web:1"));
    world.until("running", |w| phase(w, "web") == "Running").await;
    // The old one was replaced while nobody looked: only the new one is seen.
    world.api.put(
        &PODS,
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "shop", "uid": "second"},
            "spec": {"nodeName": "w", "containers": [{"name": "a", "image": "web:1"}]}}),
    );
    world
        .until("only the second", |w| {
            let all = w.fake.sandboxes();
            all.len() == 1 && all.iter().all(|s| s.pod_uid == "second" && s.ready)
        })
        .await;
}
