//! ComponentStatus and Binding: read or posted, never stored.

use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use meta::field::{ErrorList, Path};
use serde_json::Value;

use crate::check::required;
use crate::columns::column;
use crate::edit::{items, text};
use crate::schemas::typed;
use crate::{Cell, Declared, Strategy};

/// The kinds of this file.
pub(super) fn kinds() -> Vec<Declared> {
    vec![
        Declared {
            verbs: &["get", "list"],
            ..super::core_kind("ComponentStatus", "componentstatuses", "componentstatus", &["cs"])
                .with(
                    typed::<v1::ComponentStatus>,
                    const {
                        &[
                            column("Status", "string"),
                            column("Message", "string"),
                            column("Error", "string"),
                        ]
                    },
                    &Component,
                )
                .cluster()
        },
        Declared {
            verbs: &["create"],
            ..super::core_kind("Binding", "bindings", "binding", &[]).with(
                typed::<v1::Binding>,
                const { &[crate::columns::AGE] },
                &Binding,
            )
        },
    ]
}

struct Component;
struct Binding;

impl Strategy for Component {
    fn row(&self, component: &Value, _: Timestamp) -> Vec<Cell> {
        let healthy = items(component, "conditions").find(|c| text(c, "type") == "Healthy");
        let (status, message, error) = match healthy {
            None => ("Unknown", "", ""),
            Some(c) => (
                if text(c, "status") == "True" {
                    "Healthy"
                } else {
                    "Unhealthy"
                },
                text(c, "message"),
                text(c, "error"),
            ),
        };
        vec![status.into(), message.into(), error.into()]
    }
}

impl Strategy for Binding {
    fn validate_create(&self, binding: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (target, at) = (&binding["target"], Path::new("target"));
        crate::check::one_of(target, "kind", &["Node", "<empty>"], &at, &mut errors);
        required(target, "name", &at, &mut errors);
        errors
    }

    fn row(&self, binding: &Value, now: Timestamp) -> Vec<Cell> {
        vec![crate::columns::age(binding, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn components_and_bindings() {
        let healthy = json!({"conditions": [{"type": "Healthy", "status": "True", "message": "ok"}]});
        let row = |c: &Value| Component.row(c, Timestamp::UNIX_EPOCH);
        assert_eq!(row(&healthy), [json!("Healthy"), json!("ok"), json!("")]);
        assert_eq!(row(&json!({}))[0], "Unknown");
        assert!(
            Binding
                .validate_create(&json!({"target": {"kind": "Node", "name": "n"}}))
                .is_empty()
        );
        let errors = Binding.validate_create(&json!({"target": {"kind": "Pod"}}));
        crate::check::expect(
            &errors,
            "target.kind: Unsupported value: \"Pod\": supported values: \"Node\", \"<empty>\"",
        );
        crate::check::expect(&errors, "target.name: Required value");
    }
}
