//! The example: a shop in containers whose database lives in a virtual machine.
//! Each sentence of its README is proved here.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use testkit::{Server, until};

use crate::with_node;

/// How long a whole Debian may take to boot under emulation, with another test beside it.
const GUEST: Duration = Duration::from_secs(400);
/// Where the shop is.
const PORT: u16 = 31080;
/// How long the database may take to answer on a busy machine.
const SOON: Duration = Duration::from_secs(30);
const ROLLOUT: Duration = Duration::from_secs(90);

/// One request on a connection of its own; the body of an answer with status 200 or 303.
fn ask(address: &str, request: &str) -> Result<String> {
    let mut stream = TcpStream::connect((address, PORT)).context("connect")?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("read")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if !["200", "303"].contains(&status) {
        bail!("{head}: {body}");
    }
    Ok(body.to_owned())
}

fn get(address: &str, path: &str) -> Result<String> {
    ask(
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n"),
    )
}

/// How much there is of something, as the database says now.
fn amount(address: &str, name: &str) -> Result<i64> {
    let stock: Value = serde_json::from_str(&get(address, "/stock")?)?;
    let item = stock.as_array().into_iter().flatten().find(|i| i["name"] == name);
    item.and_then(|i| i["amount"].as_i64())
        .with_context(|| format!("no {name} in {stock}"))
}

/// Waits until both web pods show the stock of the machine: each has a connection of its own.
fn everywhere(address: &str) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    until("the stock on the pages of both pods", SOON, || {
        let page = get(address, "/").map_err(|e| format!("{e:#}"))?;
        let pod = page
            .split("served by ")
            .nth(1)
            .unwrap_or_default()
            .split('<')
            .next()
            .unwrap_or_default();
        if page.contains("Goat cheese") {
            seen.insert(pod.to_owned());
        }
        if seen.len() == 2 { Ok(()) } else { Err(page) }
    })
}

/// Visitors who never stop coming.
struct Visitors {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    threads: Vec<std::thread::JoinHandle<Vec<String>>>,
}

impl Visitors {
    fn come(address: &str, count: usize) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let threads = (0..count).map(|_| {
            let (address, stop, served) = (address.to_owned(), stop.clone(), served.clone());
            std::thread::spawn(move || {
                let mut lost = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match get(&address, "/") {
                        Ok(_) => _ = served.fetch_add(1, Ordering::Relaxed),
                        Err(error) => lost.push(format!("{error:#}")),
                    }
                }
                lost
            })
        });
        Visitors {
            threads: threads.collect(),
            stop,
            served,
        }
    }

    /// They go home; how many were served, and what happened to those who were not.
    fn go(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let lost = self
            .threads
            .into_iter()
            .flat_map(|t| t.join().unwrap_or_else(|_| vec!["panicked".into()]));
        let lost = lost.collect();
        (self.served.load(Ordering::Relaxed), lost)
    }
}

fn open(server: &Server) -> Result<String> {
    server.import(&["debian-guest", "farm-shop-web-1", "farm-shop-web-2"])?;
    let kubectl = server.kubectl();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/farm-shop");
    for file in ["stock.yaml", "web.yaml"] {
        let manifest = std::fs::read_to_string(example.join(file))?;
        // The example itself may be running on this machine.
        kubectl.apply(&manifest.replace("30080", &PORT.to_string()))?;
    }
    let nodes = kubectl.json(&["get", "nodes"])?;
    let address = nodes["items"][0]["status"]["addresses"][0]["address"]
        .as_str()
        .context("address")?
        .to_owned();
    until("the shop to show the stock", GUEST, || {
        amount(&address, "Honey, 500 g").map_err(|e| format!("{e:#}"))
    })?;
    Ok(address)
}

#[test]
fn the_farm_shop_is_updated_and_restarted_without_losing_anything() -> Result<()> {
    let server = with_node()?;
    let kubectl = server.kubectl();
    let address = open(&server)?;
    everywhere(&address)?;
    let before = until("the stock", SOON, || {
        amount(&address, "Honey, 500 g").map_err(|e| format!("{e:#}"))
    })?;

    // A rolling update of the front end, under constant load, loses not one request; the stock
    // is sold from meanwhile.
    let visitors = Visitors::come(&address, 4);
    kubectl.ok(&["set", "image", "deployment/web", "web=allmend.local/farm-shop-web:2"])?;
    let form = "name=Honey%2C+500+g";
    let order = format!(
        "POST /order HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    );
    // Under emulation and load the database may not answer in time; then nothing was sold.
    until("an order to be taken", SOON, || match ask(&address, &order) {
        Err(e) if format!("{e:#}").contains(" 503 ") => Err(format!("{e:#}")),
        other => Ok(other),
    })??;
    until("the update to be rolled out", ROLLOUT, || {
        match kubectl.ok(&["rollout", "status", "deployment/web", "--watch=false"]) {
            Ok(said) if said.contains("successfully rolled out") => Ok(()),
            Ok(said) => Err(said),
            Err(error) => Err(format!("{error:#}")),
        }
    })?;
    until("the old pods to be gone", ROLLOUT, || {
        let pods = kubectl
            .json(&["get", "pods", "-l", "app=web"])
            .map_err(|e| e.to_string())?;
        match pods["items"].as_array().map(Vec::len) {
            Some(2) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    let (served, lost) = visitors.go();
    ensure!(lost.is_empty(), "{} of {served} requests lost: {lost:?}", lost.len());
    ensure!(served > 100, "only {served} requests in the whole update");
    ensure!(get(&address, "/")?.contains("version 2"));
    let left = until("the stock", SOON, || {
        amount(&address, "Honey, 500 g").map_err(|e| format!("{e:#}"))
    })?;
    ensure!(left == before - 1, "{before} jars, one sold, {left} left");

    // Restarting the machine keeps its data, and the shop stays open.
    everywhere(&address)?;
    let uid = |k: &testkit::Kubectl| k.json(&["get", "vmi", "stock"]).map(|v| v["metadata"]["uid"].clone());
    let old = uid(&kubectl)?;
    let restart = "/apis/subresources.kubevirt.io/v1/namespaces/default/virtualmachines/stock/restart";
    kubectl.ok_with(&["replace", "--raw", restart, "-f", "-"], "{}")?;
    until("another instance of the machine", GUEST, || match uid(&kubectl) {
        Ok(new) if new != old => Ok(()),
        other => Err(format!("{other:?}")),
    })?;
    ensure!(
        get(&address, "/")?.contains("Goat cheese"),
        "the shop shows what was there last"
    );
    let after = until("the database again", GUEST, || {
        amount(&address, "Honey, 500 g").map_err(|e| format!("{e:#}"))
    })?;
    ensure!(after == before - 1, "{before} jars, one sold, {after} left");
    Ok(())
}
