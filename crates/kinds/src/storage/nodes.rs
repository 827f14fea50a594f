//! CSINode: which drivers a node has.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::storage::v1;
use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::Value;

use crate::check::{named, not_negative, show};
use crate::columns::{AGE, age, column};
use crate::edit::{items, text};
use crate::plain::names as kind_names;
use crate::schemas::typed;
use crate::{Cell, Declared, Strategy};

/// The kinds of this file.
pub(super) fn kinds() -> Vec<Declared> {
    vec![
        kind_names(super::GROUP, "v1", "CSINode", "csinodes", "csinode", &[])
            .with(
                typed::<v1::CSINode>,
                const { &[column("Drivers", "integer"), AGE] },
                &Node,
            )
            .cluster(),
    ]
}

struct Node;

const LONGEST_ID: usize = 192;

impl Strategy for Node {
    fn validate_create(&self, node: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec").child("drivers");
        let mut seen = BTreeSet::new();
        for (i, driver) in items(&node["spec"], "drivers").enumerate() {
            let at = path.index(i);
            let (name, id) = (text(driver, "name"), text(driver, "nodeID"));
            super::check_driver(name, &at.child("name"), &mut errors);
            if id.is_empty() {
                errors.required(&at.child("nodeID"), "");
            }
            if id.len() > LONGEST_ID {
                errors.invalid(
                    &at.child("nodeID"),
                    quoted(id),
                    format!("must be {LONGEST_ID} characters or less"),
                );
            }
            not_negative(
                &driver["allocatable"],
                &["count"],
                &at.child("allocatable"),
                &mut errors,
            );
            if !seen.insert(name) {
                errors.duplicate(&at.child("name"), quoted(name));
            }
            let mut keys = BTreeSet::new();
            for key in items(driver, "topologyKeys").filter_map(Value::as_str) {
                let at = at.child("topologyKeys");
                if key.is_empty() || !keys.insert(key) {
                    errors.duplicate(&at, quoted(key));
                }
                named(key, names::qualified_name, &at, &mut errors);
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(new);
        for was in items(&old["spec"], "drivers") {
            let same = items(&new["spec"], "drivers")
                .enumerate()
                .find(|(_, d)| text(d, "name") == text(was, "name"));
            // How much a driver can take may be found out again; what it is may not.
            let fixed = |d: &Value| (d["nodeID"].clone(), d["topologyKeys"].clone());
            if let Some((i, is)) = same.filter(|(_, is)| fixed(is) != fixed(was)) {
                let at = Path::new("spec").child("drivers").index(i);
                errors.invalid(&at, show(is), "field is immutable");
            }
        }
        errors
    }

    fn row(&self, node: &Value, now: Timestamp) -> Vec<Cell> {
        vec![items(&node["spec"], "drivers").count().into(), age(node, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::expect;
    use serde_json::json;

    #[test]
    fn nodes() {
        let good = json!({"spec": {"drivers": [{"name": "d.example.com", "nodeID": "x", "topologyKeys": ["zone"]}]}});
        assert!(Node.validate_create(&good).is_empty());
        assert_eq!(Node.row(&good, Timestamp::UNIX_EPOCH)[0], 1);
        let mut other = good.clone();
        other["spec"]["drivers"][0]["nodeID"] = "".into();
        let errors = Node.validate_update(&other, &good);
        expect(&errors, "spec.drivers[0].nodeID: Required value");
        expect(&errors, "field is immutable");
    }
}
