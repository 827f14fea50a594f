//! Which claims this node makes volumes for, and what becomes of volumes.

use std::collections::BTreeMap;

use meta::Quantity;
use serde_json::{Value, json};

/// `provisioner` of our storage classes.
pub const PROVISIONER: &str = "local.allmend.io";
/// Annotation by which the scheduler says on which node a claim's first pod will run.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Sizes are whole blocks of the file system.
const BLOCK: u64 = 4096;
/// ext4 needs some; so does any use.
const SMALLEST: u64 = 1 << 20;

/// `volumeMode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A file system.
    Filesystem,
    /// A raw block device.
    Block,
}

impl Mode {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Filesystem => "Filesystem",
            Mode::Block => "Block",
        }
    }
}

/// A volume to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// UID of the claim: the volume's name on disk.
    pub uid: String,
    /// Namespace of the claim.
    pub namespace: String,
    /// Name of the claim.
    pub claim: String,
    /// Mode.
    pub mode: Mode,
    /// Bytes.
    pub capacity: u64,
    /// Access modes asked for.
    pub access_modes: Vec<String>,
    /// `reclaimPolicy` of the class.
    pub reclaim_policy: String,
    /// Name of the class.
    pub class: String,
}

/// What to do for a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Provision {
    /// It is not ours, or not yet.
    Nothing,
    /// Make a volume.
    Make(Volume),
    /// It cannot be: an event `ProvisioningFailed` with these words. `again` says whether
    /// time may change that.
    Refuse {
        /// For people: what is wrong and the remedy.
        message: String,
        /// Whether to look again later.
        again: bool,
    },
}

/// The storage class that exists from the start.
pub fn default_class() -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "local", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": PROVISIONER, "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": true,
    })
}

/// Decides about a claim. `free` is what this node can still promise, in bytes.
pub fn provision(claim: &Value, classes: &BTreeMap<String, Value>, node: &str, free: u64) -> Provision {
    let (meta, spec) = (&claim["metadata"], &claim["spec"]);
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let class = text(&spec["storageClassName"]);
    let Some(settings) = classes.get(&class).filter(|c| c["provisioner"] == PROVISIONER) else {
        return Provision::Nothing;
    };
    let bound = !text(&spec["volumeName"]).is_empty();
    // Where nobody has chosen a node, every node would make a volume: such claims wait.
    if bound || !meta["deletionTimestamp"].is_null() || meta["annotations"][SELECTED_NODE] != node {
        return Provision::Nothing;
    }
    let refuse = |message: String, again| Provision::Refuse { message, again };
    let access_modes: Vec<String> = spec["accessModes"].as_array().into_iter().flatten().map(text).collect();
    if let Some(shared) = access_modes
        .iter()
        .find(|m| m.as_str() != "ReadWriteOnce" && m.as_str() != "ReadWriteOncePod")
    {
        return refuse(
            format!(
                "spec.accessModes: {shared} is not possible with class {class:?}, whose volumes live on one node; use ReadWriteOnce"
            ),
            false,
        );
    }
    for field in ["dataSource", "dataSourceRef", "selector"] {
        if !spec[field].is_null() {
            return refuse(
                format!("spec.{field} is not supported by class {class:?}; remove it"),
                false,
            );
        }
    }
    let Some(capacity) = bytes(&spec["resources"]["requests"]["storage"]) else {
        return refuse("spec.resources.requests.storage is not a size".into(), false);
    };
    let capacity = capacity.max(SMALLEST).next_multiple_of(BLOCK);
    if capacity > free {
        return refuse(
            format!(
                "node {node} has {} left for volumes, the claim asks for {}; free space or ask for less",
                mebibytes(free),
                mebibytes(capacity)
            ),
            true,
        );
    }
    Provision::Make(Volume {
        uid: text(&meta["uid"]),
        namespace: text(&meta["namespace"]),
        claim: text(&meta["name"]),
        mode: if spec["volumeMode"] == "Block" {
            Mode::Block
        } else {
            Mode::Filesystem
        },
        capacity,
        access_modes,
        reclaim_policy: settings["reclaimPolicy"].as_str().unwrap_or("Delete").to_owned(),
        class,
    })
}

fn bytes(quantity: &Value) -> Option<u64> {
    let parsed: Quantity = quantity.as_str()?.parse().ok()?;
    u64::try_from(parsed.value()).ok().filter(|b| *b > 0 && *b < 1 << 60)
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// The PersistentVolume of a volume that was made at `path`.
pub fn persistent_volume(volume: &Volume, path: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {
            "name": format!("pvc-{}", volume.uid),
            "annotations": {PROVISIONED_BY: PROVISIONER},
        },
        "spec": {
            "capacity": {"storage": Quantity::from_bytes(i64::try_from(volume.capacity).unwrap_or(i64::MAX)).to_string()},
            "accessModes": volume.access_modes,
            "volumeMode": volume.mode.as_str(),
            "persistentVolumeReclaimPolicy": volume.reclaim_policy,
            "storageClassName": volume.class,
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": volume.namespace, "name": volume.claim, "uid": volume.uid,
            },
            "local": {"path": path, "fsType": "ext4"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]},
            ]}]}},
        },
    })
}

/// Whether a PersistentVolume was made by this node; then its path.
pub fn is_ours<'a>(pv: &'a Value, node: &str) -> Option<&'a str> {
    let terms = &pv["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"];
    let here = terms[0]["matchExpressions"][0]["values"][0] == node;
    let made = pv["metadata"]["annotations"][PROVISIONED_BY] == PROVISIONER;
    pv["spec"]["local"]["path"].as_str().filter(|_| here && made)
}

/// Whether a PersistentVolume of this node and its data have to go: its claim is gone and
/// nobody wanted to keep it.
pub fn reclaim(pv: &Value, node: &str) -> bool {
    is_ours(pv, node).is_some()
        && pv["status"]["phase"] == "Released"
        && pv["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
}

/// The size that a volume has to grow to; `None` when it is as large as its claim asks.
/// Volumes never shrink.
pub fn grow(claim: &Value, pv: &Value, classes: &BTreeMap<String, Value>) -> Option<u64> {
    if claim["metadata"]["uid"] != pv["spec"]["claimRef"]["uid"] || claim["metadata"]["uid"].is_null() {
        return None;
    }
    let class = classes.get(claim["spec"]["storageClassName"].as_str()?)?;
    if class["allowVolumeExpansion"] != true {
        return None;
    }
    let asked = bytes(&claim["spec"]["resources"]["requests"]["storage"])?.next_multiple_of(BLOCK);
    let told = bytes(&claim["status"]["capacity"]["storage"]);
    let has = bytes(&pv["spec"]["capacity"]["storage"])?;
    // The claim's status is written last: until then the work may have been cut short.
    (asked > has || (asked == has && told.is_some_and(|t| t < has))).then_some(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes() -> BTreeMap<String, Value> {
        BTreeMap::from([
            ("local".to_owned(), default_class()),
            ("other".to_owned(), json!({"provisioner": "example.com/x"})),
        ])
    }

    fn claim(change: impl FnOnce(&mut Value)) -> Value {
        let mut claim = json!({
            "metadata": {"name": "data", "namespace": "shop", "uid": "u", "annotations": {SELECTED_NODE: "n1"}},
            "spec": {"storageClassName": "local", "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}}},
        });
        change(&mut claim);
        claim
    }

    fn decide(change: impl FnOnce(&mut Value)) -> Provision {
        provision(&claim(change), &classes(), "n1", 2 << 30)
    }

    #[test]
    fn a_claim_of_ours_gets_a_volume() {
        let Provision::Make(volume) = decide(|_| {}) else {
            panic!()
        };
        assert_eq!((volume.capacity, volume.mode), (1 << 30, Mode::Filesystem));
        let pv = persistent_volume(&volume, "/d/volumes/u", "n1");
        assert_eq!(pv["spec"]["capacity"]["storage"], "1Gi");
        assert_eq!(is_ours(&pv, "n1"), Some("/d/volumes/u"));
        assert_eq!(is_ours(&pv, "n2"), None);
        let Provision::Make(odd) = decide(|c| c["spec"]["resources"]["requests"]["storage"] = json!("10000001")) else {
            panic!()
        };
        assert_eq!(odd.capacity, 10_002_432);
    }

    #[test]
    fn claims_of_others_are_left_alone() {
        for change in [
            (|c: &mut Value| c["metadata"]["annotations"][SELECTED_NODE] = json!("n2")) as fn(&mut Value),
            |c| c["metadata"]["annotations"] = Value::Null,
            |c| c["spec"]["storageClassName"] = json!("other"),
            |c| c["spec"]["storageClassName"] = Value::Null,
            |c| c["spec"]["volumeName"] = json!("pv"),
            |c| c["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"),
            |c| *c = json!([1]),
        ] {
            assert_eq!(decide(change), Provision::Nothing);
        }
    }

    #[test]
    fn refusals_name_field_and_figures() {
        for (change, words) in [
            (
                (|c| c["spec"]["accessModes"] = json!(["ReadWriteMany"])) as fn(&mut Value),
                "ReadWriteMany",
            ),
            (|c| c["spec"]["dataSource"] = json!({"kind": "X"}), "spec.dataSource"),
            (
                |c| c["spec"]["resources"] = json!({"requests": {"storage": "x"}}),
                "storage",
            ),
            (
                |c| c["spec"]["resources"]["requests"]["storage"] = json!("3Gi"),
                "2048 MiB left for volumes, the claim asks for 3072 MiB",
            ),
        ] {
            let Provision::Refuse { message, .. } = decide(change) else {
                panic!("{words}")
            };
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn released_volumes_go_unless_they_are_kept() {
        let Provision::Make(volume) = decide(|_| {}) else {
            panic!()
        };
        let mut pv = persistent_volume(&volume, "/d", "n1");
        assert!(!reclaim(&pv, "n1"));
        pv["status"]["phase"] = json!("Released");
        assert!(reclaim(&pv, "n1") && !reclaim(&pv, "n2"));
        pv["spec"]["persistentVolumeReclaimPolicy"] = json!("Retain");
        assert!(!reclaim(&pv, "n1"));
    }

    #[test]
    fn volumes_grow_with_their_claims() {
        let Provision::Make(volume) = decide(|_| {}) else {
            panic!()
        };
        let mut pv = persistent_volume(&volume, "/d", "n1");
        assert_eq!(grow(&claim(|_| {}), &pv, &classes()), None);
        let larger = claim(|c| c["spec"]["resources"]["requests"]["storage"] = json!("2Gi"));
        assert_eq!(grow(&larger, &pv, &classes()), Some(2 << 30));
        // Cut short between the volume and the claim's status.
        pv["spec"]["capacity"]["storage"] = json!("2Gi");
        let mut half = larger.clone();
        half["status"]["capacity"]["storage"] = json!("1Gi");
        assert_eq!(grow(&half, &pv, &classes()), Some(2 << 30));
        half["status"]["capacity"]["storage"] = json!("2Gi");
        assert_eq!(grow(&half, &pv, &classes()), None);
    }
}
