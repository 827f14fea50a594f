//! What pods ask for and nodes have, as whole numbers.
//!
//! Must not know nodes or pods beyond their resource fields.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

/// What a container without a CPU request counts as when nodes are compared: 100 thousandths.
const DEFAULT_CPU: i64 = 100;
/// What a container without a memory request counts as when nodes are compared: 200 MiB.
const DEFAULT_MEMORY: i64 = 200 << 20;

/// Amounts by resource: thousandths for CPU, whole units for all others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    pub cpu: i64,
    pub memory: i64,
    pub storage: i64,
    pub pods: i64,
    pub extended: BTreeMap<Box<str>, i64>,
}

impl Resources {
    /// From a list of an API object; what does not parse counts as nothing.
    pub fn of(list: Option<&BTreeMap<String, Text>>) -> Self {
        let mut out = Resources::default();
        for (name, text) in list.into_iter().flatten() {
            let Ok(quantity) = text.0.parse::<meta::Quantity>() else {
                continue;
            };
            let amount = if name == "cpu" {
                quantity.millis()
            } else {
                quantity.value()
            };
            *out.slot(name) = amount.max(0);
        }
        out.prune();
        out
    }

    fn slot(&mut self, name: &str) -> &mut i64 {
        match name {
            "cpu" => &mut self.cpu,
            "memory" => &mut self.memory,
            "ephemeral-storage" => &mut self.storage,
            "pods" => &mut self.pods,
            _ => self.extended.entry(name.into()).or_default(),
        }
    }

    /// Amounts of 0 are the same as none: equal states compare equal.
    fn prune(&mut self) {
        self.extended.retain(|_, n| *n != 0);
    }

    pub fn add(&mut self, other: &Resources) {
        self.join(other, i64::saturating_add);
    }

    pub fn sub(&mut self, other: &Resources) {
        self.join(other, i64::saturating_sub);
    }

    /// The greater amount of each.
    pub fn max(&mut self, other: &Resources) {
        self.join(other, i64::max);
    }

    fn join(&mut self, other: &Resources, f: impl Fn(i64, i64) -> i64) {
        self.cpu = f(self.cpu, other.cpu);
        self.memory = f(self.memory, other.memory);
        self.storage = f(self.storage, other.storage);
        self.pods = f(self.pods, other.pods);
        if !other.extended.is_empty() {
            for (name, n) in &other.extended {
                let slot = self.slot(name);
                *slot = f(*slot, *n);
            }
            self.prune();
        }
    }
}

/// Whether an init container keeps running beside the others.
fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// What a pod takes of a node: what its containers and sidecars take together, or what the
/// greediest init container takes on top of the sidecars started before it; plus overhead.
pub(crate) fn requests(spec: &PodSpec) -> Resources {
    total(spec, |c| {
        Resources::of(c.resources.as_ref().and_then(|r| r.requests.as_ref()))
    })
}

/// CPU and memory as [`requests`], with defaults for containers that ask for none.
pub(crate) fn scored_requests(spec: &PodSpec) -> (i64, i64) {
    let total = total(spec, |c| {
        let list = c.resources.as_ref().and_then(|r| r.requests.as_ref());
        let asks = |name| list.is_some_and(|l| l.contains_key(name));
        let mut r = Resources::of(list);
        if !asks("cpu") {
            r.cpu = DEFAULT_CPU;
        }
        if !asks("memory") {
            r.memory = DEFAULT_MEMORY;
        }
        r
    });
    (total.cpu, total.memory)
}

fn total(spec: &PodSpec, of: impl Fn(&Container) -> Resources) -> Resources {
    let mut total = Resources::default();
    for c in &spec.containers {
        total.add(&of(c));
    }
    let mut sidecars = Resources::default();
    let mut peak = Resources::default();
    for c in spec.init_containers.iter().flatten() {
        let mut here = of(c);
        if is_sidecar(c) {
            sidecars.add(&here);
            here = sidecars.clone();
        } else {
            here.add(&sidecars);
        }
        peak.max(&here);
    }
    total.add(&sidecars);
    total.max(&peak);
    if let Some(list) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        let whole = Resources::of(Some(list));
        if list.contains_key("cpu") {
            total.cpu = whole.cpu;
        }
        if list.contains_key("memory") {
            total.memory = whole.memory;
        }
    }
    total.add(&Resources::of(spec.overhead.as_ref()));
    total.pods = 1;
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(value: serde_json::Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn init_containers_and_sidecars_count_as_upstream_counts_them() {
        let c = |name: &str, cpu: &str| json!({"name": name, "resources": {"requests": {"cpu": cpu}}});
        let mut side = c("side", "300m");
        side["restartPolicy"] = "Always".into();
        let r = requests(&spec(json!({
            "containers": [c("a", "500m"), c("b", "1")],
            "initContainers": [c("early", "1600m"), side, c("late", "1700m")],
            "overhead": {"cpu": "10m"},
        })));
        // Run: 1500 + 300; init: max(1600, 300, 1700 + 300).
        assert_eq!((r.cpu, r.pods), (2010, 1));
    }

    #[test]
    fn extended_resources_leave_no_trace() {
        let mut used = Resources::default();
        let list = BTreeMap::from([("example.com/gpu".to_owned(), Text("2".into()))]);
        let gpu = Resources::of(Some(&list));
        used.add(&gpu);
        assert_eq!(used.extended.len(), 1);
        used.sub(&gpu);
        assert_eq!(used, Resources::default());
    }

    #[test]
    fn silent_containers_count_when_nodes_are_compared() {
        let silent = spec(json!({"containers": [{"name": "a"}]}));
        assert_eq!((requests(&silent).cpu, requests(&silent).memory), (0, 0));
        assert_eq!(scored_requests(&silent), (DEFAULT_CPU, DEFAULT_MEMORY));
    }
}
