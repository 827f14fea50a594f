//! StorageClass and VolumeAttributesClass.

use jiff::Timestamp;
use k8s_openapi::api::storage::v1;
use meta::field::{ErrorList, Path};
use meta::names;
use serde_json::Value;

use crate::check::{self, any, immutable, must_be_one_of, named};
use crate::columns::{AGE, age, column};
use crate::edit::{default_text, items, text};
use crate::plain::names as kind_names;
use crate::schemas::typed;
use crate::{Cell, Declared, Strategy};

/// The kinds of this file.
pub(super) fn kinds() -> Vec<Declared> {
    vec![
        kind_names(
            super::GROUP,
            "v1",
            "StorageClass",
            "storageclasses",
            "storageclass",
            &["sc"],
        )
        .with(
            typed::<v1::StorageClass>,
            const {
                &[
                    column("Provisioner", "string"),
                    column("ReclaimPolicy", "string"),
                    column("VolumeBindingMode", "string"),
                    column("AllowVolumeExpansion", "string"),
                    AGE,
                ]
            },
            &StorageClass,
        )
        .cluster(),
        kind_names(
            super::GROUP,
            "v1",
            "VolumeAttributesClass",
            "volumeattributesclasses",
            "volumeattributesclass",
            &["vac"],
        )
        .with(
            typed::<v1::VolumeAttributesClass>,
            const { &[column("DriverName", "string"), AGE] },
            &AttributesClass,
        )
        .cluster(),
    ]
}

struct StorageClass;
struct AttributesClass;

const MOST_PARAMETERS: usize = 512;
const MOST_BYTES: usize = 256 * 1024;

fn check_parameters(object: &Value, empty_fine: bool, errors: &mut ErrorList) {
    let at = Path::new("parameters");
    let map = object["parameters"].as_object();
    let count = map.map_or(0, |m| m.len());
    if count == 0 && !empty_fine {
        errors.required(&at, "must contain at least one key/value pair");
    }
    if count > MOST_PARAMETERS {
        return errors.too_long(&at, MOST_PARAMETERS);
    }
    let mut bytes = 0;
    for (key, value) in map.into_iter().flatten() {
        if key.is_empty() {
            errors.invalid(&at, "\"\"", "field can not be empty.");
        }
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > MOST_BYTES {
        errors.too_long(&at, MOST_BYTES);
    }
}

/// Fields that upstream forbids to change, rather than calling the new value invalid.
fn forbid_changes(new: &Value, old: &Value, fields: &[&str], errors: &mut ErrorList) {
    for field in fields {
        if new.get(field) != old.get(field) {
            errors.forbidden(&Path::new(field), format!("updates to {field} are forbidden."));
        }
    }
}

impl Strategy for StorageClass {
    fn name_cell(&self, class: &Value) -> Option<Cell> {
        let marks = &class["metadata"]["annotations"];
        let default = [
            "storageclass.kubernetes.io/is-default-class",
            "storageclass.beta.kubernetes.io/is-default-class",
        ];
        let name = text(&class["metadata"], "name");
        Some(if default.iter().any(|mark| marks[*mark] == "true") {
            format!("{name} (default)").into()
        } else {
            name.into()
        })
    }

    fn default(&self, class: &mut Value) {
        default_text(class, "reclaimPolicy", "Delete");
        default_text(class, "volumeBindingMode", "Immediate");
    }

    fn validate_create(&self, class: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let root = Path::root();
        match text(class, "provisioner") {
            "" => errors.required(&Path::new("provisioner"), ""),
            name => named(
                &name.to_lowercase(),
                names::qualified_name,
                &Path::new("provisioner"),
                &mut errors,
            ),
        }
        check_parameters(class, true, &mut errors);
        check::one_of(class, "reclaimPolicy", &["Delete", "Retain"], &root, &mut errors);
        must_be_one_of(
            class,
            "volumeBindingMode",
            &["Immediate", "WaitForFirstConsumer"],
            &root,
            &mut errors,
        );
        for (i, term) in items(class, "allowedTopologies").enumerate() {
            let at = Path::new("allowedTopologies").index(i).child("matchLabelExpressions");
            for (n, wanted) in items(term, "matchLabelExpressions").enumerate() {
                let at = at.index(n);
                named(
                    text(wanted, "key"),
                    names::qualified_name,
                    &at.child("key"),
                    &mut errors,
                );
                if !any(wanted, "values") {
                    errors.required(&at.child("values"), "");
                }
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(new);
        forbid_changes(new, old, &["parameters", "provisioner", "reclaimPolicy"], &mut errors);
        let at = Path::new("volumeBindingMode");
        immutable(&new["volumeBindingMode"], &old["volumeBindingMode"], &at, &mut errors);
        errors
    }

    fn row(&self, class: &Value, now: Timestamp) -> Vec<Cell> {
        let or = |field: &str, other: &str| match text(class, field) {
            "" => Cell::from(other),
            given => given.into(),
        };
        vec![
            text(class, "provisioner").into(),
            or("reclaimPolicy", "Delete"),
            or("volumeBindingMode", "Immediate"),
            class["allowVolumeExpansion"].as_bool().unwrap_or(false).into(),
            age(class, now),
        ]
    }
}

impl Strategy for AttributesClass {
    fn validate_create(&self, class: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        super::check_driver(text(class, "driverName"), &Path::new("driverName"), &mut errors);
        check_parameters(class, false, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        forbid_changes(new, old, &["driverName", "parameters"], &mut errors);
        errors
    }

    fn row(&self, class: &Value, now: Timestamp) -> Vec<Cell> {
        vec![text(class, "driverName").into(), age(class, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::expect;
    use serde_json::json;

    #[test]
    fn classes_of_storage() {
        let mut class = json!({"provisioner": "example.com/disk"});
        StorageClass.default(&mut class);
        assert_eq!(class["reclaimPolicy"], "Delete");
        assert_eq!(class["volumeBindingMode"], "Immediate");
        assert!(StorageClass.validate_create(&class).is_empty());
        for (field, value, words) in [
            ("provisioner", json!(""), "provisioner: Required value"),
            (
                "reclaimPolicy",
                json!("Recycle"),
                "reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\"",
            ),
            (
                "volumeBindingMode",
                json!("Later"),
                "supported values: \"Immediate\", \"WaitForFirstConsumer\"",
            ),
        ] {
            let mut other = class.clone();
            other[field] = value;
            expect(&StorageClass.validate_create(&other), words);
        }
        let mut other = class.clone();
        other["parameters"] = json!({"a": "b"});
        other["volumeBindingMode"] = "WaitForFirstConsumer".into();
        let errors = StorageClass.validate_update(&other, &class);
        expect(&errors, "parameters: Forbidden: updates to parameters are forbidden.");
        expect(
            &errors,
            "volumeBindingMode: Invalid value: \"WaitForFirstConsumer\": field is immutable",
        );
        assert_eq!(StorageClass.row(&class, Timestamp::UNIX_EPOCH)[3], false);
    }

    #[test]
    fn classes_of_attributes() {
        let class = json!({"driverName": "d.example.com", "parameters": {"iops": "1"}});
        assert!(AttributesClass.validate_create(&class).is_empty());
        let errors = AttributesClass.validate_create(&json!({}));
        expect(&errors, "driverName: Required value");
        expect(
            &errors,
            "parameters: Required value: must contain at least one key/value pair",
        );
        let other = json!({"driverName": "e.example.com", "parameters": {"iops": "1"}});
        expect(
            &AttributesClass.validate_update(&other, &class),
            "driverName: Forbidden: updates to driverName are forbidden.",
        );
    }
}
