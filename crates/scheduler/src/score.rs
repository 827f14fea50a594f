//! Which of the nodes that fit is best: upstream's scores and weights, in whole numbers.
//!
//! Must not exclude a node.

use std::collections::HashMap;

use crate::cluster::Cluster;
use crate::node::Node;
use crate::prepare::{Prepared, Values, counted, eligible};
use crate::terms::{PodTerm, Spread};

const MAX: i64 = 100;
/// Sizes between which images count.
const IMAGE_MIN: i64 = 23 << 20;
const IMAGE_MAX: i64 = 1000 << 20;

/// The score of each node.
pub(crate) fn score(cluster: &Cluster, p: &Prepared<'_>, nodes: &[&Node]) -> Vec<i64> {
    let mut totals: Vec<i64> = nodes
        .iter()
        .map(|n| least_allocated(p, n) + balanced(p, n) + images(cluster, p, n))
        .collect();
    let mut add = |weight: i64, scores: Option<Vec<i64>>| {
        for (total, score) in totals.iter_mut().zip(scores.into_iter().flatten()) {
            *total += weight * score;
        }
    };
    add(3, taints(p, nodes));
    add(2, node_affinity(p, nodes));
    add(2, spread(cluster, p, nodes));
    add(2, pod_affinity(cluster, p, nodes));
    totals
}

fn least_allocated(p: &Prepared<'_>, node: &Node) -> i64 {
    let free = |used: i64, wanted: i64, there: i64| {
        if there <= 0 || used + wanted > there {
            0
        } else {
            scale(there - used - wanted, there)
        }
    };
    let cpu = free(node.scored.0, p.pod.scored.0, node.allocatable.cpu);
    let memory = free(node.scored.1, p.pod.scored.1, node.allocatable.memory);
    (cpu + memory) / 2
}

/// `MAX * part / whole` without overflow.
fn scale(part: i64, whole: i64) -> i64 {
    let wide = i128::from(part) * i128::from(MAX) / i128::from(whole.max(1));
    i64::try_from(wide).unwrap_or(0)
}

/// How alike the shares of CPU and memory are that would be used.
fn balanced(p: &Prepared<'_>, node: &Node) -> i64 {
    if p.pod.request.cpu == 0 && p.pod.request.memory == 0 {
        return 0;
    }
    let share = |used: i64, there: i64| {
        let wide = i128::from(used) * 10_000 / i128::from(there.max(1));
        i64::try_from(wide).unwrap_or(10_000).min(10_000)
    };
    let cpu = share(node.used.cpu + p.pod.request.cpu, node.allocatable.cpu);
    let memory = share(node.used.memory + p.pod.request.memory, node.allocatable.memory);
    (10_000 - (cpu - memory).abs() / 2) * MAX / 10_000
}

/// How much of the pod's images is there, weighed by how common they are.
fn images(cluster: &Cluster, p: &Prepared<'_>, node: &Node) -> i64 {
    if node.images.is_empty() || p.pod.images.is_empty() {
        return 0;
    }
    let nodes = i64::try_from(cluster.node_count()).unwrap_or(1).max(1);
    let present = p.pod.images.iter().filter_map(|i| Some((i, node.images.get(i)?)));
    let sum: i64 = present
        .map(|(image, size)| size / nodes * cluster.nodes_with_image(image))
        .sum();
    let max = IMAGE_MAX * i64::try_from(p.pod.containers).unwrap_or(1).max(1);
    scale(sum.clamp(IMAGE_MIN, max) - IMAGE_MIN, max - IMAGE_MIN)
}

/// Disliked taints: the fewer the better.
fn taints(p: &Prepared<'_>, nodes: &[&Node]) -> Option<Vec<i64>> {
    let disliked = |node: &&Node| {
        let soft = node.taints.iter().filter(|t| t.effect == "PreferNoSchedule");
        let open = soft.filter(|taint| !p.pod.tolerations.iter().any(|t| t.tolerates(taint)));
        i64::try_from(open.count()).unwrap_or(i64::MAX)
    };
    let counts: Vec<i64> = nodes.iter().map(disliked).collect();
    let max = counts.iter().copied().max().filter(|m| *m > 0)?;
    Some(counts.into_iter().map(|n| MAX - scale(n, max)).collect())
}

fn node_affinity(p: &Prepared<'_>, nodes: &[&Node]) -> Option<Vec<i64>> {
    if p.pod.preferred.is_empty() {
        return None;
    }
    let sum = |node: &&Node| {
        let held = p.pod.preferred.iter();
        let held = held.filter(|(_, t)| t.matches(&node.name, &node.labels));
        held.map(|(weight, _)| weight).sum()
    };
    let sums: Vec<i64> = nodes.iter().map(sum).collect();
    let max = sums.iter().copied().max().filter(|m| *m > 0)?;
    Some(sums.into_iter().map(|n| scale(n, max)).collect())
}

/// What the pod likes about others, and they about it.
fn pod_affinity(cluster: &Cluster, p: &Prepared<'_>, nodes: &[&Node]) -> Option<Vec<i64>> {
    let mut liked: HashMap<&str, Values<'_>> = HashMap::new();
    for (weight, term) in &p.pod.liked {
        for placed in cluster.meant(term) {
            like(cluster, &mut liked, term, &placed.node, *weight);
        }
    }
    for group in cluster.liked().filter(|g| p.is_meant(&g.term)) {
        for (node, n) in &group.nodes {
            like(cluster, &mut liked, &group.term, node, n * group.weight);
        }
    }
    if liked.is_empty() {
        return None;
    }
    let sum = |node: &&Node| -> i64 {
        let here = liked.iter();
        here.filter_map(|(key, values)| values.get(node.labels.get(*key)?.as_str()))
            .sum()
    };
    let sums: Vec<i64> = nodes.iter().map(sum).collect();
    let (min, max) = (*sums.iter().min()?, *sums.iter().max()?);
    (max > min).then(|| sums.into_iter().map(|n| scale(n - min, max - min)).collect())
}

fn like<'a>(
    cluster: &'a Cluster,
    liked: &mut HashMap<&'a str, Values<'a>>,
    term: &'a PodTerm,
    node: &str,
    weight: i64,
) {
    if let Some(value) = cluster.node(node).and_then(|n| n.labels.get(&term.key)) {
        *liked.entry(&term.key).or_default().entry(value).or_default() += weight;
    }
}

/// Soft spread constraints: the emptier a node's domains the better.
fn spread(cluster: &Cluster, p: &Prepared<'_>, nodes: &[&Node]) -> Option<Vec<i64>> {
    let soft: Vec<&Spread> = p.pod.spread.iter().filter(|s| !s.hard).collect();
    if soft.is_empty() {
        return None;
    }
    let own_rules = soft.iter().any(|s| matches!(s.who, crate::terms::Who::Labels(_)));
    // A node without a label is out of the comparison only when the pod's author named the label.
    let scored = |node: &Node| !own_rules || soft.iter().all(|s| node.labels.contains_key(&s.key));
    let mut sums = vec![0; nodes.len()];
    for constraint in soft.iter().copied() {
        let mut domains: Values<'_> = HashMap::new();
        for node in nodes.iter().filter(|n| scored(n)) {
            if let Some(value) = node.labels.get(&constraint.key) {
                domains.entry(value).or_default();
            }
        }
        for (_, node) in counted(cluster, constraint, p.pod) {
            let node = cluster.node(node).filter(|n| eligible(constraint, p.pod, n));
            let value = node.and_then(|n| n.labels.get(&constraint.key));
            if let Some(n) = value.and_then(|v| domains.get_mut(v.as_str())) {
                *n += 1;
            }
        }
        let weight = log(domains.len() + 2);
        for (sum, node) in sums.iter_mut().zip(nodes) {
            if let Some(value) = node.labels.get(&constraint.key) {
                let n = domains.get(value.as_str()).copied().unwrap_or(0);
                *sum += n * weight + (constraint.max_skew - 1) * 1024;
            }
        }
    }
    let among = || sums.iter().zip(nodes).filter(|(_, n)| scored(n)).map(|(s, _)| *s);
    let (min, max) = (among().min()?, among().max()?);
    let one = |(sum, node): (&i64, &&Node)| match max {
        _ if !scored(node) => 0,
        0 => MAX,
        _ => scale(max + min - sum, max),
    };
    Some(sums.iter().zip(nodes).map(one).collect())
}

/// The natural logarithm in 1024ths, by straight lines between powers of two.
fn log(n: usize) -> i64 {
    let n = n.max(1);
    let whole = n.ilog2();
    let rest = ((n - (1 << whole)) << 10) >> whole;
    let binary = i64::from(whole) * 1024 + i64::try_from(rest).unwrap_or(0);
    binary * 710 / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_close_enough() {
        for (n, want) in [(1, 0), (2, 710), (3, 1125), (100, 4716), (1000, 7074)] {
            assert!((log(n) - want).abs() < 64, "{n}: {}", log(n));
        }
    }
}
