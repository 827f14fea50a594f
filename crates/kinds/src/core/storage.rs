//! PersistentVolume and PersistentVolumeClaim.

use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use meta::field::{ErrorList, Path};
use serde_json::{Value, json};

use super::storage_checks::{MODES, check_claim_spec, check_volume};
use crate::columns::{AGE, age, column, text_or_none, wide};
use crate::edit::{default, default_text, items, object, set, text};
use crate::schemas::typed;
use crate::{Cell, Context, Declared, Scope, Strategy, Subresource};

/// PersistentVolumeClaim.
pub(super) fn claim() -> Declared {
    Declared {
        subresources: const { &[Subresource::Status] },
        ..super::core_kind(
            "PersistentVolumeClaim",
            "persistentvolumeclaims",
            "persistentvolumeclaim",
            &["pvc"],
        )
        .with(
            typed::<v1::PersistentVolumeClaim>,
            const {
                &[
                    column("Status", "string"),
                    column("Volume", "string"),
                    column("Capacity", "string"),
                    column("Access Modes", "string"),
                    column("StorageClass", "string"),
                    column("VolumeAttributesClass", "string"),
                    AGE,
                    wide("VolumeMode", "string"),
                ]
            },
            &Claim,
        )
    }
}

/// PersistentVolume.
pub(super) fn volume() -> Declared {
    Declared {
        scope: Scope::Cluster,
        subresources: const { &[Subresource::Status] },
        ..super::core_kind("PersistentVolume", "persistentvolumes", "persistentvolume", &["pv"]).with(
            typed::<v1::PersistentVolume>,
            const {
                &[
                    column("Capacity", "string"),
                    column("Access Modes", "string"),
                    column("Reclaim Policy", "string"),
                    column("Status", "string"),
                    column("Claim", "string"),
                    column("StorageClass", "string"),
                    column("VolumeAttributesClass", "string"),
                    column("Reason", "string"),
                    AGE,
                    wide("VolumeMode", "string"),
                ]
            },
            &Volume,
        )
    }
}

struct Claim;
struct Volume;

fn modes(object: &Value) -> Cell {
    let list = items(object, "accessModes").filter_map(Value::as_str);
    let short: Vec<&str> = list
        .filter_map(|m| MODES.iter().find(|(long, _)| *long == m).map(|(_, s)| *s))
        .collect();
    short.join(",").into()
}

impl Strategy for Claim {
    fn prepare_create(&self, _: &Context<'_>, claim: &mut Value) {
        set(claim, "status", json!({"phase": "Pending"}));
    }

    fn default(&self, claim: &mut Value) {
        if let Some(spec) = object(claim, "spec") {
            default_text(spec, "volumeMode", "Filesystem");
        }
    }

    fn validate_create(&self, claim: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_claim_spec(&claim["spec"], &Path::new("spec"), &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(new);
        let rest = |claim: &Value| {
            let mut spec = claim["spec"].clone();
            for field in ["resources", "volumeName", "volumeAttributesClassName"] {
                crate::edit::drop(&mut spec, field);
            }
            // A claim without a class may be given the default one later.
            if claim["spec"]["storageClassName"].is_null() || old["spec"]["storageClassName"].is_null() {
                crate::edit::drop(&mut spec, "storageClassName");
            }
            spec
        };
        let bound = text(&old["spec"], "volumeName");
        if rest(new) != rest(old) || (!bound.is_empty() && text(&new["spec"], "volumeName") != bound) {
            errors.forbidden(
                &Path::new("spec"),
                "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
            );
        }
        let amount = |c: &Value| {
            let text = c.pointer("/spec/resources/requests/storage").and_then(Value::as_str)?;
            text.parse::<meta::Quantity>().ok()
        };
        if let (Some(is), Some(was)) = (amount(new), amount(old))
            && is < was
        {
            let at = Path::new("spec").child("resources").child("requests").child("storage");
            errors.forbidden(&at, "field can not be less than status.capacity");
        }
        errors
    }

    fn row(&self, claim: &Value, now: Timestamp) -> Vec<Cell> {
        let leaving = claim.pointer("/metadata/deletionTimestamp").is_some();
        let phase = if leaving {
            "Terminating"
        } else {
            text(&claim["status"], "phase")
        };
        let bound = !text(&claim["spec"], "volumeName").is_empty();
        let text_at = |p: &str| -> Cell { claim.pointer(p).and_then(Value::as_str).unwrap_or_default().into() };
        vec![
            phase.into(),
            text_at("/spec/volumeName"),
            if bound {
                text_at("/status/capacity/storage")
            } else {
                "".into()
            },
            if bound { modes(&claim["status"]) } else { "".into() },
            text_at("/spec/storageClassName"),
            unset(claim, "/spec/volumeAttributesClassName"),
            age(claim, now),
            unset(claim, "/spec/volumeMode"),
        ]
    }
}

fn unset(object: &Value, pointer: &str) -> Cell {
    match text_or_none(object, pointer) {
        Value::String(s) if s == "<none>" => "<unset>".into(),
        other => other,
    }
}

impl Strategy for Volume {
    fn prepare_create(&self, _: &Context<'_>, volume: &mut Value) {
        set(volume, "status", json!({"phase": "Pending"}));
    }

    fn default(&self, volume: &mut Value) {
        if let Some(spec) = object(volume, "spec") {
            default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
            default_text(spec, "volumeMode", "Filesystem");
            if let Some(path) = spec.get_mut("hostPath").filter(|p| p.is_object()) {
                default(path, "type", "");
            }
        }
    }

    fn validate_create(&self, volume: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_volume(&volume["spec"], &Path::new("spec"), &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(new);
        let source = |v: &Value| {
            let mut spec = v["spec"].clone();
            for field in [
                "accessModes",
                "capacity",
                "claimRef",
                "mountOptions",
                "nodeAffinity",
                "persistentVolumeReclaimPolicy",
                "storageClassName",
                "volumeAttributesClassName",
                "volumeMode",
            ] {
                crate::edit::drop(&mut spec, field);
            }
            spec
        };
        if source(new) != source(old) {
            errors.forbidden(
                &Path::new("spec").child("persistentvolumesource"),
                "spec.persistentvolumesource is immutable after creation",
            );
        }
        let path = Path::new("spec");
        let (is, was) = (&new["spec"], &old["spec"]);
        crate::check::immutable(
            &is["volumeMode"],
            &was["volumeMode"],
            &path.child("volumeMode"),
            &mut errors,
        );
        if !was["nodeAffinity"].is_null() {
            let at = path.child("nodeAffinity");
            crate::check::immutable(&is["nodeAffinity"], &was["nodeAffinity"], &at, &mut errors);
        }
        errors
    }

    fn row(&self, volume: &Value, now: Timestamp) -> Vec<Cell> {
        let leaving = volume.pointer("/metadata/deletionTimestamp").is_some();
        let phase = if leaving {
            "Terminating"
        } else {
            text(&volume["status"], "phase")
        };
        let spec = &volume["spec"];
        let claim = spec
            .get("claimRef")
            .map(|c| format!("{}/{}", text(c, "namespace"), text(c, "name")))
            .unwrap_or_default();
        let text_at = |p: &str| -> Cell { volume.pointer(p).and_then(Value::as_str).unwrap_or_default().into() };
        vec![
            text_at("/spec/capacity/storage"),
            modes(spec),
            text_at("/spec/persistentVolumeReclaimPolicy"),
            phase.into(),
            claim.into(),
            text_at("/spec/storageClassName"),
            unset(volume, "/spec/volumeAttributesClassName"),
            text_at("/status/reason"),
            age(volume, now),
            unset(volume, "/spec/volumeMode"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::expect;

    #[test]
    fn claims() {
        let mut good =
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        Claim.default(&mut good);
        assert_eq!(good["spec"]["volumeMode"], "Filesystem");
        assert!(Claim.validate_create(&good).is_empty());
        for (field, value, words) in [
            (
                "accessModes",
                json!([]),
                "spec.accessModes: Required value: at least 1 access mode is required",
            ),
            (
                "accessModes",
                json!(["All"]),
                "spec.accessModes: Unsupported value: \"All\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
            ),
            (
                "accessModes",
                json!(["ReadWriteOncePod", "ReadWriteOnce"]),
                "may not use ReadWriteOncePod with other access modes",
            ),
            ("resources", json!({}), "spec.resources[storage]: Required value"),
            (
                "resources",
                json!({"requests": {"storage": "0"}}),
                "must be greater than zero",
            ),
            (
                "volumeMode",
                json!("Tape"),
                "spec.volumeMode: Unsupported value: \"Tape\": supported values: \"Block\", \"Filesystem\"",
            ),
            (
                "dataSource",
                json!({"kind": "Pod", "name": "p"}),
                "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            ),
        ] {
            let mut claim = good.clone();
            claim["spec"][field] = value;
            expect(&Claim.validate_create(&claim), words);
        }
        let mut other = good.clone();
        other["spec"]["volumeMode"] = "Block".into();
        expect(
            &Claim.validate_update(&other, &good),
            "spec: Forbidden: spec is immutable after creation",
        );
        assert_eq!(Claim.row(&good, Timestamp::UNIX_EPOCH)[7], "Filesystem");
    }

    #[test]
    fn volumes() {
        let mut good = json!({"spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/a"}}});
        Volume.default(&mut good);
        assert_eq!(good["spec"]["persistentVolumeReclaimPolicy"], "Retain");
        assert!(Volume.validate_create(&good).is_empty());
        for (field, value, words) in [
            ("capacity", json!({}), "spec.capacity: Required value"),
            (
                "capacity",
                json!({"storage": "0"}),
                "spec.capacity[storage]: Invalid value: \"0\": must be greater than zero",
            ),
            (
                "hostPath",
                json!(null),
                "spec: Required value: must specify a volume type",
            ),
            (
                "local",
                json!({"path": "/a"}),
                "spec.local: Forbidden: may not specify more than 1 volume type",
            ),
            ("nodeAffinity", json!({}), "must specify required node constraints"),
            (
                "persistentVolumeReclaimPolicy",
                json!("Keep"),
                "supported values: \"Delete\", \"Recycle\", \"Retain\"",
            ),
        ] {
            let mut volume = good.clone();
            volume["spec"][field] = value;
            expect(&Volume.validate_create(&volume), words);
        }
        let mut other = good.clone();
        other["spec"]["hostPath"]["path"] = "/b".into();
        expect(
            &Volume.validate_update(&other, &good),
            "spec.persistentvolumesource is immutable after creation",
        );
    }
}
