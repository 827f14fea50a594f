//! Which pods would have to leave so that a more important one fits.
//!
//! Must not write: the caller evicts the victims and notes the node.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::Preemption;
use crate::cluster::Cluster;
use crate::explain;
use crate::facts::Facts;
use crate::filter::{Misfit, fits};
use crate::node::Node;
use crate::prepare::Prepared;

/// What was found.
pub(crate) enum Outcome {
    Found(Preemption),
    /// What the message ends with.
    Nothing(String),
}

/// Victims on one node, the most important first.
struct Candidate<'a> {
    node: &'a Node,
    victims: Vec<&'a Arc<Facts>>,
    /// How many of them their budgets do not allow to go.
    violations: usize,
}

/// Looks for a node where the pod fits once less important pods are gone.
pub(crate) fn preempt<'a>(
    cluster: &'a Cluster,
    p: &Prepared<'a>,
    misfits: &[(&'a Node, Misfit)],
    others: usize,
    seed: u64,
) -> Outcome {
    if p.pod.never_preempts {
        return Outcome::Nothing("not eligible due to preemptionPolicy=Never.".into());
    }
    if waits(cluster, p.pod) {
        return Outcome::Nothing("not eligible due to a terminating pod on the nominated node.".into());
    }
    let all = misfits.len() + others;
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let hopeless = misfits.iter().filter(|(_, m)| !m.resolvable).count() + others;
    if hopeless > 0 {
        reasons.insert("Preemption is not helpful for scheduling".into(), hopeless);
    }
    let hopeful: Vec<&Node> = misfits.iter().filter(|(_, m)| m.resolvable).map(|(n, _)| *n).collect();
    let enough = (hopeful.len() / 10).max(100);
    let mut candidates = Vec::new();
    let offset = usize::try_from(seed % (hopeful.len().max(1) as u64)).unwrap_or(0);
    for node in hopeful.iter().cycle().skip(offset).take(hopeful.len()) {
        match victims(cluster, p, node) {
            Ok(candidate) => candidates.push(candidate),
            Err(why) => {
                for reason in why {
                    *reasons.entry(reason).or_default() += 1;
                }
            }
        }
        if candidates.len() >= enough {
            break;
        }
    }
    match candidates.into_iter().min_by_key(rank) {
        Some(best) => {
            let name = |v: &&Arc<Facts>| (v.namespace.clone(), v.name.clone(), v.uid.to_string());
            Outcome::Found(Preemption {
                node: best.node.name.to_string(),
                victims: best.victims.iter().map(name).collect(),
            })
        }
        None => Outcome::Nothing(explain(all, &reasons)),
    }
}

/// Whether pods are already leaving for this one.
fn waits(cluster: &Cluster, pod: &Facts) -> bool {
    let node = (!pod.nominated.is_empty())
        .then(|| cluster.node(&pod.nominated))
        .flatten();
    node.is_some_and(|n| n.pods.iter().any(|p| p.deleting && p.priority < pod.priority))
}

/// Upstream's order: few violations, unimportant victims, few of them, and young ones.
fn rank(c: &Candidate<'_>) -> (usize, i32, i64, usize, Reverse<i64>) {
    let highest = c.victims.first().map_or(i32::MIN, |v| v.priority);
    let sum = c.victims.iter().map(|v| i64::from(v.priority) + (1 << 31)).sum();
    let top = c.victims.iter().filter(|v| v.priority == highest);
    let earliest = top.map(|v| v.started).min().unwrap_or(0);
    (c.violations, highest, sum, c.victims.len(), Reverse(earliest))
}

/// The fewest pods that have to leave a node; the error says why that does not help.
fn victims<'a>(cluster: &'a Cluster, p: &Prepared<'a>, node: &'a Node) -> Result<Candidate<'a>, Vec<String>> {
    let mut lower: Vec<&'a Arc<Facts>> = node.pods.iter().filter(|o| o.priority < p.pod.priority).collect();
    if lower.is_empty() {
        return Err(vec!["No preemption victims found for incoming pod".into()]);
    }
    lower.sort_by_key(|v| (Reverse(v.priority), v.started));
    let mut trial = node.clone();
    let mut state = p.clone();
    for other in &lower {
        trial.remove(&other.uid);
        state.shift(cluster, node, other, -1);
    }
    fits(&state, &trial).map_err(|m| m.reasons.into_iter().map(String::from).collect::<Vec<_>>())?;
    let (protected, free) = split_by_budget(cluster, &lower);
    let mut victims = Vec::new();
    let mut violations = 0;
    for (other, is_protected) in protected
        .iter()
        .map(|o| (o, true))
        .chain(free.iter().map(|o| (o, false)))
    {
        trial.add(other);
        state.shift(cluster, node, other, 1);
        if fits(&state, &trial).is_err() {
            trial.remove(&other.uid);
            state.shift(cluster, node, other, -1);
            victims.push(*other);
            violations += usize::from(is_protected);
        }
    }
    victims.sort_by_key(|v| (Reverse(v.priority), v.started));
    Ok(Candidate {
        node,
        victims,
        violations,
    })
}

type Split<'a> = (Vec<&'a Arc<Facts>>, Vec<&'a Arc<Facts>>);

/// Those whose going their budgets do not allow, and the others.
fn split_by_budget<'a>(cluster: &Cluster, pods: &[&'a Arc<Facts>]) -> Split<'a> {
    let mut budgets: Vec<_> = cluster.budgets().map(|(n, b)| (n, &b.selector, b.allowed)).collect();
    pods.iter().partition(|pod| {
        let mut violates = false;
        for (namespace, selector, allowed) in &mut budgets {
            if *namespace == pod.namespace && !pod.labels.is_empty() && selector.matches(&pod.labels) {
                *allowed -= 1;
                violates |= *allowed < 0;
            }
        }
        violates
    })
}
