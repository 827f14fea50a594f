//! RuntimeClass.

use jiff::Timestamp;
use k8s_openapi::api::node::v1;
use meta::field::{ErrorList, Path};
use meta::names;
use serde_json::Value;

use crate::check::{immutable, labels, named, required};
use crate::columns::{AGE, age, column};
use crate::edit::text;
use crate::plain::names as kind_names;
use crate::schemas::typed;
use crate::{Cell, Declared, Strategy};

/// The kind.
pub(super) fn kind() -> Declared {
    kind_names(
        "node.k8s.io",
        "v1",
        "RuntimeClass",
        "runtimeclasses",
        "runtimeclass",
        &[],
    )
    .with(
        typed::<v1::RuntimeClass>,
        const { &[column("Handler", "string"), AGE] },
        &Class,
    )
    .cluster()
}

struct Class;

impl Strategy for Class {
    fn validate_create(&self, class: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if required(class, "handler", &Path::root(), &mut errors) {
            named(
                text(class, "handler"),
                names::dns1123_label,
                &Path::new("handler"),
                &mut errors,
            );
        }
        let at = Path::new("scheduling").child("nodeSelector");
        labels(&class["scheduling"]["nodeSelector"], &at, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(new);
        immutable(&new["handler"], &old["handler"], &Path::new("handler"), &mut errors);
        errors
    }

    fn row(&self, class: &Value, now: Timestamp) -> Vec<Cell> {
        vec![text(class, "handler").into(), age(class, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes() {
        let good = json!({"handler": "runc"});
        assert!(Class.validate_create(&good).is_empty());
        let errors = Class.validate_update(&json!({"handler": "A"}), &good);
        crate::check::expect(&errors, "handler: Invalid value: \"A\": a lowercase RFC 1123 label");
        crate::check::expect(&errors, "handler: Invalid value: \"A\": field is immutable");
    }
}
