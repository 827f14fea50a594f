//! PriorityClass.

use jiff::Timestamp;
use k8s_openapi::api::scheduling::v1;
use meta::field::{ErrorList, Path};
use serde_json::Value;

use crate::check::{immutable, one_of};
use crate::columns::{AGE, age, column};
use crate::edit::{default_text, int, text};
use crate::plain::names;
use crate::schemas::typed;
use crate::{Cell, Declared, Strategy};

/// The kind.
pub(super) fn kind() -> Declared {
    names(
        "scheduling.k8s.io",
        "v1",
        "PriorityClass",
        "priorityclasses",
        "priorityclass",
        &["pc"],
    )
    .with(
        typed::<v1::PriorityClass>,
        const {
            &[
                column("Value", "integer"),
                column("Global-Default", "boolean"),
                AGE,
                column("PreemptionPolicy", "string"),
            ]
        },
        &Class,
    )
    .cluster()
}

struct Class;

/// The most that users may ask for.
const MOST: i64 = 1_000_000_000;
/// Classes that the system has itself.
const SYSTEM: [(&str, i64); 2] = [
    ("system-cluster-critical", 2_000_000_000),
    ("system-node-critical", 2_000_001_000),
];

impl Strategy for Class {
    fn default(&self, class: &mut Value) {
        default_text(class, "preemptionPolicy", "PreemptLowerPriority");
    }

    fn validate_create(&self, class: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (name, value) = (text(&class["metadata"], "name"), int(class, "/value"));
        if name.starts_with("system-") {
            if !SYSTEM.contains(&(name, value)) {
                let words = format!(
                    "priority class names with 'system-' prefix are reserved for system use only. error: {name} is not \
                     a known system priority class"
                );
                errors.forbidden(&Path::new("metadata").child("name"), words);
            }
        } else if value > MOST {
            let words = format!("maximum allowed value of a user defined priority is {MOST}");
            errors.forbidden(&Path::new("value"), words);
        }
        one_of(
            class,
            "preemptionPolicy",
            &["Never", "PreemptLowerPriority"],
            &Path::root(),
            &mut errors,
        );
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if new["value"] != old["value"] {
            errors.forbidden(&Path::new("value"), "may not be changed in an update.");
        }
        let at = Path::new("preemptionPolicy");
        immutable(&new["preemptionPolicy"], &old["preemptionPolicy"], &at, &mut errors);
        errors
    }

    fn row(&self, class: &Value, now: Timestamp) -> Vec<Cell> {
        vec![
            int(class, "/value").into(),
            class["globalDefault"].as_bool().unwrap_or(false).into(),
            age(class, now),
            text(class, "preemptionPolicy").into(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::expect;
    use serde_json::json;

    #[test]
    fn classes() {
        let mut class = json!({"metadata": {"name": "high"}, "value": 5});
        Class.default(&mut class);
        assert_eq!(class["preemptionPolicy"], "PreemptLowerPriority");
        assert!(Class.validate_create(&class).is_empty());
        assert!(
            Class
                .validate_create(&json!({"metadata": {"name": "system-node-critical"}, "value": 2_000_001_000}))
                .is_empty()
        );
        let errors = Class.validate_create(&json!({"metadata": {"name": "system-x"}}));
        expect(
            &errors,
            "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved",
        );
        let errors = Class.validate_create(&json!({"metadata": {"name": "a"}, "value": 2_000_000_000}));
        expect(
            &errors,
            "value: Forbidden: maximum allowed value of a user defined priority is 1000000000",
        );
        let mut other = class.clone();
        other["value"] = 6.into();
        expect(
            &Class.validate_update(&other, &class),
            "value: Forbidden: may not be changed in an update.",
        );
    }
}
