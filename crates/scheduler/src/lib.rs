//! The scheduler, as a pure decision: a value that follows the cluster object
//! by object, and a function that says where a pod goes, or why nowhere.
//!
//! Must not do I/O, read a clock or draw random numbers: ties are broken by a seed.

mod cluster;
mod facts;
mod filter;
mod node;
mod preempt;
mod prepare;
mod resources;
mod score;
mod storage;
mod terms;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;

use meta::Object;

pub use cluster::Cluster;

use facts::Facts;
use filter::{Misfit, fits};
use node::Node;
use preempt::Outcome;
use prepare::Prepared;

/// Where a pod goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// To a node.
    Bind {
        /// Its name.
        node: String,
        /// Claims of the pod that wait for their first consumer, and are to be told of the node
        /// by the annotation `volume.kubernetes.io/selected-node`.
        select_claims: Vec<String>,
    },
    /// Nowhere for now.
    Wait {
        /// Why, as the event `FailedScheduling` says it.
        message: String,
        /// What would make room.
        preempt: Option<Preemption>,
    },
}

/// Less important pods that would have to leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preemption {
    /// The node that they leave: `status.nominatedNodeName` of the pod.
    pub node: String,
    /// Namespace, name and uid of each.
    pub victims: Vec<(String, String, String)>,
}

/// Up to so many nodes are all looked at; of more, only a share.
const LOOK_AT_ALL: usize = 100;

/// Decides about a pod that is not bound. The same cluster, pod and seed give the same decision.
pub fn schedule(cluster: &Cluster, pod: &Object, seed: u64) -> Decision {
    let facts = Facts::of(pod);
    let all = cluster.node_count();
    if all == 0 {
        return wait("no nodes available to schedule pods".into(), None);
    }
    let prepared = match Prepared::of(cluster, &facts) {
        Ok(prepared) => prepared,
        Err(why) => {
            let hopeless = BTreeMap::from([("Preemption is not helpful for scheduling".to_owned(), all)]);
            let tail = explain(all, &hopeless);
            return wait(format!("0/{all} nodes are available: {why}. preemption: {tail}"), None);
        }
    };
    let (feasible, misfits, others) = sift(cluster, &prepared, seed);
    if feasible.is_empty() {
        return failed(cluster, &prepared, &misfits, others, seed);
    }
    let node = best(cluster, &prepared, &feasible, seed);
    Decision::Bind {
        node: node.name.to_string(),
        select_claims: storage::to_select(&prepared.volumes, &node.name),
    }
}

fn wait(message: String, preempt: Option<Preemption>) -> Decision {
    Decision::Wait { message, preempt }
}

type Sifted<'a> = (Vec<&'a Node>, Vec<(&'a Node, Misfit)>, usize);

/// The nodes that fit, those that do not, and the number of those that were not looked at.
fn sift<'a>(cluster: &'a Cluster, p: &Prepared<'a>, seed: u64) -> Sifted<'a> {
    let (mut feasible, mut misfits) = (Vec::new(), Vec::new());
    if let Some(names) = p.pod.required.as_ref().and_then(|r| r.names()) {
        // Pods of a DaemonSet name their node: the others need no look.
        for node in names.iter().filter_map(|n| cluster.node(n)) {
            match fits(p, node) {
                Ok(()) => feasible.push(node),
                Err(misfit) => misfits.push((node, misfit)),
            }
        }
        let others = cluster.node_count().saturating_sub(feasible.len() + misfits.len());
        return (feasible, misfits, others);
    }
    let nodes = cluster.nodes();
    let enough = enough(cluster.node_count());
    let start = usize::try_from(seed % (nodes.len().max(1) as u64)).unwrap_or(0);
    let (after, before) = (&nodes[start..], &nodes[..start]);
    for node in after.iter().chain(before).filter(|n| n.known) {
        match fits(p, node) {
            Ok(()) => feasible.push(node),
            Err(misfit) => misfits.push((node, misfit)),
        }
        if feasible.len() >= enough {
            break;
        }
    }
    (feasible, misfits, 0)
}

/// How many nodes that fit are enough to choose among: upstream's adaptive share.
fn enough(nodes: usize) -> usize {
    if nodes <= LOOK_AT_ALL {
        return nodes;
    }
    let percent = 50usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(LOOK_AT_ALL)
}

fn best<'a>(cluster: &'a Cluster, p: &Prepared<'a>, feasible: &[&'a Node], seed: u64) -> &'a Node {
    if let [only] = feasible {
        return only;
    }
    let scores = score::score(cluster, p, feasible);
    let top = scores.iter().max();
    let ties: Vec<&Node> = (feasible.iter().zip(&scores))
        .filter(|(_, s)| Some(*s) == top)
        .map(|(n, _)| *n)
        .collect();
    let pick = usize::try_from(mix(seed) % (ties.len().max(1) as u64)).unwrap_or(0);
    ties.get(pick).copied().unwrap_or(feasible[0])
}

/// Spreads the seed, whose low bits chose the first node already.
fn mix(seed: u64) -> u64 {
    let n = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    n ^ (n >> 31)
}

fn failed<'a>(
    cluster: &'a Cluster,
    p: &Prepared<'a>,
    misfits: &[(&'a Node, Misfit)],
    others: usize,
    seed: u64,
) -> Decision {
    let mut reasons: BTreeMap<Cow<'_, str>, usize> = BTreeMap::new();
    for reason in misfits.iter().flat_map(|(_, m)| &m.reasons) {
        *reasons.entry(reason.clone()).or_default() += 1;
    }
    if others > 0 {
        reasons.insert("node(s) didn't satisfy plugin(s) [NodeAffinity]".into(), others);
    }
    let message = explain(cluster.node_count(), &reasons);
    match preempt::preempt(cluster, p, misfits, others, seed) {
        Outcome::Found(preemption) => wait(message, Some(preemption)),
        Outcome::Nothing(why) => wait(format!("{message} preemption: {why}"), None),
    }
}

/// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
fn explain<T: AsRef<str>>(all: usize, reasons: &BTreeMap<T, usize>) -> String {
    let mut list: Vec<String> = reasons.iter().map(|(r, n)| format!("{n} {}", r.as_ref())).collect();
    list.sort();
    format!("0/{all} nodes are available: {}.", list.join(", "))
}

/// The order in which pods are to be decided about: the more important first, then the older.
pub fn queue_order(pod: &Object) -> (Reverse<i64>, i64) {
    let facts = Facts::of(pod);
    let made = facts::seconds(pod.header().creation_timestamp.as_deref());
    (Reverse(facts.priority.into()), made)
}
