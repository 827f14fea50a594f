//! The apps group: workloads made of a pod template.

mod daemonset;
mod deployment;
pub(crate) mod replicaset;
mod statefulset;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1;
use meta::field::{ErrorList, Path};
use serde_json::Value;

use crate::check::{IMMUTABLE, amount, has, not_over_100, show};
use crate::columns::{AGE, age, column};
use crate::edit::{int, items, text};
use crate::plain::Names;
use crate::schemas::typed;
use crate::{Cell, Declared, ScalePaths, Strategy, Text};

/// Kinds of the apps group.
pub(crate) fn kinds() -> Vec<Declared> {
    vec![
        deployment::kind(),
        replicaset::kind(),
        statefulset::kind(),
        daemonset::kind(),
        apps_kind("ControllerRevision", "controllerrevisions", "controllerrevision", &[]).with(
            typed::<v1::ControllerRevision>,
            const { &[column("Controller", "string"), column("Revision", "string"), AGE] },
            &Revision,
        ),
    ]
}

const fn apps_kind(
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short_names: &'static [&'static str],
) -> Names {
    Names {
        group: "apps",
        version: "v1",
        kind,
        plural,
        singular,
        short_names,
    }
}

/// Where `scale` of the workloads reads and writes.
const SCALE: ScalePaths = ScalePaths {
    spec_replicas: Text::Borrowed(".spec.replicas"),
    status_replicas: Text::Borrowed(".status.replicas"),
    selector: Text::Borrowed(".spec.selector"),
};

struct Revision;

impl Strategy for Revision {
    fn validate_create(&self, revision: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if !has(revision, "data") {
            errors.required(&Path::new("data"), "data is mandatory");
        }
        crate::check::not_negative(revision, &["revision"], &Path::root(), &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(new);
        if new["data"] != old["data"] {
            errors.invalid(&Path::new("data"), show(&new["data"]), IMMUTABLE);
        }
        errors
    }

    fn row(&self, revision: &Value, now: Timestamp) -> Vec<Cell> {
        let owner = items(&revision["metadata"], "ownerReferences").find(|o| o["controller"] == true);
        let owner = owner.map_or("<none>".to_owned(), |o| {
            let kind = text(o, "kind").to_lowercase();
            match text(o, "apiVersion").split_once('/') {
                Some((group, _)) => format!("{kind}.{group}/{}", text(o, "name")),
                None => format!("{kind}/{}", text(o, "name")),
            }
        });
        vec![owner.into(), int(revision, "/revision").into(), age(revision, now)]
    }
}

/// Checks a rolling update: how many pods may be missing, how many too many.
fn check_rolling(rolling: &Value, at: &Path, errors: &mut ErrorList) {
    for field in ["maxUnavailable", "maxSurge"] {
        amount(&rolling[field], &at.child(field), errors);
    }
    let zero = |v: &Value| v.is_null() || v.as_i64() == Some(0) || crate::check::percent(v) == Some(0);
    if zero(&rolling["maxUnavailable"]) && zero(&rolling["maxSurge"]) {
        let at = at.child("maxUnavailable");
        errors.invalid(
            &at,
            show(&rolling["maxUnavailable"]),
            "may not be 0 when `maxSurge` is 0",
        );
    }
    not_over_100(&rolling["maxUnavailable"], &at.child("maxUnavailable"), errors);
}

/// Counts in a status of which one cannot be greater than the other.
fn check_counts(status: &Value, pairs: &[(&str, &str)], errors: &mut ErrorList) {
    for (part, whole) in pairs {
        let count = |field: &str| int(status, &format!("/{field}"));
        if count(part) > count(whole) {
            let words = format!("cannot be greater than status.{whole}");
            errors.invalid(&Path::new("status").child(part), count(part), words);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::expect;
    use serde_json::json;

    #[test]
    fn revisions() {
        let good = json!({"data": {}, "revision": 2, "metadata": {"ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "controller": true}]}});
        assert!(Revision.validate_create(&good).is_empty());
        let row = Revision.row(&good, Timestamp::UNIX_EPOCH);
        assert_eq!(row[..2], [json!("daemonset.apps/d"), json!(2)]);
        expect(
            &Revision.validate_create(&json!({"revision": -1})),
            "data: Required value: data is mandatory",
        );
        let errors = Revision.validate_update(&json!({"data": {"a": 1}}), &good);
        expect(&errors, "data: Invalid value: {\"a\":1}: field is immutable");
    }
}
