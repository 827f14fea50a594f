//! Garbage: objects whose owners are all gone, and owners that wait for their
//! dependents (foreground deletion) or let go of them (orphaning).
//!
//! Must not trust that an owner is gone because a cache does not show it:
//! [`Verdict::owners`] are to be asked for before [`Verdict::plan`] is carried out.

use std::sync::Arc;

use kinds::Kind;
use kinds::custom::Definition;
use meta::{Gvr, Object};
use reconcile::{Key, Plan, View};
use serde_json::json;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// A resource whose objects may own, be owned, and be deleted with their namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The resource, in the version in which it is looked at.
    pub gvr: Gvr,
    /// Its kind.
    pub kind: String,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
}

impl Served {
    /// The namespace in which an owner of an object is.
    fn place<'o>(&self, object: &'o Object) -> &'o str {
        if self.namespaced { object.namespace() } else { "" }
    }
}

impl From<&Kind> for Served {
    fn from(kind: &Kind) -> Self {
        Served {
            gvr: kind.gvr(),
            kind: kind.kind.to_string(),
            namespaced: kind.namespaced(),
        }
    }
}

/// The built-in resources with objects of their own, and those of established definitions.
/// Events are left out: they end by themselves.
pub fn served(definitions: &[Arc<Object>]) -> Vec<Served> {
    let whole = |k: &&Kind| ["delete", "list", "watch", "get"].iter().all(|v| k.verbs.contains(v));
    let built_in = kinds::all()
        .iter()
        .map(|k| &**k)
        .filter(|k| k.kind != "Event")
        .filter(whole);
    let mut out: Vec<Served> = built_in.map(Served::from).collect();
    for definition in definitions {
        let crd = definition.to_value();
        if kinds::crd::is_true(&crd, "Established")
            && let Ok(made) = Definition::read(&crd)
        {
            let stored = made.served.iter().find(|k| k.version == made.storage.version);
            out.extend(stored.or(made.served.first()).map(|k| Served::from(&**k)));
        }
    }
    out
}

/// What is to be done about an object.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Writes.
    pub plan: Plan,
    /// Owners (resource, namespace, name, uid) that the plan assumes to be gone.
    pub owners: Vec<(Gvr, String, String, String)>,
}

/// The resource of an owner reference; `None` for kinds that the API does not serve.
fn resource<'s>(api_version: &str, kind: &str, all: &'s [Served]) -> Option<&'s Served> {
    let group = api_version.split_once('/').map_or("", |(g, _)| g);
    all.iter().find(|s| s.gvr.group == group && s.kind == kind)
}

/// The owners of an object, as resources and keys.
pub fn owners(object: &Object, all: &[Served]) -> Vec<(Gvr, Key)> {
    let references = object.header().owner_references.iter();
    let owners = references.filter_map(|o| {
        let owner = resource(&o.api_version, &o.kind, all)?;
        Some((owner.gvr.clone(), Key::new(owner.place(object), &o.name)))
    });
    owners.collect()
}

/// Whether an object may have to do with garbage at all.
pub fn concerns(object: &Object) -> bool {
    let h = object.header();
    !h.owner_references.is_empty()
        || (object.is_deleting() && h.finalizers.iter().any(|f| f == FOREGROUND || f == ORPHAN))
}

/// Judges an object. `all` are the resources in which dependents are looked for.
pub fn judge(gvr: &Gvr, object: &Arc<Object>, view: &dyn View, all: &[Served]) -> Verdict {
    let mut verdict = Verdict::default();
    if object.is_deleting() {
        if has(object, ORPHAN) {
            orphan(gvr, object, view, all, &mut verdict.plan);
        } else if has(object, FOREGROUND) {
            foreground(gvr, object, view, all, &mut verdict.plan);
        }
        return verdict;
    }
    let mut solid = 0;
    let mut waiting = Vec::new();
    for owner in &object.header().owner_references {
        // A kind that is not known may exist elsewhere: never delete on its account.
        let Some(known) = resource(&owner.api_version, &owner.kind, all) else {
            solid += 1;
            continue;
        };
        let (owner_gvr, namespace) = (known.gvr.clone(), known.place(object));
        match view
            .get(&owner_gvr, namespace, &owner.name)
            .filter(|o| o.uid() == owner.uid)
        {
            Some(o) if o.is_deleting() && has(&o, FOREGROUND) => waiting.push(owner.uid.clone()),
            Some(_) => solid += 1,
            None => verdict
                .owners
                .push((owner_gvr, namespace.to_owned(), owner.name.clone(), owner.uid.clone())),
        }
    }
    if verdict.owners.is_empty() && waiting.is_empty() {
        return verdict;
    }
    if solid == 0 {
        verdict.plan.delete(gvr, object);
        return verdict;
    }
    // Somebody still owns it: only the references to those who are gone go.
    let gone = |uid: &String| waiting.contains(uid) || verdict.owners.iter().any(|(.., u)| u == uid);
    let left: Vec<_> = object
        .header()
        .owner_references
        .iter()
        .filter(|o| !gone(&o.uid))
        .collect();
    let patch =
        json!({"metadata": {"ownerReferences": left, "resourceVersion": object.resource_version().to_string()}});
    verdict.plan.patch(gvr, object, patch);
    verdict
}

fn has(object: &Object, finalizer: &str) -> bool {
    object.header().finalizers.iter().any(|f| f == finalizer)
}

fn without(object: &Object, finalizer: &str) -> serde_json::Value {
    let left: Vec<_> = object.header().finalizers.iter().filter(|f| *f != finalizer).collect();
    json!({"metadata": {"finalizers": left, "resourceVersion": object.resource_version().to_string()}})
}

fn orphan(gvr: &Gvr, object: &Arc<Object>, view: &dyn View, all: &[Served], plan: &mut Plan) {
    for dependents in all.iter().map(|s| &s.gvr) {
        for dependent in view.owned(dependents, object.uid()) {
            let owners = &dependent.header().owner_references;
            let left: Vec<_> = owners.iter().filter(|o| o.uid != object.uid()).collect();
            plan.patch(dependents, &dependent, json!({"metadata": {"ownerReferences": left}}));
        }
    }
    plan.patch(gvr, object, without(object, ORPHAN));
}

fn foreground(gvr: &Gvr, object: &Arc<Object>, view: &dyn View, all: &[Served], plan: &mut Plan) {
    let mut blocked = false;
    for dependents in all.iter().map(|s| &s.gvr) {
        for dependent in view.owned(dependents, object.uid()) {
            let mut references = dependent.header().owner_references.iter();
            blocked |= references.any(|o| o.uid == object.uid() && o.block_owner_deletion == Some(true));
            if !dependent.is_deleting() {
                plan.delete(dependents, &dependent);
            }
        }
    }
    if !blocked {
        plan.patch(gvr, object, without(object, FOREGROUND));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use kinds::resources::{DEPLOYMENTS, PODS, REPLICA_SETS};
    use reconcile::World;
    use serde_json::Value;

    fn all() -> Vec<Served> {
        let kept = [DEPLOYMENTS, REPLICA_SETS, PODS];
        served(&[]).into_iter().filter(|s| kept.contains(&s.gvr)).collect()
    }

    fn set(world: &mut World, name: &str) -> Arc<Object> {
        let value =
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name, "namespace": "shop"}});
        world.put(&REPLICA_SETS, value)
    }

    fn pod(world: &mut World, owners: &[&Object]) -> Arc<Object> {
        let owners: Vec<Value> = owners.iter().map(|o| crate::common::owner_reference(o)).collect();
        let value = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "shop", "ownerReferences": owners}});
        world.put(&PODS, value)
    }

    fn carry_out(world: &mut World, gvr: &Gvr, object: &Arc<Object>) -> Verdict {
        let verdict = judge(gvr, object, world, &all());
        for action in &verdict.plan.actions {
            world.act(Timestamp::UNIX_EPOCH, action).unwrap();
        }
        verdict
    }

    #[test]
    fn what_nobody_owns_any_more_goes() {
        let mut world = World::default();
        let (a, b) = (set(&mut world, "a"), set(&mut world, "b"));
        let p = pod(&mut world, &[&a, &b]);
        assert!(judge(&PODS, &p, &world, &all()).plan.is_empty());
        world.remove(&REPLICA_SETS, "shop", "a");
        let verdict = carry_out(&mut world, &PODS, &p);
        assert_eq!(verdict.owners[0].3, a.uid());
        let p = world.get(&PODS, "shop", "p").unwrap();
        assert_eq!(p.header().owner_references.len(), 1);
        // Another object of the same name is not the owner.
        world.remove(&REPLICA_SETS, "shop", "b");
        set(&mut world, "b");
        carry_out(&mut world, &PODS, &p);
        assert!(world.get(&PODS, "shop", "p").is_none());
    }

    #[test]
    fn foreground_waits_and_orphaning_lets_go() {
        let mut world = World::default();
        let owner = set(&mut world, "a");
        let p = pod(&mut world, &[&owner]);
        world.change(&PODS, "shop", "p", json!({"spec": {"nodeName": "n"}}));
        let going = |f: &str| json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [f]}});
        let owner = world.change(&REPLICA_SETS, "shop", "a", going(FOREGROUND));
        carry_out(&mut world, &REPLICA_SETS, &owner);
        assert!(world.get(&PODS, "shop", "p").unwrap().is_deleting());
        assert!(world.get(&REPLICA_SETS, "shop", "a").is_some());
        world.remove(&PODS, "shop", "p");
        carry_out(&mut world, &REPLICA_SETS, &owner);
        assert!(world.get(&REPLICA_SETS, "shop", "a").is_none());

        let owner = set(&mut world, "o");
        drop(p);
        pod(&mut world, &[&owner]);
        let owner = world.change(&REPLICA_SETS, "shop", "o", going(ORPHAN));
        carry_out(&mut world, &REPLICA_SETS, &owner);
        assert!(world.get(&PODS, "shop", "p").unwrap().controller().is_none());
        assert!(world.get(&REPLICA_SETS, "shop", "o").is_none());
    }
}
