//! What is worked out once per decision, before nodes are looked at one by one:
//! where the pods are that the pod wants to be near, apart from or spread among.
//!
//! Must not judge a node.

use std::collections::HashMap;

use crate::cluster::Cluster;
use crate::facts::Facts;
use crate::node::Node;
use crate::storage::{Need, needs};
use crate::terms::{Labels, PodTerm, Spread, Who};

/// Counts by the value of a node label.
pub(crate) type Values<'a> = HashMap<&'a str, i64>;

/// See the module.
#[derive(Clone)]
pub(crate) struct Prepared<'a> {
    pub pod: &'a Facts,
    /// Labels of the pod's namespace.
    pub space: Option<&'a Labels>,
    pub volumes: Vec<Need<'a>>,
    /// Per term of required affinity, pods that match all of them.
    pub near: Vec<Values<'a>>,
    /// Per term of required anti-affinity.
    pub apart: Vec<Values<'a>>,
    /// By label: pods that are there and want this one kept away.
    pub unwelcome: HashMap<&'a str, Values<'a>>,
    pub spread: Vec<Domains<'a>>,
    /// Other users of claims that only one pod may use.
    pub rivals: i64,
    single: Vec<&'a str>,
}

/// The domains of a hard spread constraint.
#[derive(Clone)]
pub(crate) struct Domains<'a> {
    pub constraint: &'a Spread,
    /// 1 when the pod counts itself.
    pub own: i64,
    pub values: Values<'a>,
    /// What the emptiest domain has.
    pub least: i64,
}

impl<'a> Prepared<'a> {
    /// Looks around for a pod; the error says why no node will do.
    pub fn of(cluster: &'a Cluster, pod: &'a Facts) -> Result<Self, String> {
        let mut prepared = Prepared {
            pod,
            space: cluster.namespace_labels(&pod.namespace),
            volumes: needs(cluster, pod)?,
            near: vec![Values::new(); pod.near.len()],
            apart: vec![Values::new(); pod.apart.len()],
            unwelcome: HashMap::new(),
            spread: Vec::new(),
            rivals: 0,
            single: Vec::new(),
        };
        prepared.look_for_affinity(cluster);
        prepared.look_for_domains(cluster);
        prepared.look_for_rivals(cluster);
        Ok(prepared)
    }

    fn look_for_affinity(&mut self, cluster: &'a Cluster) {
        let pod = self.pod;
        if let Some(first) = pod.near.first() {
            for placed in cluster.meant(first) {
                if let Some(node) = cluster.node(&placed.node) {
                    self.shift_near(cluster, node, &placed.facts, 1);
                }
            }
        }
        for (i, term) in pod.apart.iter().enumerate() {
            for placed in cluster.meant(term) {
                let node = cluster.node(&placed.node);
                if let Some(value) = node.and_then(|n| n.labels.get(&term.key)) {
                    *self.apart[i].entry(value).or_default() += 1;
                }
            }
        }
        for group in cluster.apart() {
            if !self.is_meant(&group.term) {
                continue;
            }
            for (node, n) in &group.nodes {
                if let Some(node) = cluster.node(node) {
                    self.shift_unwelcome(&group.term, node, *n);
                }
            }
        }
    }

    fn look_for_domains(&mut self, cluster: &'a Cluster) {
        let hard: Vec<&Spread> = self.pod.spread.iter().filter(|s| s.hard).collect();
        if hard.is_empty() {
            return;
        }
        self.spread = hard
            .into_iter()
            .map(|constraint| Domains {
                constraint,
                own: i64::from(counts(constraint, self.pod, self.pod)),
                values: Values::new(),
                least: 0,
            })
            .collect();
        for node in cluster.nodes().iter().filter(|n| n.known) {
            for i in 0..self.spread.len() {
                if let Some(value) = self.domain(i, node) {
                    self.spread[i].values.entry(value).or_default();
                }
            }
        }
        for i in 0..self.spread.len() {
            for placed in counted(cluster, self.spread[i].constraint, self.pod) {
                let node = cluster.node(placed.1);
                if let Some(value) = node.and_then(|n| self.domain(i, n)) {
                    *self.spread[i].values.entry(value).or_default() += 1;
                }
            }
            self.spread[i].settle();
        }
    }

    /// The domain of a node under a constraint; `None` when the node does not count.
    fn domain(&self, i: usize, node: &'a Node) -> Option<&'a str> {
        let all = self.spread.iter().all(|d| node.labels.contains_key(&d.constraint.key));
        let constraint = self.spread[i].constraint;
        (all && eligible(constraint, self.pod, node)).then(|| node.labels[&constraint.key].as_str())
    }

    fn look_for_rivals(&mut self, cluster: &'a Cluster) {
        let pod = self.pod;
        let single = |name: &&str| cluster.claim(&pod.namespace, name).is_some_and(|c| c.is_single_pod());
        self.single = pod.claims.iter().map(|c| c.name.as_str()).filter(single).collect();
        if self.single.is_empty() {
            return;
        }
        for node in cluster.nodes() {
            for other in &node.pods {
                self.rivals += self.rivalry(other);
            }
        }
    }

    fn rivalry(&self, other: &Facts) -> i64 {
        if self.single.is_empty() || other.namespace != self.pod.namespace || other.uid == self.pod.uid {
            return 0;
        }
        let shared = other.claims.iter().filter(|c| self.single.contains(&c.name.as_str()));
        i64::try_from(shared.count()).unwrap_or(i64::MAX)
    }

    /// Whether a term of another pod means this one.
    pub fn is_meant(&self, term: &PodTerm) -> bool {
        term.matches(&self.pod.namespace, &self.pod.labels, self.space)
    }

    /// Counts another pod on a node `by` times more.
    pub fn shift(&mut self, cluster: &'a Cluster, node: &'a Node, other: &'a Facts, by: i64) {
        self.shift_near(cluster, node, other, by);
        let space = cluster.namespace_labels(&other.namespace);
        for (i, term) in self.pod.apart.iter().enumerate() {
            if term.matches(&other.namespace, &other.labels, space)
                && let Some(value) = node.labels.get(&term.key)
            {
                *self.apart[i].entry(value).or_default() += by;
            }
        }
        for term in &other.apart {
            if self.is_meant(term) {
                self.shift_unwelcome(term, node, by);
            }
        }
        for i in 0..self.spread.len() {
            if counts(self.spread[i].constraint, self.pod, other)
                && let Some(value) = self.domain(i, node)
            {
                *self.spread[i].values.entry(value).or_default() += by;
                self.spread[i].settle();
            }
        }
        self.rivals += self.rivalry(other) * by;
    }

    fn shift_near(&mut self, cluster: &'a Cluster, node: &'a Node, other: &Facts, by: i64) {
        let terms = &self.pod.near;
        let space = cluster.namespace_labels(&other.namespace);
        if terms.is_empty() || !terms.iter().all(|t| t.matches(&other.namespace, &other.labels, space)) {
            return;
        }
        for (i, term) in terms.iter().enumerate() {
            if let Some(value) = node.labels.get(&term.key) {
                *self.near[i].entry(value).or_default() += by;
            }
        }
    }

    fn shift_unwelcome(&mut self, term: &'a PodTerm, node: &'a Node, by: i64) {
        if let Some(value) = node.labels.get(&term.key) {
            let values = self.unwelcome.entry(&term.key).or_default();
            *values.entry(value).or_default() += by;
        }
    }
}

impl Domains<'_> {
    fn settle(&mut self) {
        let few = self.constraint.min_domains.is_some_and(|n| self.values.len() < n);
        let least = if few { None } else { self.values.values().min().copied() };
        self.least = least.unwrap_or(0);
    }
}

/// Whether a node's pods count under a constraint.
pub(crate) fn eligible(constraint: &Spread, pod: &Facts, node: &Node) -> bool {
    let tolerated = || {
        let mut hard = node.taints.iter().filter(|t| t.is_hard());
        hard.all(|taint| pod.tolerations.iter().any(|t| t.tolerates(taint)))
    };
    (!constraint.honor_affinity || pod.chooses(&node.name, &node.labels)) && (!constraint.honor_taints || tolerated())
}

/// Whether a constraint of `pod` counts `other`.
fn counts(constraint: &Spread, pod: &Facts, other: &Facts) -> bool {
    let matches = match &constraint.who {
        Who::Labels(selector) => selector.matches(&other.labels),
        Who::Owner(uid) => other.owner.as_deref() == Some(uid),
    };
    matches && other.namespace == pod.namespace && !other.deleting
}

/// The pods that a constraint counts, each with its node.
pub(crate) fn counted<'a>(
    cluster: &'a Cluster,
    constraint: &'a Spread,
    pod: &'a Facts,
) -> Box<dyn Iterator<Item = (&'a Facts, &'a str)> + 'a> {
    let alive = |p: &&crate::cluster::Placed| !p.facts.deleting && p.facts.namespace == pod.namespace;
    match &constraint.who {
        Who::Labels(selector) => {
            let placed = cluster.selected(&pod.namespace, selector).filter(alive);
            Box::new(placed.map(|p| (&*p.facts, &*p.node)))
        }
        Who::Owner(uid) => {
            let placed = cluster.of_owner(uid).filter(alive);
            Box::new(placed.map(|p| (&*p.facts, &*p.node)))
        }
    }
}
