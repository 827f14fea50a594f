//! Prints the figures that the project is measured by, from the release binary
//! and a node of its own: start, size at rest, pods and machines from their
//! creation to Running.
//!
//! `ALLMEND_IMAGES=~/.cache/allmend/images cargo run --release -p testkit --example figures`
//!
//! Must not be a test: a noisy machine is no failure.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use client::{Client, ClientExt, DeleteOptions, EventStream, HttpClient, ListOptions, WatchEvent};
use futures::StreamExt;
use kinds::resources::{MACHINE_INSTANCES, MACHINES, PODS};
use meta::Gvr;
use pki::KeyPairPem;
use serde_json::{Value, json};
use testkit::{Server, ServerOptions};

/// Pods started one at a time.
const SINGLE: usize = 20;
/// Pods started at once.
const BATCH: usize = 30;
/// How long the server is watched at rest.
const REST: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::main]
async fn main() -> Result<()> {
    let binary = Server::binary();
    println!("binary: {:.1} MB", fs::metadata(&binary)?.len() as f64 / 1e6);
    let mut server = Server::start(ServerOptions::default())?;
    server.wait_node()?;
    server.import(&["busybox", "micro-guest"])?;
    server.stop()?;
    let begun = Instant::now();
    server.launch()?;
    println!(
        "warm start to /readyz as kubectl sees it: {} ms",
        begun.elapsed().as_millis()
    );
    server.wait_node()?;
    println!(
        "warm start to node Ready as kubectl sees it: {} ms",
        begun.elapsed().as_millis()
    );
    for line in fs::read_to_string(server.log())?
        .lines()
        .filter(|l| l.contains("milliseconds"))
    {
        println!("  log: {}", line.rsplit("INFO ").next().unwrap_or(line));
    }
    let api = connect(&server)?;
    at_rest(&server).await?;
    single_pods(&api).await?;
    batch(&api).await?;
    machine(&api).await?;
    at_rest(&server).await?;
    server.purge()
}

fn connect(server: &Server) -> Result<HttpClient> {
    let tls = server.data_dir().join("server/tls");
    let read = |name: &str| fs::read_to_string(tls.join(name)).with_context(|| format!("read {name}"));
    let admin = KeyPairPem {
        certificate: read("admin.crt")?,
        key: read("admin.key")?,
    };
    let config = pki::client_config(&read("server-ca.crt")?, Some(&admin))?;
    Ok(HttpClient::new(&server.url(), config, None)?)
}

async fn at_rest(server: &Server) -> Result<()> {
    tokio::time::sleep(Duration::from_secs(5)).await;
    let pid = server.pid().context("no server")?;
    let before = (ticks(pid)?, written(pid)?);
    tokio::time::sleep(REST).await;
    let after = (ticks(pid)?, written(pid)?);
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .unwrap_or_default()
        .trim()
        .to_owned();
    // One tick is 10 ms (sysconf(_SC_CLK_TCK) is 100 on Linux).
    let share = (after.0 - before.0) as f64 / REST.as_secs_f64();
    let rate = (after.1 - before.1) as f64 / REST.as_secs_f64();
    println!(
        "at rest over {} s: {resident} resident, {share:.2} % of a core, {rate:.0} B/s to disk",
        REST.as_secs()
    );
    Ok(())
}

fn ticks(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("stat")?.1.split_whitespace().collect();
    Ok(fields.get(11).context("utime")?.parse::<u64>()? + fields.get(12).context("stime")?.parse::<u64>()?)
}

fn written(pid: u32) -> Result<u64> {
    let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
    let line = io.lines().find_map(|l| l.strip_prefix("write_bytes:")).context("io")?;
    Ok(line.trim().parse()?)
}

async fn watch(api: &HttpClient, gvr: &Gvr) -> Result<EventStream> {
    let options = ListOptions::default();
    api.watch(gvr, "default", &options)
        .await
        .map_err(|e| anyhow::anyhow!(e.message))
}

/// Waits until so many objects are in a phase.
async fn running(events: &mut EventStream, count: usize) -> Result<Vec<Instant>> {
    let mut seen = std::collections::HashSet::new();
    let mut times = Vec::new();
    let all = async {
        while times.len() < count {
            match events.next().await {
                Some(Ok(WatchEvent::Added(o) | WatchEvent::Modified(o))) => {
                    if o.to_value()["status"]["phase"] == "Running" && seen.insert(o.uid().to_owned()) {
                        times.push(Instant::now());
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(e)) => bail!("{}", e.message),
                None => bail!("the watch ended"),
            }
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, all)
        .await
        .context("not running in time")??;
    Ok(times)
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": "allmend.local/busybox:1", "command": ["sleep", "3600"]}]}})
}

async fn create(api: &HttpClient, gvr: &Gvr, object: &Value) -> Result<()> {
    let created = api.create_object(gvr, "default", object).await;
    created.map(|_| ()).map_err(|e| anyhow::anyhow!(e.message))
}

async fn delete_all(api: &HttpClient, gvr: &Gvr) -> Result<()> {
    let options = DeleteOptions::default();
    loop {
        let left = api
            .list(gvr, "default", &ListOptions::default())
            .await
            .map_err(|e| anyhow::anyhow!(e.message))?;
        if left.items.is_empty() {
            return Ok(());
        }
        for object in &left.items {
            if !object.is_deleting() {
                let _ = api.delete(gvr, "default", object.name(), &options).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn median(mut times: Vec<Duration>) -> (u128, u128) {
    times.sort();
    let at = |share: usize| {
        times
            .get(times.len() * share / 100)
            .or(times.last())
            .map_or(0, Duration::as_millis)
    };
    (at(50), at(95))
}

async fn single_pods(api: &HttpClient) -> Result<()> {
    let mut times = Vec::new();
    for i in 0..SINGLE {
        let mut events = watch(api, &PODS).await?;
        let begun = Instant::now();
        create(api, &PODS, &pod(&format!("single-{i}"))).await?;
        running(&mut events, 1).await?;
        times.push(begun.elapsed());
        drop(events);
        delete_all(api, &PODS).await?;
    }
    let (p50, p95) = median(times);
    println!("pod, one at a time, creation to Running: p50 {p50} ms, p95 {p95} ms");
    Ok(())
}

async fn batch(api: &HttpClient) -> Result<()> {
    let mut events = watch(api, &PODS).await?;
    let begun = Instant::now();
    let pods: Vec<Value> = (0..BATCH).map(|i| pod(&format!("batch-{i}"))).collect();
    let gvr = PODS;
    let created = futures::future::join_all(pods.iter().map(|p| create(api, &gvr, p)));
    created.await.into_iter().collect::<Result<Vec<()>>>()?;
    let times = running(&mut events, BATCH).await?;
    let (p50, _) = median(times.iter().map(|t| t.duration_since(begun)).collect());
    let last = times.last().map_or(0, |t| t.duration_since(begun).as_millis());
    println!("{BATCH} pods at once, creation to Running: p50 {p50} ms, the last after {last} ms");
    drop(events);
    let begun = Instant::now();
    delete_all(api, &PODS).await?;
    println!("{BATCH} pods deleted in {} ms", begun.elapsed().as_millis());
    Ok(())
}

async fn machine(api: &HttpClient) -> Result<()> {
    let kernel = json!({"kernelArgs": "console=ttyS0 quiet", "container": {"image": "allmend.local/micro-guest:1",
        "kernelPath": "/boot/vmlinuz", "initrdPath": "/boot/initrd"}});
    let object = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "figure"},
        "spec": {"runStrategy": "Always", "template": {"spec": {"terminationGracePeriodSeconds": 0, "domain": {
            "memory": {"guest": "128Mi"}, "firmware": {"kernelBoot": kernel},
            "devices": {"autoattachGraphicsDevice": false, "interfaces": [{"name": "default", "masquerade": {}}]}},
            "networks": [{"name": "default", "pod": {}}]}}}});
    let mut times = Vec::new();
    for _ in 0..5 {
        let mut events = watch(api, &MACHINE_INSTANCES).await?;
        let begun = Instant::now();
        create(api, &MACHINES, &object).await?;
        running(&mut events, 1).await?;
        times.push(begun.elapsed());
        drop(events);
        delete_all(api, &MACHINES).await?;
        delete_all(api, &MACHINE_INSTANCES).await?;
    }
    let (p50, _) = median(times);
    println!("virtual machine, creation to QEMU executing the guest: p50 {p50} ms");
    Ok(())
}
