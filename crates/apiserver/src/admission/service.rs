//! Addresses and ports of Services. What is taken is read from the cache at
//! each choice, so there is no table that could disagree with the Services;
//! only choices in flight are remembered.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Service;
use meta::Status;
use meta::field::{ErrorList, Path, quoted};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Admission, Attributes, Operation};
use crate::core::Core;

/// Addresses and ports that are being given out: in no cache yet, yet taken.
#[derive(Default)]
pub struct Reserved(Mutex<HashSet<String>>);

struct Held {
    of: Arc<Reserved>,
    what: String,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.what);
    }
}

impl Reserved {
    fn take(self: &Arc<Self>, what: String) -> Option<Held> {
        let fresh = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(what.clone());
        fresh.then(|| Held { of: self.clone(), what })
    }
}

pub(super) struct ServiceAddresses;

/// What other Services hold.
#[derive(Default)]
struct Taken {
    ips: HashMap<String, String>,
    ports: HashMap<(i32, String), String>,
}

#[async_trait]
impl Admission for ServiceAddresses {
    fn name(&self) -> &'static str {
        "ServiceAddresses"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        a.is("", "Service")
            && matches!(a.operation, Operation::Create | Operation::Update)
            && a.object["spec"].is_object()
    }

    async fn admit(&self, core: &Core, a: &mut Attributes<'_>) -> Result<(), Status> {
        let taken = taken(core, a);
        let mut errors = ErrorList::new();
        let old = a.old.cloned().unwrap_or_default();
        address(core, a, &old, &taken, &mut errors);
        node_ports(core, a, &old, &taken, &mut errors);
        if errors.is_empty() {
            return Ok(());
        }
        Err(Status::invalid("", "Service", a.target.name, &errors))
    }
}

fn taken(core: &Core, a: &Attributes<'_>) -> Taken {
    let mut out = Taken::default();
    let own = crate::resource::object_key(a.target.namespace, a.target.name);
    let (snapshot, _) = a.target.resource.cache.snapshot();
    let _ = core;
    for (key, item) in &snapshot {
        if **key == *own {
            continue;
        }
        let Ok(service) = item.object.view::<Service>() else {
            continue;
        };
        let Some(spec) = &service.spec else {
            continue;
        };
        for ip in spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip) {
            out.ips.insert(ip.clone(), key.to_string());
        }
        for port in spec.ports.iter().flatten() {
            if let Some(n) = port.node_port.filter(|n| *n > 0) {
                let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
                out.ports.insert((n, protocol), key.to_string());
            }
        }
        if let Some(n) = spec.health_check_node_port.filter(|n| *n > 0) {
            out.ports.insert((n, "TCP".into()), key.to_string());
        }
    }
    out
}

fn text<'v>(value: &'v Value, path: &str) -> &'v str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn address(core: &Core, a: &mut Attributes<'_>, old: &Value, taken: &Taken, errors: &mut ErrorList) {
    let spec = &mut a.object["spec"];
    if spec["type"] == "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            spec.as_object_mut().map(|s| s.remove(field));
        }
        return;
    }
    let first = spec
        .pointer("/clusterIPs/0")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let mut ip = spec
        .get("clusterIP")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    if ip.is_empty() {
        ip = first;
    }
    let before = text(old, "/spec/clusterIP");
    if ip.is_empty() {
        before.clone_into(&mut ip);
    }
    if ip.is_empty() {
        let name = format!("{}/{}", a.target.namespace, a.target.name);
        match choose_ip(core, &name, taken) {
            Some((chosen, held)) => {
                ip = chosen.to_string();
                a.held.push(Box::new(held));
            }
            None => errors.add(
                meta::field::ErrorKind::Internal,
                &Path::new("spec").child("clusterIPs"),
                "",
                "range is full",
            ),
        }
    } else if ip != "None" && ip != before {
        let path = Path::new("spec").child("clusterIPs");
        let shown = format!("[{}]", quoted(&ip));
        match claim_ip(core, &ip, taken) {
            Ok(held) => a.held.push(Box::new(held)),
            Err(why) => errors.invalid(&path, shown, format!("failed to allocate IP {ip}: {why}")),
        }
    }
    let spec = &mut a.object["spec"];
    spec["clusterIPs"] = json!([ip]);
    spec["clusterIP"] = ip.into();
    if spec["ipFamilies"].is_null() {
        spec["ipFamilies"] = json!(["IPv4"]);
    }
    if spec["ipFamilyPolicy"].is_null() {
        spec["ipFamilyPolicy"] = "SingleStack".into();
    }
}

fn range(core: &Core) -> (u32, u32) {
    let (base, bits) = core.config.service_cidr;
    let size = 1u32.checked_shl(32 - u32::from(bits.clamp(1, 30))).unwrap_or(4);
    (u32::from(base) & !(size - 1), size)
}

/// An address that depends on the name first, so that a Service made anew gets its old one back.
/// The lower part of the range is left to those who choose for themselves (KEP-3070).
fn choose_ip(core: &Core, name: &str, taken: &Taken) -> Option<(Ipv4Addr, Held)> {
    let (base, size) = range(core);
    let low = (size / 16).clamp(16.min(size / 2), 256);
    let span = size - low - 1;
    let digest = Sha256::digest(name.as_bytes());
    let start = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) % span;
    let upper = (0..span).map(|i| low + (start + i) % span);
    upper.chain(2..low).find_map(|offset| {
        let ip = Ipv4Addr::from(base + offset);
        if taken.ips.contains_key(&ip.to_string()) {
            return None;
        }
        Some((ip, core.reserved.take(ip.to_string())?))
    })
}

fn claim_ip(core: &Core, ip: &str, taken: &Taken) -> Result<Held, String> {
    let (base, size) = range(core);
    let parsed: Ipv4Addr = ip.parse().map_err(|_| "not a valid IP address".to_owned())?;
    let offset = u32::from(parsed).wrapping_sub(base);
    if offset == 0 || offset >= size - 1 {
        let (net, bits) = core.config.service_cidr;
        return Err(format!(
            "the provided network does not match the current range. The range of valid IPs is {net}/{bits}"
        ));
    }
    let used = || "provided IP is already allocated".to_owned();
    if taken.ips.contains_key(ip) {
        return Err(used());
    }
    core.reserved.take(ip.to_owned()).ok_or_else(used)
}

fn node_ports(core: &Core, a: &mut Attributes<'_>, old: &Value, taken: &Taken, errors: &mut ErrorList) {
    let spec = &a.object["spec"];
    let balanced = spec["type"] == "LoadBalancer" && spec["allocateLoadBalancerNodePorts"] != false;
    let wants = spec["type"] == "NodePort" || balanced;
    let types_differ = old.pointer("/spec/type") != spec.get("type");
    let before = old
        .pointer("/spec/ports")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let owned: HashSet<i64> = before.iter().filter_map(|p| p["nodePort"].as_i64()).collect();
    let external = matches!(spec["type"].as_str(), Some("NodePort" | "LoadBalancer"));
    let name = format!("{}/{}", a.target.namespace, a.target.name);
    let mut chosen: HashSet<(i64, String)> = HashSet::new();
    let mut held: Vec<Held> = Vec::new();
    let ports = a.object.pointer_mut("/spec/ports").and_then(Value::as_array_mut);
    for (i, port) in ports.into_iter().flatten().enumerate().filter(|(_, p)| p.is_object()) {
        if !external {
            // What a NodePort Service had is given back when it becomes an inner one.
            if types_differ {
                port.as_object_mut().map(|p| p.remove("nodePort"));
            }
            continue;
        }
        let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
        let mut given = port["nodePort"].as_i64().unwrap_or(0);
        if given == 0 {
            let same = before.iter().find(|p| {
                p["port"] == port["port"]
                    && p["protocol"].as_str().unwrap_or("TCP") == protocol
                    && p["name"] == port["name"]
            });
            given = same.and_then(|p| p["nodePort"].as_i64()).unwrap_or(0);
        }
        let path = Path::new("spec").child("ports").index(i).child("nodePort");
        if given == 0 {
            if !wants {
                continue;
            }
            match choose_port(core, &format!("{name}/{i}"), &protocol, taken, &chosen) {
                Some((n, h)) => {
                    given = n;
                    held.push(h);
                }
                None => errors.add(meta::field::ErrorKind::Internal, &path, "", "range is full"),
            }
        } else if !owned.contains(&given) {
            match claim_port(core, given, &protocol, taken) {
                Ok(h) => held.push(h),
                Err(why) => errors.invalid(&path, given, why),
            }
        }
        if given > 0 {
            chosen.insert((given, protocol));
            port["nodePort"] = given.into();
        }
    }
    a.held
        .extend(held.into_iter().map(|h| Box::new(h) as Box<dyn std::any::Any + Send>));
}

fn choose_port(
    core: &Core,
    name: &str,
    protocol: &str,
    taken: &Taken,
    chosen: &HashSet<(i64, String)>,
) -> Option<(i64, Held)> {
    let (low, high) = core.config.node_ports;
    let span = u32::from(high.saturating_sub(low)) + 1;
    let digest = Sha256::digest(name.as_bytes());
    let start = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) % span;
    (0..span).find_map(|i| {
        let port = i64::from(low) + i64::from((start + i) % span);
        let key = (i32::try_from(port).ok()?, protocol.to_owned());
        if taken.ports.contains_key(&key) || chosen.contains(&(port, protocol.to_owned())) {
            return None;
        }
        Some((port, core.reserved.take(format!("{protocol}:{port}"))?))
    })
}

fn claim_port(core: &Core, port: i64, protocol: &str, taken: &Taken) -> Result<Held, String> {
    let (low, high) = core.config.node_ports;
    let used = || "provided port is already allocated".to_owned();
    match u16::try_from(port) {
        Ok(p) if (low..=high).contains(&p) => {}
        _ => {
            return Err(format!(
                "provided port is not in the valid range. The range of valid ports is {low}-{high}"
            ));
        }
    }
    let key = (i32::try_from(port).unwrap_or(0), protocol.to_owned());
    if taken.ports.contains_key(&key) {
        return Err(used());
    }
    core.reserved.take(format!("{protocol}:{port}")).ok_or_else(used)
}
