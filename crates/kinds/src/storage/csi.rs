//! CSIDriver and VolumeAttachment.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::storage::v1;
use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::{Value, json};

use crate::check::{has, immutable, named, one_of, show};
use crate::columns::{AGE, age, column, formatted};
use crate::edit::{default, default_text, items, object, text};
use crate::plain::names as kind_names;
use crate::schemas::typed;
use crate::{Cell, Context, Declared, Strategy};

/// The kinds of this file.
pub(super) fn kinds() -> Vec<Declared> {
    vec![
        kind_names(super::GROUP, "v1", "CSIDriver", "csidrivers", "csidriver", &[])
            .with(
                typed::<v1::CSIDriver>,
                const {
                    &[
                        column("AttachRequired", "boolean"),
                        column("PodInfoOnMount", "boolean"),
                        column("StorageCapacity", "boolean"),
                        column("TokenRequests", "string"),
                        column("RequiresRepublish", "boolean"),
                        column("Modes", "string"),
                        AGE,
                    ]
                },
                &Driver,
            )
            .cluster(),
        kind_names(
            super::GROUP,
            "v1",
            "VolumeAttachment",
            "volumeattachments",
            "volumeattachment",
            &[],
        )
        .with(
            typed::<v1::VolumeAttachment>,
            const {
                &[
                    formatted("Attacher", "string", "name"),
                    column("PV", "string"),
                    column("Node", "string"),
                    column("Attached", "boolean"),
                    AGE,
                ]
            },
            &Attachment,
        )
        .cluster()
        .status(),
    ]
}

struct Driver;
struct Attachment;

impl Strategy for Driver {
    fn default(&self, driver: &mut Value) {
        let Some(spec) = object(driver, "spec") else { return };
        default(spec, "attachRequired", true);
        for field in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
            default(spec, field, false);
        }
        default_text(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if items(spec, "volumeLifecycleModes").next().is_none() {
            crate::edit::set(spec, "volumeLifecycleModes", json!(["Persistent"]));
        }
    }

    fn validate_create(&self, driver: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&driver["spec"], Path::new("spec"));
        super::check_driver(
            text(&driver["metadata"], "name"),
            &Path::new("metadata").child("name"),
            &mut errors,
        );
        one_of(
            spec,
            "fsGroupPolicy",
            &["File", "None", "ReadWriteOnceWithFSType"],
            &path,
            &mut errors,
        );
        let at = path.child("volumeLifecycleModes");
        for mode in items(spec, "volumeLifecycleModes").filter_map(Value::as_str) {
            if !["Ephemeral", "Persistent"].contains(&mode) {
                errors.not_supported(&at, mode, &["Ephemeral", "Persistent"]);
            }
        }
        let mut seen = BTreeSet::new();
        for (i, request) in items(spec, "tokenRequests").enumerate() {
            let at = path.child("tokenRequests").index(i);
            let audience = text(request, "audience");
            if !seen.insert(audience) {
                errors.duplicate(&at.child("audience"), quoted(audience));
            }
            let place = at.child("expirationSeconds");
            match request["expirationSeconds"].as_i64() {
                Some(n) if n < 600 => {
                    errors.invalid(&place, n, "may not specify a duration less than 10 minutes");
                }
                Some(n) if n > 1 << 32 => {
                    errors.invalid(&place, n, "may not specify a duration larger than 2^32 seconds");
                }
                _ => {}
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(new);
        for field in ["attachRequired", "volumeLifecycleModes"] {
            let at = Path::new("spec").child(field);
            immutable(&new["spec"][field], &old["spec"][field], &at, &mut errors);
        }
        errors
    }

    fn row(&self, driver: &Value, now: Timestamp) -> Vec<Cell> {
        let spec = &driver["spec"];
        let flag = |field: &str, unset: bool| Cell::from(spec[field].as_bool().unwrap_or(unset));
        let list = |field: &str, of: fn(&Value) -> &str| items(spec, field).map(of).collect::<Vec<_>>().join(",");
        let audiences = if has(spec, "tokenRequests") {
            list("tokenRequests", |t| text(t, "audience"))
        } else {
            "<unset>".to_owned()
        };
        let modes = match list("volumeLifecycleModes", |m| m.as_str().unwrap_or_default()) {
            none if none.is_empty() => "<none>".to_owned(),
            some => some,
        };
        vec![
            flag("attachRequired", true),
            flag("podInfoOnMount", false),
            flag("storageCapacity", false),
            audiences.into(),
            flag("requiresRepublish", false),
            modes.into(),
            age(driver, now),
        ]
    }
}

impl Strategy for Attachment {
    fn prepare_create(&self, _: &Context<'_>, attachment: &mut Value) {
        crate::edit::set(attachment, "status", json!({"attached": false}));
    }

    fn validate_create(&self, attachment: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&attachment["spec"], Path::new("spec"));
        super::check_driver(text(spec, "attacher"), &path.child("attacher"), &mut errors);
        let (source, at) = (&spec["source"], path.child("source"));
        match (has(source, "inlineVolumeSpec"), has(source, "persistentVolumeName")) {
            (true, true) => {
                let words = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
                errors.forbidden(&at, words);
            }
            (false, false) => {
                let words = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
                errors.required(&at, words);
            }
            (false, true) if text(source, "persistentVolumeName").is_empty() => {
                errors.required(
                    &at.child("persistentVolumeName"),
                    "must specify non empty persistentVolumeName",
                );
            }
            _ => {}
        }
        named(
            text(spec, "nodeName"),
            names::dns1123_subdomain,
            &path.child("nodeName"),
            &mut errors,
        );
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(new);
        if new["spec"] != old["spec"] {
            errors.invalid(&Path::new("spec"), show(&new["spec"]), "field is immutable");
        }
        errors
    }

    fn row(&self, attachment: &Value, now: Timestamp) -> Vec<Cell> {
        let spec = &attachment["spec"];
        vec![
            text(spec, "attacher").into(),
            text(&spec["source"], "persistentVolumeName").into(),
            text(spec, "nodeName").into(),
            attachment["status"]["attached"].as_bool().unwrap_or(false).into(),
            age(attachment, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::expect;

    #[test]
    fn drivers() {
        let mut driver = json!({"metadata": {"name": "d.example.com"}, "spec": {}});
        Driver.default(&mut driver);
        assert_eq!(
            driver["spec"],
            json!({"attachRequired": true, "podInfoOnMount": false, "storageCapacity": false, "requiresRepublish": false,
                "seLinuxMount": false, "fsGroupPolicy": "ReadWriteOnceWithFSType", "volumeLifecycleModes": ["Persistent"]})
        );
        assert!(Driver.validate_create(&driver).is_empty());
        let row = Driver.row(&driver, Timestamp::UNIX_EPOCH);
        assert_eq!(row[3..6], [json!("<unset>"), json!(false), json!("Persistent")]);
        let mut other = driver.clone();
        other["spec"]["tokenRequests"] = json!([{"audience": "a", "expirationSeconds": 1}]);
        other["spec"]["attachRequired"] = false.into();
        let errors = Driver.validate_update(&other, &driver);
        expect(
            &errors,
            "spec.tokenRequests[0].expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
        );
        expect(&errors, "spec.attachRequired: Invalid value: false: field is immutable");
    }

    #[test]
    fn attachments() {
        let good =
            json!({"spec": {"attacher": "d.example.com", "nodeName": "n", "source": {"persistentVolumeName": "pv"}}});
        assert!(Attachment.validate_create(&good).is_empty());
        assert_eq!(
            Attachment.row(&good, Timestamp::UNIX_EPOCH)[..4],
            [json!("d.example.com"), json!("pv"), json!("n"), json!(false)]
        );
        let mut other = good.clone();
        other["spec"]["source"] = json!({});
        let errors = Attachment.validate_update(&other, &good);
        expect(
            &errors,
            "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName",
        );
        expect(&errors, "field is immutable");
    }
}
