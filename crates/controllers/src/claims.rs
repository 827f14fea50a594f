//! PersistentVolumeClaims and PersistentVolumes: who is bound to whom.
//!
//! Volumes are made and removed by their provisioner; here they are matched,
//! and kept from being deleted while in use.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kinds::resources::{CLAIMS, PODS, STORAGE_CLASSES, VOLUMES};
use meta::selector::LabelSelector;
use meta::{Object, Quantity};
use reconcile::{Controller, EventKind, Input, Key, Plan, View};
use serde_json::{Value, json};

use crate::common::is_terminal;
use crate::status;

const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";
/// How long a new volume may wait for its claim to be seen.
const UNSEEN: i64 = 30;

/// Binds claims.
pub struct ClaimController;

/// Keeps the phase of volumes.
pub struct VolumeController;

fn text(v: &Value) -> &str {
    v.as_str().unwrap_or_default()
}

fn claim_of(volume: &Object, _view: &dyn View) -> Vec<Key> {
    let value = volume.to_value();
    let reference = &value["spec"]["claimRef"];
    if reference.is_null() {
        return Vec::new();
    }
    vec![Key::new(text(&reference["namespace"]), text(&reference["name"]))]
}

impl Controller for ClaimController {
    fn name(&self) -> &'static str {
        "persistentvolume-binder"
    }

    fn inputs(&self) -> Vec<Input> {
        let volumes = Input {
            gvr: VOLUMES,
            keys: |volume, view| {
                let mut keys = claim_of(volume, view);
                if keys.is_empty() {
                    let claims = view.list(&CLAIMS, "");
                    keys.extend(claims.iter().filter(|c| is_pending(c)).map(|c| Key::of(c)));
                }
                keys
            },
        };
        let classes = Input {
            gvr: STORAGE_CLASSES,
            keys: |_, view| {
                let claims = view.list(&CLAIMS, "");
                claims.iter().filter(|c| is_pending(c)).map(|c| Key::of(c)).collect()
            },
        };
        let pods = Input {
            gvr: PODS,
            keys: |pod, view| {
                // Only a claim that is waiting to go asks who uses it.
                let going = |k: &Key| {
                    view.get(&CLAIMS, &k.namespace, &k.name)
                        .is_some_and(|c| c.is_deleting())
                };
                claims_of(pod).into_iter().filter(going).collect()
            },
        };
        vec![Input::primary(CLAIMS), volumes, classes, pods]
    }

    fn plan(&self, _now: Timestamp, key: &Key, view: &dyn View) -> Plan {
        let mut plan = Plan::nothing();
        let Some(claim) = view.get(&CLAIMS, &key.namespace, &key.name) else {
            return plan;
        };
        protect(&mut plan, &claim, view);
        if !claim.is_deleting() {
            bind(&mut plan, &claim, view);
        }
        plan
    }
}

fn is_pending(claim: &Object) -> bool {
    claim.to_value()["spec"]["volumeName"].is_null()
}

/// The claims that a pod uses, generic ephemeral volumes among them.
fn claims_of(object: &Object) -> Vec<Key> {
    let Ok(pod) = object.view::<Pod>() else {
        return Vec::new();
    };
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    let names = volumes.filter_map(|v| match (&v.persistent_volume_claim, &v.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", object.name(), v.name)),
        (None, None) => None,
    });
    names.map(|n| Key::new(object.namespace(), &n)).collect()
}

fn protect(plan: &mut Plan, claim: &Arc<Object>, view: &dyn View) {
    let finalizers = &claim.header().finalizers;
    let has = finalizers.iter().any(|f| f == CLAIM_PROTECTION);
    if !claim.is_deleting() && !has {
        let all: Vec<_> = finalizers
            .iter()
            .map(String::as_str)
            .chain([CLAIM_PROTECTION])
            .collect();
        plan.patch(&CLAIMS, claim, json!({"metadata": {"finalizers": all}}));
    }
    if claim.is_deleting() && has {
        let key = Key::of(claim);
        let uses = |p: &Arc<Object>| {
            claims_of(p).contains(&key) && p.view::<Pod>().is_ok_and(|pod| !is_terminal(&pod) || p.is_deleting())
        };
        if !view.list(&PODS, claim.namespace()).iter().any(uses) {
            let left: Vec<_> = finalizers.iter().filter(|f| *f != CLAIM_PROTECTION).collect();
            plan.patch(&CLAIMS, claim, json!({"metadata": {"finalizers": left}}));
        }
    }
}

fn bind(plan: &mut Plan, claim: &Arc<Object>, view: &dyn View) {
    let value = claim.to_value();
    let name = text(&value["spec"]["volumeName"]);
    if !name.is_empty() {
        return bound(plan, claim, &value, name, view);
    }
    let volumes = view.list(&VOLUMES, "");
    let reserved = volumes
        .iter()
        .find(|v| refers(&v.to_value()["spec"]["claimRef"], claim));
    if let Some(volume) = reserved {
        return complete(plan, claim, volume);
    }
    let class_name = value["spec"]["storageClassName"].as_str();
    let class = class_name
        .and_then(|c| view.get(&STORAGE_CLASSES, "", c))
        .map(|c| c.to_value());
    let waits = class
        .as_ref()
        .is_some_and(|c| c["volumeBindingMode"] == "WaitForFirstConsumer");
    let chosen = claim.annotations().contains_key(SELECTED_NODE);
    if !waits || chosen {
        let mut fits: Vec<_> = volumes.iter().filter(|v| fits(v, &value)).collect();
        fits.sort_by_key(|v| capacity(&v.to_value()["spec"]["capacity"]["storage"]));
        if let Some(volume) = fits.first() {
            return complete(plan, claim, volume);
        }
    }
    explain(plan, claim, &value, class_name, class.as_ref(), waits && !chosen);
    status::write(plan, &CLAIMS, claim, &value, &json!({"phase": "Pending"}));
}

/// Why a claim is not bound yet, said on the claim.
fn explain(
    plan: &mut Plan,
    claim: &Arc<Object>,
    value: &Value,
    name: Option<&str>,
    class: Option<&Value>,
    waits: bool,
) {
    if waits {
        let message = "waiting for first consumer to be created before binding";
        return plan.event(claim, EventKind::Normal, "WaitForFirstConsumer", message);
    }
    match (name, class) {
        (None | Some(""), _) => {
            let message = "no persistent volumes available for this claim and no storage class is set";
            plan.event(claim, EventKind::Normal, "FailedBinding", message);
        }
        (Some(name), None) => {
            let message = format!("storageclass.storage.k8s.io \"{name}\" not found");
            plan.event(claim, EventKind::Warning, "ProvisioningFailed", message);
        }
        (Some(_), Some(class)) => {
            let provisioner = text(&class["provisioner"]);
            if value["metadata"]["annotations"][PROVISIONER] == provisioner {
                return;
            }
            let annotations =
                json!({PROVISIONER: provisioner, "volume.beta.kubernetes.io/storage-provisioner": provisioner});
            plan.patch(&CLAIMS, claim, json!({"metadata": {"annotations": annotations}}));
            let message = format!(
                "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by \
                 the system administrator. If volume creation is delayed, please verify that the provisioner is \
                 running and correctly registered."
            );
            plan.event(claim, EventKind::Normal, "ExternalProvisioning", message);
        }
    }
}

/// Whether a volume's reference means this claim.
fn refers(reference: &Value, claim: &Object) -> bool {
    let uid = text(&reference["uid"]);
    reference["namespace"] == claim.namespace()
        && reference["name"] == claim.name()
        && (uid.is_empty() || uid == claim.uid())
}

fn capacity(v: &Value) -> i64 {
    text(v).parse::<Quantity>().map_or(0, |q| q.value())
}

/// Whether a free volume gives what a claim asks for.
fn fits(volume: &Object, claim: &Value) -> bool {
    let v = volume.to_value();
    let (spec, wants) = (&v["spec"], &claim["spec"]);
    let modes = |m: &Value| -> Vec<String> { m.as_array().into_iter().flatten().map(|m| text(m).to_owned()).collect() };
    let offered = modes(&spec["accessModes"]);
    let mode = |m: &Value| if *m == "Block" { "Block" } else { "Filesystem" };
    let selector = LabelSelector::from_object(&wants["selector"]);
    let selected = wants["selector"].is_null() || selector.is_ok_and(|s| s.matches(volume.labels()));
    !volume.is_deleting()
        && spec["claimRef"].is_null()
        && matches!(text(&v["status"]["phase"]), "" | "Pending" | "Available")
        && text(&spec["storageClassName"]) == text(&wants["storageClassName"])
        && mode(&spec["volumeMode"]) == mode(&wants["volumeMode"])
        && modes(&wants["accessModes"]).iter().all(|m| offered.contains(m))
        && capacity(&spec["capacity"]["storage"]) >= capacity(&wants["resources"]["requests"]["storage"])
        && selected
}

/// Binds both ends; each step leaves something that the next plan goes on from.
fn complete(plan: &mut Plan, claim: &Arc<Object>, volume: &Arc<Object>) {
    let v = volume.to_value();
    if v["spec"]["claimRef"]["uid"] != claim.uid() {
        let reference = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.namespace(),
            "name": claim.name(), "uid": claim.uid()});
        let mut patch = json!({"metadata": {"resourceVersion": volume.resource_version().to_string()},
            "spec": {"claimRef": reference}});
        if v["spec"]["claimRef"].is_null() {
            patch["metadata"]["annotations"][BOUND_BY_CONTROLLER] = "yes".into();
        }
        plan.patch(&VOLUMES, volume, patch);
    }
    let annotations = json!({BIND_COMPLETED: "yes", BOUND_BY_CONTROLLER: "yes"});
    let patch = json!({"metadata": {"annotations": annotations}, "spec": {"volumeName": volume.name()}});
    plan.patch(&CLAIMS, claim, patch);
    plan.patch_status(&CLAIMS, claim, json!({"status": bound_status(&v)}));
}

fn bound_status(volume: &Value) -> Value {
    json!({"phase": "Bound", "accessModes": volume["spec"]["accessModes"],
        "capacity": {"storage": volume["spec"]["capacity"]["storage"]}})
}

/// A claim that names its volume.
fn bound(plan: &mut Plan, claim: &Arc<Object>, value: &Value, name: &str, view: &dyn View) {
    let once_bound = claim.annotations().contains_key(BIND_COMPLETED);
    let Some(volume) = view.get(&VOLUMES, "", name) else {
        if once_bound && value["status"]["phase"] != "Lost" {
            let message = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
            plan.event(claim, EventKind::Warning, "ClaimLost", message);
            plan.patch_status(&CLAIMS, claim, json!({"status": {"phase": "Lost"}}));
        } else if !once_bound {
            status::write(plan, &CLAIMS, claim, value, &json!({"phase": "Pending"}));
        }
        return;
    };
    let v = volume.to_value();
    let reference = &v["spec"]["claimRef"];
    if reference.is_null() || (refers(reference, claim) && text(&reference["uid"]).is_empty()) {
        return complete(plan, claim, &volume);
    }
    if !refers(reference, claim) {
        let message = format!("volume \"{name}\" already bound to a different claim.");
        plan.event(claim, EventKind::Warning, "FailedBinding", message);
        return status::write(plan, &CLAIMS, claim, value, &json!({"phase": "Pending"}));
    }
    if !once_bound {
        plan.patch(
            &CLAIMS,
            claim,
            json!({"metadata": {"annotations": {BIND_COMPLETED: "yes"}}}),
        );
    }
    // A claim that has just grown shows its old size until the file system has grown too.
    let mut new = bound_status(&v);
    if value["status"]["phase"] == "Bound"
        && let Some(map) = new.as_object_mut()
    {
        map.remove("capacity");
    }
    status::write(plan, &CLAIMS, claim, value, &new);
}

impl Controller for VolumeController {
    fn name(&self) -> &'static str {
        "persistentvolume-controller"
    }

    fn inputs(&self) -> Vec<Input> {
        let claims = Input {
            gvr: CLAIMS,
            keys: |claim, view| {
                let value = claim.to_value();
                let mut keys: Vec<Key> = value["spec"]["volumeName"]
                    .as_str()
                    .map(|v| Key::new("", v))
                    .into_iter()
                    .collect();
                if keys.is_empty() {
                    let volumes = view.list(&VOLUMES, "");
                    let refers = |v: &&Arc<Object>| refers(&v.to_value()["spec"]["claimRef"], claim);
                    keys.extend(volumes.iter().filter(refers).map(|v| Key::of(v)));
                }
                keys
            },
        };
        vec![Input::primary(VOLUMES), claims]
    }

    fn plan(&self, now: Timestamp, key: &Key, view: &dyn View) -> Plan {
        let mut plan = Plan::nothing();
        let Some(volume) = view.get(&VOLUMES, "", &key.name) else {
            return plan;
        };
        let value = volume.to_value();
        let phase = phase(&mut plan, now, &volume, &value, view);
        let finalizers = &volume.header().finalizers;
        let protected = finalizers.iter().any(|f| f == VOLUME_PROTECTION);
        if volume.is_deleting() && protected && phase != "Bound" {
            let left: Vec<_> = finalizers.iter().filter(|f| *f != VOLUME_PROTECTION).collect();
            plan.patch(&VOLUMES, &volume, json!({"metadata": {"finalizers": left}}));
        } else if !volume.is_deleting() && !protected {
            let all: Vec<_> = finalizers
                .iter()
                .map(String::as_str)
                .chain([VOLUME_PROTECTION])
                .collect();
            plan.patch(&VOLUMES, &volume, json!({"metadata": {"finalizers": all}}));
        }
        if !volume.is_deleting() {
            status::write(&mut plan, &VOLUMES, &volume, &value, &json!({"phase": phase}));
        }
        plan
    }
}

fn phase(plan: &mut Plan, now: Timestamp, volume: &Object, value: &Value, view: &dyn View) -> &'static str {
    let reference = &value["spec"]["claimRef"];
    if reference.is_null() {
        return "Available";
    }
    let claim = view.get(&CLAIMS, text(&reference["namespace"]), text(&reference["name"]));
    let uid = text(&reference["uid"]);
    match claim {
        Some(c) if c.uid() == uid => {
            let named = c.to_value()["spec"]["volumeName"] == volume.name();
            if named { "Bound" } else { "Available" }
        }
        _ if uid.is_empty() => "Available",
        _ if matches!(text(&value["status"]["phase"]), "Bound" | "Released") => "Released",
        _ => {
            // Nobody has seen it bound: the claim may only be slow to be seen.
            let created = volume
                .header()
                .creation_timestamp
                .as_deref()
                .and_then(meta::time::parse);
            let age = created.map_or(0, |c| now.duration_since(c).as_secs());
            if age >= UNSEEN {
                return "Released";
            }
            plan.again(Duration::from_secs(u64::try_from(UNSEEN - age).unwrap_or(1)));
            "Available"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reconcile::World;

    fn now() -> Timestamp {
        "2026-01-01T00:00:10Z".parse().unwrap()
    }

    fn claim(class: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data", "namespace": "shop"},
            "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
    }

    fn volume(name: &str, size: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
            "spec": {"storageClassName": "", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": size}}})
    }

    fn turns(world: &mut World) {
        for _ in 0..4 {
            for c in world.list(&CLAIMS, "") {
                world.step(now(), &ClaimController, &Key::of(&c));
            }
            assert!(world.settle(now(), &VolumeController, 4));
        }
    }

    #[test]
    fn a_claim_gets_the_smallest_volume_that_fits_and_releases_it() {
        let mut world = World::default();
        for (name, size) in [("small", "500Mi"), ("right", "1Gi"), ("big", "9Gi")] {
            world.put(&VOLUMES, volume(name, size));
        }
        world.put(&CLAIMS, claim(""));
        turns(&mut world);
        let c = world.get(&CLAIMS, "shop", "data").unwrap().to_value();
        assert_eq!(
            (&c["spec"]["volumeName"], &c["status"]["phase"]),
            (&json!("right"), &json!("Bound"))
        );
        let phase = |w: &World, n: &str| w.get(&VOLUMES, "", n).unwrap().to_value()["status"]["phase"].clone();
        assert_eq!(
            (phase(&world, "right"), phase(&world, "big")),
            (json!("Bound"), json!("Available"))
        );
        world.remove(&CLAIMS, "shop", "data");
        turns(&mut world);
        assert_eq!(phase(&world, "right"), "Released");
        world.put(&CLAIMS, claim(""));
        turns(&mut world);
        let c = world.get(&CLAIMS, "shop", "data").unwrap().to_value();
        assert_eq!(c["spec"]["volumeName"], "big", "a released volume is not given again");
    }

    #[test]
    fn a_provisioned_volume_is_taken_and_a_used_claim_stays() {
        let mut world = World::default();
        world.put(
            &STORAGE_CLASSES,
            json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
            "metadata": {"name": "local"}, "provisioner": "p", "volumeBindingMode": "WaitForFirstConsumer"}),
        );
        let c = world.put(&CLAIMS, claim("local"));
        turns(&mut world);
        assert!(world.events.iter().any(|(r, _)| r == "WaitForFirstConsumer"));
        let mut v = volume("pvc-1", "1Gi");
        v["spec"]["storageClassName"] = "local".into();
        v["spec"]["claimRef"] = json!({"namespace": "shop", "name": "data", "uid": c.uid()});
        world.put(&VOLUMES, v);
        turns(&mut world);
        assert_eq!(
            world.get(&CLAIMS, "shop", "data").unwrap().to_value()["status"]["phase"],
            "Bound"
        );
        world.put(
            &PODS,
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "shop"},
            "spec": {"containers": [], "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]}}),
        );
        world.change(
            &CLAIMS,
            "shop",
            "data",
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
        );
        turns(&mut world);
        assert!(world.get(&CLAIMS, "shop", "data").is_some());
        world.remove(&PODS, "shop", "p");
        turns(&mut world);
        assert!(world.get(&CLAIMS, "shop", "data").is_none());
    }
}
