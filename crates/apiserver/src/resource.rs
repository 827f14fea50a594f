//! The resources that are served: each a kind with its cache. Looked up by
//! path, by store key, by kind. Must not know any kind by name.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use kinds::{Kind, Subresource, Text};
use meta::{Gvr, Status};

use crate::cache::{KindCache, PREFIX};
use crate::projection::{Projection, Second};

/// A kind in one version, with the cache of its objects in that version.
pub struct Resource {
    /// Names, schema and strategy.
    pub kind: Arc<Kind>,
    /// Store key prefix, `/registry/<group>/<plural>/`.
    pub prefix: String,
    /// `apps/v1`.
    pub api_version: String,
    /// Present objects.
    pub cache: Arc<KindCache>,
    /// Whether `metadata.generation` counts changes of the spec.
    pub counts_generation: bool,
    /// Whether clients see this version.
    pub served: bool,
    /// Set when objects are stored in another version.
    pub projection: Option<Projection>,
}

impl Resource {
    /// A resource whose objects are stored as they are served.
    pub(crate) fn new(kind: Arc<Kind>) -> Self {
        let group = if kind.group.is_empty() { "core" } else { &*kind.group };
        Resource {
            prefix: format!("{PREFIX}{group}/{}/", kind.plural),
            api_version: kind.gvr().api_version(),
            cache: Arc::new(KindCache::new(kind.clone())),
            counts_generation: kind.custom || counts_generation(&kind),
            served: true,
            projection: None,
            kind,
        }
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

/// All resources: the built-in ones, which never change, and custom ones, which come and go.
pub struct Catalog {
    built_in: Index,
    custom: RwLock<Arc<Index>>,
    /// Grows with every change of the custom ones.
    generation: AtomicU64,
}

/// Versions of a resource stand together, the preferred one first.
#[derive(Default)]
struct Index {
    by_plural: HashMap<Text, Vec<Arc<Resource>>>,
    ordered: Vec<Arc<Resource>>,
}

impl Index {
    fn new(ordered: Vec<Arc<Resource>>) -> Self {
        let mut by_plural: HashMap<Text, Vec<Arc<Resource>>> = HashMap::new();
        for r in &ordered {
            by_plural.entry(r.kind.plural.clone()).or_default().push(r.clone());
        }
        Index { by_plural, ordered }
    }

    fn named(&self, group: &str, plural: &str) -> impl Iterator<Item = &Arc<Resource>> {
        let all = self.by_plural.get(plural).map_or(&[][..], Vec::as_slice);
        all.iter().filter(move |r| r.kind.group == group)
    }

    fn resolve(&self, gvr: &Gvr) -> Option<&Arc<Resource>> {
        let mut all = self.named(&gvr.group, &gvr.resource);
        all.find(|r| r.served && r.kind.version == gvr.version)
    }

    fn stored(&self, group: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.named(group, plural).find(|r| r.projection.is_none())
    }
}

impl Catalog {
    /// From the registry of kinds.
    pub fn new(kinds: impl IntoIterator<Item = Arc<Kind>>) -> Self {
        let resources = kinds.into_iter().map(|kind| Arc::new(Resource::new(kind)));
        Catalog {
            built_in: Index::new(resources.collect()),
            custom: RwLock::default(),
            generation: AtomicU64::new(0),
        }
    }

    /// The built-in kinds, and the second versions of some.
    pub fn built_in() -> Self {
        let mut catalog = Self::new(kinds::all().iter().cloned());
        let mut all = std::mem::take(&mut catalog.built_in).ordered;
        for second in kinds::versions::all() {
            let base = all.iter().find(|r| r.kind.gvr() == second.stored).cloned();
            if let Some(base) = base {
                let mut resource = Resource::new(second.kind.clone());
                resource.prefix.clone_from(&base.prefix);
                resource.projection = Some(Projection::new(base, Arc::new(Second(second))));
                all.push(Arc::new(resource));
            }
        }
        catalog.built_in = Index::new(all);
        catalog
    }

    fn custom(&self) -> Arc<Index> {
        self.custom.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts custom resources in the place of those with the same group and plural; with none, takes
    /// those away.
    pub(crate) fn replace(&self, group: &str, plural: &str, with: Vec<Arc<Resource>>) {
        let mut custom = self.custom.write().unwrap_or_else(PoisonError::into_inner);
        let mut ordered = custom.ordered.clone();
        ordered.retain(|r| (&*r.kind.group, &*r.kind.plural) != (group, plural));
        ordered.extend(with);
        ordered.sort_by(|a, b| {
            let names = |r: &Resource| (r.kind.group.clone(), r.kind.plural.clone());
            names(a)
                .cmp(&names(b))
                .then_with(|| meta::version_order(&a.kind.version, &b.kind.version))
        });
        *custom = Arc::new(Index::new(ordered));
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Changes with every change of what is served.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// A built-in resource by group and plural.
    pub fn find(&self, group: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.built_in.stored(group, plural)
    }

    /// All versions of a custom resource.
    pub(crate) fn versions(&self, group: &str, plural: &str) -> Vec<Arc<Resource>> {
        self.custom().named(group, plural).cloned().collect()
    }

    /// A custom resource in the version in which it is stored.
    pub(crate) fn find_custom(&self, group: &str, plural: &str) -> Option<Arc<Resource>> {
        self.custom().stored(group, plural).cloned()
    }

    /// By group, version and plural, as a path names it.
    pub fn resolve(&self, gvr: &Gvr) -> Result<Arc<Resource>, Status> {
        let built_in = self.built_in.resolve(gvr).cloned();
        let found = built_in.or_else(|| self.custom().resolve(gvr).cloned());
        found.ok_or_else(Status::no_such_path)
    }

    /// By group and kind, in the version that is preferred.
    pub fn of_kind(&self, group: &str, kind: &str) -> Option<Arc<Resource>> {
        let mut all = self.all().into_iter();
        all.find(|r| r.kind.group == group && r.kind.kind == kind)
    }

    /// All that are served, built-in ones first, in the registry's order.
    pub fn all(&self) -> Vec<Arc<Resource>> {
        let custom = self.custom();
        let all = self.built_in.ordered.iter().chain(&custom.ordered);
        all.filter(|r| r.served).cloned().collect()
    }

    /// All versions in which objects are stored.
    pub fn stored(&self) -> Vec<Arc<Resource>> {
        let custom = self.custom();
        let all = self.built_in.ordered.iter().chain(&custom.ordered);
        all.filter(|r| r.is_stored() && r.projection.is_none())
            .cloned()
            .collect()
    }

    /// The resource of a store key, in the version in which it is stored, and the rest of the key.
    pub fn of_key<'k>(&self, key: &'k str) -> Option<(Arc<Resource>, &'k str)> {
        let (group, rest) = key.strip_prefix(PREFIX)?.split_once('/')?;
        let (plural, rest) = rest.split_once('/')?;
        let group = if group == "core" { "" } else { group };
        let built_in = self.built_in.stored(group, plural).cloned();
        Some((built_in.or_else(|| self.find_custom(group, plural))?, rest))
    }

    /// Group versions, each once, core first; within a group the preferred one first.
    pub fn group_versions(&self) -> Vec<(Text, Text)> {
        let mut out: Vec<(Text, Text)> = Vec::new();
        for r in self.all() {
            let gv = (r.kind.group.clone(), r.kind.version.clone());
            if !out.contains(&gv) {
                out.push(gv);
            }
        }
        out.sort_by(|a, b| match (a.0.is_empty(), b.0.is_empty()) {
            (true, false) => std::cmp::Ordering::Less,
            (false, true) => std::cmp::Ordering::Greater,
            _ if a.0 == b.0 => meta::version_order(&a.1, &b.1),
            _ => std::cmp::Ordering::Equal,
        });
        out
    }
}
