//! Whether a pod fits on a node, and why not.
//!
//! Must not prefer one node to another. Reasons are upstream's words: people and tools know them.

use std::borrow::Cow;

use crate::node::Node;
use crate::prepare::Prepared;
use crate::resources::Resources;
use crate::storage;
use crate::terms::Taint;

/// Why a pod does not fit on a node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Misfit {
    pub reasons: Vec<Cow<'static, str>>,
    /// Whether it might fit if other pods left.
    pub resolvable: bool,
}

impl Misfit {
    fn for_good(reason: &'static str) -> Self {
        Misfit {
            reasons: vec![reason.into()],
            resolvable: false,
        }
    }

    fn for_now(reason: &'static str) -> Self {
        Misfit {
            resolvable: true,
            ..Misfit::for_good(reason)
        }
    }
}

/// Upstream's filters in upstream's order; the first that objects is the reason.
pub(crate) fn fits(p: &Prepared<'_>, node: &Node) -> Result<(), Misfit> {
    own_rules(p, node)?;
    ports(p, node)?;
    resources(p, node)?;
    if p.rivals > 0 {
        return Err(Misfit::for_now(
            "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode",
        ));
    }
    storage::check(&p.volumes, &node.name, &node.labels).map_err(Misfit::for_good)?;
    spread(p, node)?;
    affinity(p, node)
}

fn own_rules(p: &Prepared<'_>, node: &Node) -> Result<(), Misfit> {
    let pod = p.pod;
    let tolerates = |taint: &Taint| pod.tolerations.iter().any(|t| t.tolerates(taint));
    if node.unschedulable {
        let taint = Taint {
            key: "node.kubernetes.io/unschedulable".to_owned(),
            value: String::new(),
            effect: "NoSchedule".to_owned(),
        };
        if !tolerates(&taint) {
            return Err(Misfit::for_good("node(s) were unschedulable"));
        }
    }
    if !pod.node.is_empty() && pod.node != *node.name {
        return Err(Misfit::for_good("node(s) didn't match the requested node name"));
    }
    if !node.taints.iter().filter(|t| t.is_hard()).all(tolerates) {
        return Err(Misfit::for_good("node(s) had untolerated taint(s)"));
    }
    if !pod.chooses(&node.name, &node.labels) {
        return Err(Misfit::for_good("node(s) didn't match Pod's node affinity/selector"));
    }
    Ok(())
}

fn ports(p: &Prepared<'_>, node: &Node) -> Result<(), Misfit> {
    if p.pod.ports.is_empty() {
        return Ok(());
    }
    let expected = expected(p, node).flat_map(|n| &n.ports);
    let mut used = node.ports.iter().chain(expected);
    if used.any(|u| p.pod.ports.iter().any(|w| w.collides(u))) {
        return Err(Misfit::for_now(
            "node(s) didn't have free ports for the requested pod ports",
        ));
    }
    Ok(())
}

/// The pods for which room was made on the node and that come before this one.
fn expected<'n>(p: &Prepared<'_>, node: &'n Node) -> impl Iterator<Item = &'n crate::facts::Facts> {
    let (priority, uid) = (p.pod.priority, p.pod.uid.clone());
    let first = move |n: &&std::sync::Arc<crate::facts::Facts>| n.priority >= priority && n.uid != uid;
    node.nominated.iter().filter(first).map(|n| &**n)
}

fn resources(p: &Prepared<'_>, node: &Node) -> Result<(), Misfit> {
    if node.nominated.is_empty() {
        return room(&p.pod.request, &node.allocatable, &node.used);
    }
    let mut used = node.used.clone();
    for pod in expected(p, node) {
        used.add(&pod.request);
    }
    room(&p.pod.request, &node.allocatable, &used)
}

fn room(wanted: &Resources, there: &Resources, used: &Resources) -> Result<(), Misfit> {
    let mut reasons: Vec<Cow<'static, str>> = Vec::new();
    let mut resolvable = true;
    if used.pods + wanted.pods > there.pods {
        reasons.push("Too many pods".into());
        resolvable &= wanted.pods <= there.pods;
    }
    for (name, wanted, there, used) in [
        ("Insufficient cpu", wanted.cpu, there.cpu, used.cpu),
        ("Insufficient memory", wanted.memory, there.memory, used.memory),
        (
            "Insufficient ephemeral-storage",
            wanted.storage,
            there.storage,
            used.storage,
        ),
    ] {
        if wanted > 0 && wanted > there - used {
            reasons.push(name.into());
            resolvable &= wanted <= there;
        }
    }
    for (name, wanted) in &wanted.extended {
        let of = |list: &Resources| list.extended.get(name).copied().unwrap_or(0);
        if *wanted > of(there) - of(used) {
            reasons.push(format!("Insufficient {name}").into());
            resolvable &= *wanted <= of(there);
        }
    }
    if reasons.is_empty() {
        Ok(())
    } else {
        Err(Misfit { reasons, resolvable })
    }
}

fn spread(p: &Prepared<'_>, node: &Node) -> Result<(), Misfit> {
    for domains in &p.spread {
        let constraint = domains.constraint;
        let Some(value) = node.labels.get(&constraint.key) else {
            return Err(Misfit::for_good(
                "node(s) didn't match pod topology spread constraints (missing required label)",
            ));
        };
        let here = domains.values.get(value.as_str()).copied().unwrap_or(0);
        if here + domains.own - domains.least > constraint.max_skew {
            return Err(Misfit::for_now("node(s) didn't match pod topology spread constraints"));
        }
    }
    Ok(())
}

fn affinity(p: &Prepared<'_>, node: &Node) -> Result<(), Misfit> {
    if !near(p, node) {
        return Err(Misfit::for_good("node(s) didn't match pod affinity rules"));
    }
    for (term, values) in p.pod.apart.iter().zip(&p.apart) {
        let value = node.labels.get(&term.key);
        if value.is_some_and(|v| values.get(v.as_str()).is_some_and(|n| *n > 0)) {
            return Err(Misfit::for_now("node(s) didn't match pod anti-affinity rules"));
        }
    }
    for (key, values) in &p.unwelcome {
        let value = node.labels.get(*key);
        if value.is_some_and(|v| values.get(v.as_str()).is_some_and(|n| *n > 0)) {
            return Err(Misfit::for_now(
                "node(s) didn't satisfy existing pods anti-affinity rules",
            ));
        }
    }
    Ok(())
}

fn near(p: &Prepared<'_>, node: &Node) -> bool {
    let mut there = true;
    for (term, values) in p.pod.near.iter().zip(&p.near) {
        let Some(value) = node.labels.get(&term.key) else {
            return false;
        };
        there &= values.get(value.as_str()).is_some_and(|n| *n > 0);
    }
    // The first of a group that wants to be together has nobody to join.
    let alone = || p.near.iter().all(|v| v.values().all(|n| *n <= 0));
    there || (alone() && p.pod.near.iter().all(|t| p.is_meant(t)))
}
