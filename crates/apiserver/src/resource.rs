//! The resources that are served: each a kind with its cache. Looked up by
//! path, by store key, by kind. Must not know any kind by name.

use std::collections::HashMap;
use std::sync::Arc;

use kinds::{Kind, Subresource, Text};
use meta::{Gvr, Status};

use crate::cache::{KindCache, PREFIX};

/// A kind that is served, with its cache.
pub struct Resource {
    /// Names, schema and strategy.
    pub kind: Arc<Kind>,
    /// Store key prefix, `/registry/<group>/<plural>/`.
    pub prefix: String,
    /// `apps/v1`.
    pub api_version: String,
    /// Present objects.
    pub cache: KindCache,
    /// Whether `metadata.generation` counts changes of the spec.
    pub counts_generation: bool,
}

impl Resource {
    fn new(kind: Arc<Kind>) -> Arc<Self> {
        let group = if kind.group.is_empty() { "core" } else { &*kind.group };
        Arc::new(Resource {
            prefix: format!("{PREFIX}{group}/{}/", kind.plural),
            api_version: kind.gvr().api_version(),
            cache: KindCache::new(kind.clone()),
            counts_generation: kind.custom || counts_generation(&kind),
            kind,
        })
    }

    /// Store key of an object.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        format!("{}{}", self.prefix, object_key(namespace, name))
    }

    /// Whether objects are stored; a review, for one, is only answered.
    pub fn is_stored(&self) -> bool {
        self.kind.verbs.contains(&"get")
    }

    /// 404 for an object.
    pub fn not_found(&self, name: &str) -> Status {
        Status::not_found(&self.kind.group, &self.kind.plural, name)
    }

    /// A subresource with a handler of its own: its name, kind of body and verbs.
    pub fn custom(&self, name: &str) -> Option<(&'static str, &'static [&'static str])> {
        self.kind.subresources.iter().find_map(|s| match s {
            Subresource::Custom(n, body, verbs) if *n == name => Some((*body, *verbs)),
            _ => None,
        })
    }
}

/// `namespace/name`, or `name` when cluster-scoped.
pub fn object_key(namespace: &str, name: &str) -> String {
    if namespace.is_empty() {
        name.to_owned()
    } else {
        format!("{namespace}/{name}")
    }
}

/// Upstream counts generations only of some built-in kinds, and of every custom one.
fn counts_generation(kind: &Kind) -> bool {
    match &*kind.group {
        "" => matches!(&*kind.plural, "pods" | "replicationcontrollers"),
        "apps" => kind.plural != "controllerrevisions",
        "batch" | "policy" | "networking.k8s.io" | "admissionregistration.k8s.io" => true,
        "apiextensions.k8s.io" | "flowcontrol.apiserver.k8s.io" => true,
        group => !group.ends_with(".k8s.io") && group != "autoscaling",
    }
}

/// All resources.
pub struct Catalog {
    by_plural: HashMap<Text, Vec<Arc<Resource>>>,
    ordered: Vec<Arc<Resource>>,
}

impl Catalog {
    /// From the registry of kinds.
    pub fn new(kinds: impl IntoIterator<Item = Arc<Kind>>) -> Self {
        let ordered: Vec<Arc<Resource>> = kinds.into_iter().map(Resource::new).collect();
        let mut by_plural: HashMap<Text, Vec<Arc<Resource>>> = HashMap::new();
        for r in &ordered {
            by_plural.entry(r.kind.plural.clone()).or_default().push(r.clone());
        }
        Catalog { by_plural, ordered }
    }

    /// The built-in kinds.
    pub fn built_in() -> Self {
        Self::new(kinds::all().iter().cloned())
    }

    /// By group and plural.
    pub fn find(&self, group: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.by_plural.get(plural)?.iter().find(|r| r.kind.group == group)
    }

    /// By group, version and plural, as a path names it.
    pub fn resolve(&self, gvr: &Gvr) -> Result<&Arc<Resource>, Status> {
        let found = self.find(&gvr.group, &gvr.resource);
        found
            .filter(|r| r.kind.version == gvr.version)
            .ok_or_else(Status::no_such_path)
    }

    /// By group and kind.
    pub fn of_kind(&self, group: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.ordered
            .iter()
            .find(|r| r.kind.group == group && r.kind.kind == kind)
    }

    /// Whether nothing is served.
    pub fn is_empty(&self) -> bool {
        self.ordered.is_empty()
    }

    /// All, in the registry's order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.ordered.iter()
    }

    /// Those whose objects are stored.
    pub fn stored(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.ordered.iter().filter(|r| r.is_stored())
    }

    /// The resource of a store key, and the rest of the key.
    pub fn of_key<'k>(&self, key: &'k str) -> Option<(&Arc<Resource>, &'k str)> {
        let (group, rest) = key.strip_prefix(PREFIX)?.split_once('/')?;
        let (plural, rest) = rest.split_once('/')?;
        let group = if group == "core" { "" } else { group };
        Some((self.find(group, plural)?, rest))
    }

    /// Group versions, each once, core first.
    pub fn group_versions(&self) -> Vec<(&str, &str)> {
        let mut out: Vec<(&str, &str)> = Vec::new();
        for r in &self.ordered {
            let gv = (&*r.kind.group, &*r.kind.version);
            if !out.contains(&gv) {
                out.push(gv);
            }
        }
        out.sort_by_key(|(g, _)| !g.is_empty());
        out
    }
}
