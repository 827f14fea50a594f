//! Namespaces: what each one has from the start, and how one ends.

use jiff::Timestamp;
use kinds::resources::{CONFIG_MAPS, EVENTS, NAMESPACES, PODS, SERVICE_ACCOUNTS};
use meta::{Gvr, Object};
use reconcile::{Controller, Input, Key, Plan, View};
use serde_json::{Value, json};

use crate::garbage::Served;
use crate::status::{self, Conditions};

const ROOT_CA: &str = "kube-root-ca.crt";

/// Gives every namespace its `default` ServiceAccount and the root certificate of the API.
pub struct NamespaceFurnisher {
    /// PEM of the certificate that the API's own is signed by.
    pub root_ca: String,
}

impl Controller for NamespaceFurnisher {
    fn name(&self) -> &'static str {
        "namespace-furnisher"
    }

    fn inputs(&self) -> Vec<Input> {
        let accounts = Input {
            gvr: SERVICE_ACCOUNTS,
            keys: |o, _| named(o, "default"),
        };
        let maps = Input {
            gvr: CONFIG_MAPS,
            keys: |o, _| named(o, ROOT_CA),
        };
        vec![Input::primary(NAMESPACES), accounts, maps]
    }

    fn plan(&self, _now: Timestamp, key: &Key, view: &dyn View) -> Plan {
        let mut plan = Plan::nothing();
        let Some(namespace) = view.get(&NAMESPACES, "", &key.name).filter(|n| !n.is_deleting()) else {
            return plan;
        };
        let name = namespace.name();
        if view.get(&SERVICE_ACCOUNTS, name, "default").is_none() {
            let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
            plan.ensure(&SERVICE_ACCOUNTS, name, account);
        }
        let data = json!({"ca.crt": self.root_ca});
        match view.get(&CONFIG_MAPS, name, ROOT_CA) {
            None => {
                let about = "Contains a CA bundle that can be used to verify the API server.";
                let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": data,
                    "metadata": {"name": ROOT_CA, "annotations": {"kubernetes.io/description": about}}});
                plan.ensure(&CONFIG_MAPS, name, map);
            }
            Some(map) if map.to_value()["data"] != data => plan.patch(&CONFIG_MAPS, &map, json!({"data": data})),
            Some(_) => {}
        }
        plan
    }
}

fn named(object: &Object, name: &str) -> Vec<Key> {
    if object.name() == name {
        vec![Key::new("", object.namespace())]
    } else {
        Vec::new()
    }
}

/// Empties and ends namespaces that are being deleted.
pub struct NamespaceController {
    contents: Vec<Gvr>,
}

impl NamespaceController {
    /// For namespaces that may contain these resources, and Events.
    pub fn new(served: &[Served]) -> Self {
        let namespaced = served.iter().filter(|s| s.namespaced).map(|s| s.gvr.clone());
        NamespaceController {
            contents: namespaced.chain([EVENTS]).collect(),
        }
    }
}

impl Controller for NamespaceController {
    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    fn inputs(&self) -> Vec<Input> {
        let content = |gvr: &Gvr| Input {
            gvr: gvr.clone(),
            keys: |o, view| {
                let ending = view
                    .get(&NAMESPACES, "", o.namespace())
                    .is_some_and(|n| n.is_deleting());
                if ending {
                    vec![Key::new("", o.namespace())]
                } else {
                    Vec::new()
                }
            },
        };
        let mut inputs = vec![Input::primary(NAMESPACES)];
        inputs.extend(self.contents.iter().map(content));
        inputs
    }

    fn plan(&self, now: Timestamp, key: &Key, view: &dyn View) -> Plan {
        let mut plan = Plan::nothing();
        let Some(namespace) = view.get(&NAMESPACES, "", &key.name).filter(|n| n.is_deleting()) else {
            return plan;
        };
        let mut left: Vec<(Gvr, usize)> = Vec::new();
        let mut finalizers: Vec<(String, usize)> = Vec::new();
        for gvr in &self.contents {
            let objects = view.list(gvr, &key.name);
            if objects.is_empty() {
                continue;
            }
            for object in &objects {
                if !object.is_deleting() {
                    // Pods end in their own time; nothing else has one.
                    plan.delete(gvr, object);
                }
                for finalizer in &object.header().finalizers {
                    match finalizers.iter_mut().find(|(f, _)| f == finalizer) {
                        Some((_, n)) => *n += 1,
                        None => finalizers.push((finalizer.clone(), 1)),
                    }
                }
            }
            left.push((gvr.clone(), objects.len()));
        }
        write_status(&mut plan, &namespace, now, &left, &finalizers);
        let value = namespace.to_value();
        let empty = left.is_empty();
        let waiting = value["spec"]["finalizers"]
            .as_array()
            .is_some_and(|f| f.iter().any(|f| f == "kubernetes"));
        if empty && waiting {
            plan.actions.push(finalize(value));
        }
        plan
    }
}

fn finalize(mut namespace: Value) -> reconcile::Action {
    let name = namespace["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if let Some(list) = namespace["spec"]["finalizers"].as_array_mut() {
        list.retain(|f| f != "kubernetes");
    }
    // Whatever is written meanwhile is no reason to keep it.
    if let Some(meta) = namespace["metadata"].as_object_mut() {
        meta.remove("resourceVersion");
    }
    reconcile::Action::Replace {
        gvr: NAMESPACES,
        namespace: String::new(),
        name,
        subresource: "finalize",
        object: namespace,
    }
}

fn write_status(
    plan: &mut Plan,
    namespace: &Object,
    now: Timestamp,
    left: &[(Gvr, usize)],
    finalizers: &[(String, usize)],
) {
    let value = namespace.to_value();
    let mut conditions = Conditions::of(&value, now);
    let discovered = "All resources successfully discovered";
    conditions.set(
        "NamespaceDeletionDiscoveryFailure",
        false,
        "ResourcesDiscovered",
        discovered,
    );
    let parsed = "All legacy kube types successfully parsed";
    conditions.set(
        "NamespaceDeletionGroupVersionParsingFailure",
        false,
        "ParsedGroupVersions",
        parsed,
    );
    let deleted = "All content successfully deleted, may be waiting on finalization";
    conditions.set("NamespaceDeletionContentFailure", false, "ContentDeleted", deleted);
    if left.is_empty() {
        let message = "All content successfully removed";
        conditions.set("NamespaceContentRemaining", false, "ContentRemoved", message);
    } else {
        let each = left
            .iter()
            .map(|(gvr, n)| format!("{} has {n} resource instances", group_resource(gvr)));
        let message = format!("Some resources are remaining: {}", each.collect::<Vec<_>>().join(", "));
        conditions.set("NamespaceContentRemaining", true, "SomeResourcesRemain", &message);
    }
    if finalizers.is_empty() {
        let message = "All content-preserving finalizers finished";
        conditions.set("NamespaceFinalizersRemaining", false, "ContentHasNoFinalizers", message);
    } else {
        let each = finalizers.iter().map(|(f, n)| format!("{f} in {n} resource instances"));
        let message = format!(
            "Some content in the namespace has finalizers remaining: {}",
            each.collect::<Vec<_>>().join(", ")
        );
        conditions.set("NamespaceFinalizersRemaining", true, "SomeFinalizersRemain", &message);
    }
    let new = json!({"phase": "Terminating", "conditions": conditions.into_value()});
    status::write(plan, &NAMESPACES, namespace, &value, &new);
}

fn group_resource(gvr: &Gvr) -> String {
    // Upstream prints the core group with its dot.
    if *gvr == PODS || gvr.group.is_empty() {
        format!("{}.", gvr.resource)
    } else {
        gvr.group_resource()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reconcile::World;

    #[test]
    fn a_namespace_is_furnished_and_emptied() {
        let mut world = World::default();
        let now = Timestamp::UNIX_EPOCH;
        world.put(
            &NAMESPACES,
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}),
        );
        let furnisher = NamespaceFurnisher { root_ca: "PEM".into() };
        assert!(world.settle(now, &furnisher, 3));
        assert!(world.get(&SERVICE_ACCOUNTS, "shop", "default").is_some());
        let map = world.change(&CONFIG_MAPS, "shop", ROOT_CA, json!({"data": {"ca.crt": "other"}}));
        assert_eq!(named(&map, ROOT_CA), [Key::new("", "shop")]);
        assert!(world.settle(now, &furnisher, 3));
        assert_eq!(
            world.get(&CONFIG_MAPS, "shop", ROOT_CA).unwrap().to_value()["data"]["ca.crt"],
            "PEM"
        );

        let controller = NamespaceController::new(&crate::garbage::served(&[]));
        assert!(controller.plan(now, &Key::new("", "shop"), &world).is_empty());
        world.change(
            &CONFIG_MAPS,
            "shop",
            ROOT_CA,
            json!({"metadata": {"finalizers": ["keep.it/please"]}}),
        );
        world.change(
            &NAMESPACES,
            "",
            "shop",
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z",
            "finalizers": ["test"]}}),
        );
        world.step(now, &controller, &Key::new("", "shop"));
        world.step(now, &controller, &Key::new("", "shop"));
        assert!(world.get(&SERVICE_ACCOUNTS, "shop", "default").is_none());
        let status = world.get(&NAMESPACES, "", "shop").unwrap().to_value()["status"].clone();
        let text = status.to_string();
        assert!(
            text.contains("keep.it/please in 1 resource instances") && text.contains("configmaps. has 1"),
            "{text}"
        );
        world.change(&CONFIG_MAPS, "shop", ROOT_CA, json!({"metadata": {"finalizers": null}}));
        world.step(now, &controller, &Key::new("", "shop"));
        world.step(now, &controller, &Key::new("", "shop"));
        assert_eq!(
            world.get(&NAMESPACES, "", "shop").unwrap().to_value()["spec"]["finalizers"],
            json!([])
        );
    }
}
