//! The cluster as the scheduler sees it: kept up to date object by object.
//!
//! Must not decide; must not look at a pod's object more than once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use meta::{LabelSelector, Object};

use crate::facts::Facts;
use crate::node::Node;
use crate::storage::{Claim, Class, Volume};
use crate::terms::{Labels, PodTerm, selector};

/// Nodes with what their pods use, pods by label, and the facts about volumes and budgets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    /// By name.
    nodes: Vec<Node>,
    /// How many of them have an object.
    known: usize,
    /// How many nodes have an image.
    images: HashMap<String, i64>,
    pods: Pods,
    /// Those of them that are not known to be bound.
    assumed: HashSet<Arc<str>>,
    spaces: HashMap<String, Space>,
    owners: HashMap<String, Pods>,
    /// Required anti-affinity of pods that are there.
    apart: Groups,
    /// Preferences of pods that are there, and required affinity as one.
    liked: Groups,
    nominated: HashMap<Arc<str>, Arc<str>>,
    namespaces: HashMap<String, Labels>,
    claims: HashMap<String, HashMap<String, Claim>>,
    volumes: BTreeMap<String, Volume>,
    classes: HashMap<String, Class>,
    budgets: BTreeMap<(String, String), Budget>,
}

type Pods = HashMap<Arc<str>, Arc<Placed>>;
type Groups = HashMap<Box<str>, Group>;

/// A pod on a node.
#[derive(Debug, PartialEq)]
pub(crate) struct Placed {
    pub facts: Arc<Facts>,
    pub node: Arc<str>,
}

/// The pods of a namespace, by label.
#[derive(Clone, Debug, Default, PartialEq)]
struct Space {
    pods: Pods,
    labels: HashMap<String, HashMap<String, Pods>>,
}

/// Where the pods are that share a term.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Group {
    pub term: PodTerm,
    pub weight: i64,
    pub nodes: BTreeMap<Arc<str>, i64>,
}

/// How many pods of a kind may go.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Budget {
    pub selector: LabelSelector,
    pub allowed: i32,
}

impl Cluster {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a node in, or its new state.
    pub fn set_node(&mut self, object: &Arc<Object>) {
        let at = self.node_slot(object.name());
        let Some(node) = self.nodes.get_mut(at) else { return };
        let before = std::mem::take(&mut node.images);
        self.known += usize::from(!node.known);
        node.read(object);
        let after: Vec<String> = node.images.keys().cloned().collect();
        self.count_images(before.into_keys(), -1);
        self.count_images(after.into_iter(), 1);
    }

    /// Forgets a node; its pods are counted again when it comes back.
    pub fn remove_node(&mut self, name: &str) {
        let Ok(at) = self.find(name) else { return };
        let node = &mut self.nodes[at];
        self.known -= usize::from(node.known);
        let images = std::mem::take(&mut node.images);
        node.lose();
        self.count_images(images.into_keys(), -1);
        self.drop_idle(name);
    }

    fn count_images(&mut self, names: impl Iterator<Item = String>, by: i64) {
        for name in names {
            bump(&mut self.images, name, by);
        }
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.nodes.binary_search_by(|n| (*n.name).cmp(name))
    }

    fn node_slot(&mut self, name: &str) -> usize {
        self.find(name).unwrap_or_else(|at| {
            self.nodes.insert(at, Node::named(name));
            at
        })
    }

    fn drop_idle(&mut self, name: &str) {
        if let Ok(at) = self.find(name)
            && self.nodes[at].is_idle()
        {
            self.nodes.remove(at);
        }
    }

    /// Takes a pod in, or its new state: it counts when it is bound and not finished. One that
    /// is not bound yet stays where it was assumed.
    pub fn set_pod(&mut self, object: &Arc<Object>) {
        let facts = Facts::of(object);
        if facts.finished {
            self.remove_pod(&facts.uid);
        } else if facts.node.is_empty() {
            self.nominate(facts);
        } else {
            self.assumed.remove(&facts.uid);
            self.place(facts);
        }
    }

    /// Forgets a pod.
    pub fn remove_pod(&mut self, uid: &str) {
        self.take_off(uid);
        self.unnominate(uid);
    }

    /// Counts a pod on a node until [`Cluster::set_pod`] brings the truth.
    pub fn assume(&mut self, pod: &Arc<Object>, node: &str) {
        let mut facts = Facts::of(pod);
        facts.node = node.to_owned();
        self.assumed.insert(facts.uid.clone());
        self.place(facts);
    }

    /// Takes an assumption back; does nothing to a pod that is known to be bound.
    pub fn forget(&mut self, uid: &str) {
        if self.assumed.contains(uid) {
            self.take_off(uid);
        }
    }

    fn nominate(&mut self, facts: Facts) {
        self.unnominate(&facts.uid);
        if facts.nominated.is_empty() || self.pods.contains_key(&facts.uid) {
            return;
        }
        let at = self.node_slot(&facts.nominated);
        let node = &mut self.nodes[at];
        self.nominated.insert(facts.uid.clone(), node.name.clone());
        node.nominated.push(Arc::new(facts));
    }

    fn unnominate(&mut self, uid: &str) {
        let Some(name) = self.nominated.remove(uid) else {
            return;
        };
        if let Ok(at) = self.find(&name) {
            self.nodes[at].nominated.retain(|p| &*p.uid != uid);
        }
        self.drop_idle(&name);
    }

    fn place(&mut self, facts: Facts) {
        if self.pods.get(&facts.uid).is_some_and(|p| *p.facts == facts) {
            // Most news of a pod is about what does not matter here.
            return;
        }
        self.unnominate(&facts.uid);
        let assumed = self.assumed.contains(&facts.uid);
        self.take_off(&facts.uid);
        if assumed {
            self.assumed.insert(facts.uid.clone());
        }
        let at = self.node_slot(&facts.node);
        let facts = Arc::new(facts);
        self.nodes[at].add(&facts);
        let placed = Arc::new(Placed {
            facts: facts.clone(),
            node: self.nodes[at].name.clone(),
        });
        let uid = facts.uid.clone();
        let space = self.spaces.entry(facts.namespace.clone()).or_default();
        space.pods.insert(uid.clone(), placed.clone());
        for (key, value) in &facts.labels {
            let values = space.labels.entry(key.clone()).or_default();
            let pods = values.entry(value.clone()).or_default();
            pods.insert(uid.clone(), placed.clone());
        }
        if let Some(owner) = &facts.owner {
            let pods = self.owners.entry(owner.clone()).or_default();
            pods.insert(uid.clone(), placed.clone());
        }
        self.count_terms(&placed, 1);
        self.pods.insert(uid, placed);
    }

    fn take_off(&mut self, uid: &str) {
        self.assumed.remove(uid);
        let Some(placed) = self.pods.remove(uid) else { return };
        let facts = &placed.facts;
        if let Ok(at) = self.find(&placed.node) {
            self.nodes[at].remove(uid);
        }
        self.drop_idle(&placed.node);
        if let Some(space) = self.spaces.get_mut(&facts.namespace) {
            space.remove(facts);
            if space.pods.is_empty() {
                self.spaces.remove(&facts.namespace);
            }
        }
        if let Some(owner) = &facts.owner
            && let Some(pods) = self.owners.get_mut(owner)
        {
            pods.remove(uid);
            if pods.is_empty() {
                self.owners.remove(owner);
            }
        }
        self.count_terms(&placed, -1);
    }

    fn count_terms(&mut self, placed: &Placed, by: i64) {
        for term in &placed.facts.apart {
            count(&mut self.apart, term, 0, &placed.node, by);
        }
        for (weight, term) in &placed.facts.liked {
            count(&mut self.liked, term, *weight, &placed.node, by);
        }
        for term in &placed.facts.near {
            count(&mut self.liked, term, 1, &placed.node, by);
        }
    }

    /// Takes a claim in.
    pub fn set_claim(&mut self, object: &Arc<Object>) {
        let space = self.claims.entry(object.namespace().to_owned()).or_default();
        space.insert(object.name().to_owned(), Claim::of(object));
    }

    /// Forgets a claim.
    pub fn remove_claim(&mut self, namespace: &str, name: &str) {
        if let Some(space) = self.claims.get_mut(namespace) {
            space.remove(name);
            if space.is_empty() {
                self.claims.remove(namespace);
            }
        }
    }

    /// Takes a volume in.
    pub fn set_volume(&mut self, object: &Arc<Object>) {
        self.volumes.insert(object.name().to_owned(), Volume::of(object));
    }

    /// Forgets a volume.
    pub fn remove_volume(&mut self, name: &str) {
        self.volumes.remove(name);
    }

    /// Takes a storage class in.
    pub fn set_class(&mut self, object: &Arc<Object>) {
        self.classes.insert(object.name().to_owned(), Class::of(object));
    }

    /// Forgets a storage class.
    pub fn remove_class(&mut self, name: &str) {
        self.classes.remove(name);
    }

    /// Takes in the labels of a namespace.
    pub fn set_namespace(&mut self, object: &Arc<Object>) {
        let labels = object.labels().clone();
        self.namespaces.insert(object.name().to_owned(), labels);
    }

    /// Forgets a namespace.
    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// Takes a PodDisruptionBudget in.
    pub fn set_budget(&mut self, object: &Arc<Object>) {
        let Ok(budget) = object.view::<PodDisruptionBudget>() else {
            return;
        };
        let wanted = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
        let allowed = budget.status.as_ref().and_then(|s| s.disruptions_allowed);
        let budget = Budget {
            selector: selector(wanted, None, None, &Labels::new()),
            allowed: allowed.unwrap_or(0),
        };
        let key = (object.namespace().to_owned(), object.name().to_owned());
        self.budgets.insert(key, budget);
    }

    /// Forgets a PodDisruptionBudget.
    pub fn remove_budget(&mut self, namespace: &str, name: &str) {
        self.budgets.remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// How many nodes there are.
    pub fn node_count(&self) -> usize {
        self.known
    }

    /// How many pods are counted, assumed ones included.
    pub fn pod_count(&self) -> usize {
        self.pods.len()
    }
}

/// What decisions look at.
impl Cluster {
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(crate) fn node(&self, name: &str) -> Option<&Node> {
        let node = &self.nodes[self.find(name).ok()?];
        node.known.then_some(node)
    }

    pub(crate) fn nodes_with_image(&self, image: &str) -> i64 {
        self.images.get(image).copied().unwrap_or(0)
    }

    pub(crate) fn namespace_labels(&self, name: &str) -> Option<&Labels> {
        self.namespaces.get(name)
    }

    pub(crate) fn claim(&self, namespace: &str, name: &str) -> Option<&Claim> {
        self.claims.get(namespace)?.get(name)
    }

    pub(crate) fn volume(&self, name: &str) -> Option<&Volume> {
        self.volumes.get(name)
    }

    pub(crate) fn volumes(&self) -> impl Iterator<Item = &Volume> {
        self.volumes.values()
    }

    pub(crate) fn class(&self, name: &str) -> Option<&Class> {
        self.classes.get(name)
    }

    pub(crate) fn budgets(&self) -> impl Iterator<Item = (&str, &Budget)> {
        self.budgets.iter().map(|((namespace, _), b)| (namespace.as_str(), b))
    }

    /// Terms that keep pods away from those that have them.
    pub(crate) fn apart(&self) -> impl Iterator<Item = &Group> {
        self.apart.values()
    }

    /// Terms by which pods that are there like or dislike others.
    pub(crate) fn liked(&self) -> impl Iterator<Item = &Group> {
        self.liked.values()
    }

    pub(crate) fn of_owner(&self, uid: &str) -> impl Iterator<Item = &Placed> {
        self.owners.get(uid).into_iter().flat_map(|p| p.values()).map(|p| &**p)
    }

    /// The pods of a namespace that a selector matches.
    pub(crate) fn selected<'a>(
        &'a self,
        namespace: &str,
        selector: &'a LabelSelector,
    ) -> impl Iterator<Item = &'a Placed> {
        let space = self.spaces.get(namespace);
        let candidates = space.and_then(|s| s.candidates(selector));
        let candidates = candidates.into_iter().flat_map(|p| p.values());
        candidates.map(|p| &**p).filter(|p| selector.matches(&p.facts.labels))
    }

    /// The pods that a term means.
    pub(crate) fn meant<'a>(&'a self, term: &'a PodTerm) -> impl Iterator<Item = &'a Placed> {
        let spaces = self.spaces.keys();
        let spaces = spaces.filter(|n| term.meant(n, self.namespaces.get(*n)));
        spaces.flat_map(|n| self.selected(n, &term.selector))
    }
}

impl Space {
    /// The fewest pods among which all that match are.
    fn candidates(&self, selector: &LabelSelector) -> Option<&Pods> {
        let mut best = &self.pods;
        for (key, value) in selector.exact() {
            let pods = self.labels.get(key)?.get(value)?;
            if pods.len() < best.len() {
                best = pods;
            }
        }
        Some(best)
    }

    fn remove(&mut self, facts: &Facts) {
        self.pods.remove(&facts.uid);
        for (key, value) in &facts.labels {
            let Some(values) = self.labels.get_mut(key) else {
                continue;
            };
            if let Some(pods) = values.get_mut(value) {
                pods.remove(&facts.uid);
                if pods.is_empty() {
                    values.remove(value);
                }
            }
            if values.is_empty() {
                self.labels.remove(key);
            }
        }
    }
}

fn count(groups: &mut Groups, term: &PodTerm, weight: i64, node: &Arc<str>, by: i64) {
    let id: Box<str> = format!("{weight}|{}", term.id).into();
    let group = groups.entry(id.clone()).or_insert_with(|| Group {
        term: term.clone(),
        weight,
        nodes: BTreeMap::new(),
    });
    let n = group.nodes.entry(node.clone()).or_default();
    *n += by;
    if *n == 0 {
        group.nodes.remove(node);
    }
    if group.nodes.is_empty() {
        groups.remove(&id);
    }
}

fn bump(counts: &mut HashMap<String, i64>, name: String, by: i64) {
    let n = counts.entry(name.clone()).or_default();
    *n += by;
    if *n == 0 {
        counts.remove(&name);
    }
}
