//! The world of the tests: an API in memory, a pod network of one veth pair, a
//! data directory that is cleaned up whatever happens. Must not assert anything
//! about machines.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use client::{Body, Client, DeleteOptions, EventStream, ListOptions, ObjectList, PatchType, WriteOptions};
use machines::{Config, MACHINE_IMAGE, MachineRuntime};
use meta::{Gvr, Object, Status};
use runtime::{
    ContainerConfig, ContainerStatus, DnsConfig, Mount, Namespaces, PodAddress, PodNetwork, PodRuntime, PortMapping,
    RuntimeError, SandboxConfig,
};
use serde_json::{Value, json};

/// Objects by `resource/namespace/name`.
#[derive(Default)]
pub struct Api(pub Mutex<BTreeMap<String, Value>>);

impl Api {
    pub fn put(&self, resource: &str, object: Value) {
        let meta = &object["metadata"];
        let key = format!(
            "{resource}/{}/{}",
            meta["namespace"].as_str().unwrap(),
            meta["name"].as_str().unwrap()
        );
        self.0.lock().unwrap().insert(key, object);
    }

    pub fn value(&self, key: &str) -> Value {
        self.0.lock().unwrap().get(key).cloned().unwrap_or_default()
    }
}

fn unsupported<T>() -> Result<T, Status> {
    Err(Status::internal("not in this test"))
}

#[async_trait]
impl Client for Api {
    async fn get(&self, gvr: &Gvr, namespace: &str, name: &str) -> Result<Arc<Object>, Status> {
        let found = self.value(&format!("{}/{namespace}/{name}", gvr.resource));
        if found.is_null() {
            return Err(Status::not_found(&gvr.group, &gvr.resource, name));
        }
        Ok(Arc::new(Object::from_value(found).unwrap()))
    }
    async fn list(&self, _: &Gvr, _: &str, _: &ListOptions) -> Result<ObjectList, Status> {
        unsupported()
    }
    async fn watch(&self, _: &Gvr, _: &str, _: &ListOptions) -> Result<EventStream, Status> {
        unsupported()
    }
    async fn create(
        &self,
        _: &Gvr,
        _: &str,
        _: (&str, &str),
        _: Body,
        _: &WriteOptions,
    ) -> Result<Arc<Object>, Status> {
        unsupported()
    }
    async fn update(
        &self,
        _: &Gvr,
        _: &str,
        _: (&str, &str),
        _: Body,
        _: &WriteOptions,
    ) -> Result<Arc<Object>, Status> {
        unsupported()
    }
    async fn patch(
        &self,
        gvr: &Gvr,
        namespace: &str,
        target: (&str, &str),
        _: PatchType,
        body: Body,
        _: &WriteOptions,
    ) -> Result<Arc<Object>, Status> {
        let key = format!("{}/{namespace}/{}", gvr.resource, target.0);
        let patch: Value = serde_json::from_slice(&body.0).unwrap();
        let mut all = self.0.lock().unwrap();
        let object = all.get_mut(&key).unwrap();
        for (field, value) in patch["status"].as_object().unwrap() {
            object["status"][field] = value.clone();
        }
        Ok(Arc::new(Object::from_value(object.clone()).unwrap()))
    }
    async fn delete(&self, _: &Gvr, _: &str, _: &str, _: &DeleteOptions) -> Result<Option<Arc<Object>>, Status> {
        unsupported()
    }
}

/// One veth pair for each sandbox, `192.0.2.0/30` (RFC 5737) shifted by a number of the test.
pub struct Veth {
    number: u8,
}

impl Veth {
    pub fn host_link(&self) -> String {
        format!("vmt{}-{}", self.number, std::process::id() % 10_000)
    }
    pub fn pod(&self) -> String {
        format!("192.0.2.{}", self.number * 4 + 2)
    }
    pub fn host(&self) -> String {
        format!("192.0.2.{}", self.number * 4 + 1)
    }
}

pub fn run(line: &str) {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[async_trait]
impl PodNetwork for Veth {
    async fn attach(&self, _: &str, netns: &Path, _: &[PortMapping]) -> Result<PodAddress, RuntimeError> {
        let (link, host, pod, path) = (self.host_link(), self.host(), self.pod(), netns.display());
        let _ = Command::new("ip").args(["link", "del", &link]).output();
        run(&format!("ip link add {link} type veth peer name {link}p"));
        run(&format!("ip addr add {host}/30 dev {link}"));
        run(&format!("ip link set {link} up"));
        run(&format!("ip link set {link}p netns {path}"));
        let inside = format!("nsenter --net={path} ip");
        run(&format!("{inside} link set {link}p name eth0 up"));
        run(&format!("{inside} addr add {pod}/30 dev eth0"));
        run(&format!("{inside} route add default via {host}"));
        Ok(PodAddress {
            ip: IpAddr::V4(pod.parse().unwrap()),
            prefix: 30,
            gateway: IpAddr::V4(host.parse().unwrap()),
            mtu: 1450,
        })
    }

    async fn detach(&self, _: &str) -> Result<(), RuntimeError> {
        let _ = Command::new("ip").args(["link", "del", &self.host_link()]).output();
        Ok(())
    }
}

/// A data directory with what runs in it.
pub struct World {
    pub dir: PathBuf,
    pub api: Arc<Api>,
    pub network: Arc<Veth>,
    name: String,
}

impl World {
    pub fn new(number: u8) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests make namespaces and cgroups: run them as root"
        );
        for program in ["/usr/bin/qemu-system-x86_64", "/usr/bin/qemu-img"] {
            assert!(
                Path::new(program).exists(),
                "{program} is missing: install qemu-system-x86 and qemu-utils"
            );
        }
        let name = format!("vmt{number}-{}", std::process::id());
        let dir = PathBuf::from("/tmp").join(&name);
        std::fs::create_dir(&dir).unwrap();
        World {
            dir,
            api: Arc::default(),
            network: Arc::new(Veth { number }),
            name,
        }
    }

    pub fn runtime(&self) -> MachineRuntime {
        self.runtime_with(env!("CARGO_BIN_EXE_machine-supervisor"))
    }

    pub fn runtime_with(&self, executable: &str) -> MachineRuntime {
        let config = Config::new(&self.dir, executable);
        MachineRuntime::open(config, self.api.clone(), self.network.clone()).unwrap()
    }

    /// An instance with a spec, and the pod's sandbox.
    pub fn machine(&self, spec: Value) -> SandboxConfig {
        self.api.put(
            "virtualmachineinstances",
            json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "spec": spec,
                "metadata": {"name": "guest", "namespace": "test", "uid": "vmi-uid", "resourceVersion": "1"}}),
        );
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {
            "name": "virt-launcher-guest", "namespace": "test", "uid": format!("pod-{}", self.name),
            "ownerReferences": [{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
                "name": "guest", "uid": "vmi-uid", "controller": true}]}});
        self.api.put("pods", pod.clone());
        SandboxConfig {
            pod: Arc::new(Object::from_value(pod).unwrap()),
            attempt: 0,
            hostname: "guest".into(),
            log_directory: self.dir.join("logs"),
            dns: DnsConfig {
                servers: vec!["192.0.2.1".into()],
                searches: vec!["test.svc.cluster.local".into()],
                options: Vec::new(),
            },
            cgroup_parent: format!("/{}/pod", self.name),
            namespaces: Namespaces::default(),
            sysctls: BTreeMap::new(),
            port_mappings: Vec::new(),
            privileged: false,
            security_context: Value::Null,
            labels: BTreeMap::from([("a".into(), "b".into())]),
            annotations: BTreeMap::new(),
        }
    }

    /// The container with volumes mounted from host paths.
    pub fn container(&self, volumes: &[(&str, &Path)]) -> ContainerConfig {
        let mount = |(name, path): &(&str, &Path)| Mount {
            host_path: path.to_path_buf(),
            container_path: format!("/var/run/volumes/{name}"),
            ..Mount::default()
        };
        ContainerConfig {
            name: "compute".into(),
            image: MACHINE_IMAGE.into(),
            mounts: volumes.iter().map(mount).collect(),
            log_path: "compute/0.log".into(),
            ..ContainerConfig::default()
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("logs/compute/0.log")).unwrap_or_default()
    }

    /// Processes whose command line names our directory and a word.
    pub fn processes(&self, word: &str) -> Vec<i32> {
        let ours = |pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.contains(&*self.dir.to_string_lossy()) && line.contains(word)
        };
        let pids = std::fs::read_dir("/proc").unwrap();
        let pids = pids.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|pid| *pid != std::process::id() as i32)
            .filter(ours)
            .collect()
    }

    /// What this test has left on the host: mounts, links, control groups, processes.
    pub fn leaks(&self) -> Vec<String> {
        let mut out = Vec::new();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        out.extend(
            mounts
                .lines()
                .filter(|l| l.contains(&*self.dir.to_string_lossy()))
                .map(str::to_owned),
        );
        if Path::new("/sys/class/net").join(self.network.host_link()).exists() {
            out.push(self.network.host_link());
        }
        for group in self.cgroups() {
            out.push(group.display().to_string());
        }
        out.extend(self.processes("").iter().map(|p| format!("process {p}")));
        out
    }

    fn cgroups(&self) -> Vec<PathBuf> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = mounts
            .lines()
            .filter(|l| l.contains(" - cgroup"))
            .filter_map(|l| l.split(' ').nth(4));
        let mut found: Vec<PathBuf> = points
            .map(|p| Path::new(p).join(&self.name))
            .filter(|p| p.exists())
            .collect();
        found.sort();
        found.dedup();
        found
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for _ in 0..2 {
            for pid in self.processes("") {
                if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = Command::new("ip")
            .args(["link", "del", &self.network.host_link()])
            .output();
        for entry in std::fs::read_dir(self.dir.join("run/netns"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let _ = Command::new("umount").arg("-l").arg(entry.path()).output();
        }
        let _ = Command::new("umount")
            .args(["-q", "-l"])
            .arg(self.dir.join("small"))
            .output();
        for group in self.cgroups() {
            let _ = Command::new("find")
                .arg(&group)
                .args(["-depth", "-type", "d", "-delete"])
                .output();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Waits for a condition.
pub async fn eventually<T>(what: &str, seconds: u64, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {seconds} s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The only container of the only sandbox.
pub async fn status(runtime: &MachineRuntime) -> ContainerStatus {
    runtime.list().await.unwrap()[0].containers[0].clone()
}
