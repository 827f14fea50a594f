//! ValidatingAdmissionPolicy, MutatingAdmissionPolicy and their bindings.

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1;
use meta::field::{ErrorList, Path};
use serde_json::Value;

use super::policy_checks::{check_binding, check_policy, check_status};
use super::rules::default_match;
use crate::check::has;
use crate::columns::{AGE, age, column};
use crate::edit::{default_text, items, text};
use crate::plain::names;
use crate::schemas::typed;
use crate::{Cell, Declared, Strategy};

/// The kinds of this file.
pub(super) fn kinds() -> Vec<Declared> {
    let binding_columns = const { &[column("PolicyName", "string"), column("ParamRef", "string"), AGE] };
    let named = |kind, plural, singular| names(super::GROUP, "v1", kind, plural, singular, &[]);
    vec![
        named(
            "ValidatingAdmissionPolicy",
            "validatingadmissionpolicies",
            "validatingadmissionpolicy",
        )
        .with(
            typed::<v1::ValidatingAdmissionPolicy>,
            const { &[column("Validations", "integer"), column("ParamKind", "string"), AGE] },
            &Policy { mutating: false },
        )
        .cluster()
        .status(),
        named(
            "ValidatingAdmissionPolicyBinding",
            "validatingadmissionpolicybindings",
            "validatingadmissionpolicybinding",
        )
        .with(
            typed::<v1::ValidatingAdmissionPolicyBinding>,
            binding_columns,
            &Binding { mutating: false },
        )
        .cluster(),
        named(
            "MutatingAdmissionPolicy",
            "mutatingadmissionpolicies",
            "mutatingadmissionpolicy",
        )
        .with(
            typed::<v1::MutatingAdmissionPolicy>,
            const { &[column("Mutations", "integer"), column("ParamKind", "string"), AGE] },
            &Policy { mutating: true },
        )
        .cluster(),
        named(
            "MutatingAdmissionPolicyBinding",
            "mutatingadmissionpolicybindings",
            "mutatingadmissionpolicybinding",
        )
        .with(
            typed::<v1::MutatingAdmissionPolicyBinding>,
            binding_columns,
            &Binding { mutating: true },
        )
        .cluster(),
    ]
}

struct Policy {
    mutating: bool,
}

struct Binding {
    mutating: bool,
}

impl Strategy for Policy {
    fn default(&self, policy: &mut Value) {
        let Some(spec) = policy.get_mut("spec").filter(|s| s.is_object()) else {
            return;
        };
        default_text(spec, "failurePolicy", "Fail");
        if let Some(resources) = spec.get_mut("matchConstraints").filter(|r| r.is_object()) {
            default_match(resources);
        }
    }

    fn validate_create(&self, policy: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_policy(policy, self.mutating, &Path::new("spec"), &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, _: &Value) -> ErrorList {
        self.validate_create(new)
    }

    fn validate_status_update(&self, new: &Value, _: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_status(&new["status"], &Path::new("status"), &mut errors);
        errors
    }

    fn row(&self, policy: &Value, now: Timestamp) -> Vec<Cell> {
        let spec = &policy["spec"];
        let list = if self.mutating { "mutations" } else { "validations" };
        let kind = &spec["paramKind"];
        let kind = if kind.is_object() {
            format!("{}/{}", text(kind, "apiVersion"), text(kind, "kind"))
        } else {
            "<unset>".to_owned()
        };
        vec![items(spec, list).count().into(), kind.into(), age(policy, now)]
    }
}

impl Strategy for Binding {
    fn default(&self, binding: &mut Value) {
        if let Some(resources) = binding.pointer_mut("/spec/matchResources").filter(|r| r.is_object()) {
            default_match(resources);
        }
    }

    fn validate_create(&self, binding: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_binding(&binding["spec"], self.mutating, &Path::new("spec"), &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, _: &Value) -> ErrorList {
        self.validate_create(new)
    }

    fn row(&self, binding: &Value, now: Timestamp) -> Vec<Cell> {
        let (spec, param) = (&binding["spec"], &binding["spec"]["paramRef"]);
        let param = match (text(param, "namespace"), text(param, "name")) {
            ("", "") if has(param, "selector") => param["selector"].to_string(),
            (_, "") => "<unset>".to_owned(),
            // Whether parameters live in namespaces cannot be told from here.
            ("", name) => format!("*/{name}"),
            (namespace, name) => format!("{namespace}/{name}"),
        };
        vec![text(spec, "policyName").into(), param.into(), age(binding, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::expect;
    use serde_json::json;

    fn policy() -> Value {
        let mut policy = json!({"metadata": {"name": "p.example.com"}, "spec": {
            "matchConstraints": {"resourceRules": [{
                "operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"],
            }]},
            "validations": [{"expression": "object.spec.replicas <= 5"}],
        }});
        Policy { mutating: false }.default(&mut policy);
        policy
    }

    #[test]
    fn defaults_and_cells() {
        let policy = policy();
        let resources = &policy["spec"]["matchConstraints"];
        assert_eq!(policy["spec"]["failurePolicy"], "Fail");
        assert_eq!(resources["matchPolicy"], "Equivalent");
        assert_eq!(resources["objectSelector"], json!({}));
        assert_eq!(resources["resourceRules"][0]["scope"], "*");
        let strategy = Policy { mutating: false };
        assert!(strategy.validate_create(&policy).is_empty());
        assert_eq!(
            strategy.row(&policy, Timestamp::UNIX_EPOCH)[..2],
            [json!(1), json!("<unset>")]
        );
        let binding = json!({"spec": {"policyName": "p", "paramRef": {"name": "x"}}});
        assert_eq!(
            Binding { mutating: false }.row(&binding, Timestamp::UNIX_EPOCH)[1],
            "*/x"
        );
    }

    #[test]
    fn errors_of_policies() {
        for (field, value, words) in [
            ("matchConstraints", json!(null), "spec.matchConstraints: Required value"),
            (
                "failurePolicy",
                json!("X"),
                "spec.failurePolicy: Unsupported value: \"X\": supported values: \"Fail\", \"Ignore\"",
            ),
            (
                "validations",
                json!([]),
                "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
            ),
            (
                "validations",
                json!([{"expression": " "}]),
                "spec.validations[0].expression: Required value: expression is not specified",
            ),
            (
                "validations",
                json!([{"expression": "x", "message": "a\nb"}]),
                "message must not contain line breaks",
            ),
            (
                "validations",
                json!([{"expression": "x", "reason": "No"}]),
                "spec.validations[0].reason: Unsupported value: \"No\"",
            ),
            (
                "variables",
                json!([{"name": "for", "expression": "x"}]),
                "name is not a valid CEL identifier",
            ),
            (
                "paramKind",
                json!({"apiVersion": "a/b/c", "kind": "K"}),
                "unexpected GroupVersion string: a/b/c",
            ),
            (
                "auditAnnotations",
                json!([{"key": "k"}]),
                "valueExpression: Required value: valueExpression is not specified",
            ),
        ] {
            let mut policy = policy();
            policy["spec"][field] = value;
            expect(&Policy { mutating: false }.validate_create(&policy), words);
        }
    }

    #[test]
    fn mutations() {
        let strategy = Policy { mutating: true };
        let mut policy = policy();
        policy["spec"]["reinvocationPolicy"] = "Never".into();
        expect(&strategy.validate_create(&policy), "spec.mutations: Required value");
        policy["spec"]["mutations"] = json!([{"patchType": "JSONPatch", "applyConfiguration": {"expression": "x"}}]);
        let errors = strategy.validate_create(&policy);
        expect(&errors, "spec.mutations[0].jsonPatch: Required value");
        policy["spec"]["mutations"] = json!([{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}]);
        assert!(strategy.validate_create(&policy).is_empty());
    }

    #[test]
    fn errors_of_bindings() {
        let good = json!({"policyName": "p", "validationActions": ["Deny"]});
        let check = |spec: Value| Binding { mutating: false }.validate_create(&json!({"spec": spec}));
        assert!(check(good.clone()).is_empty());
        for (field, value, words) in [
            ("policyName", json!(""), "spec.policyName: Required value"),
            (
                "validationActions",
                json!([]),
                "at least one validation action is required",
            ),
            (
                "validationActions",
                json!(["Deny", "Warn"]),
                "must not contain both Deny and Warn",
            ),
            (
                "paramRef",
                json!({}),
                "spec.paramRef: Required value: one of name or selector must be specified",
            ),
            (
                "paramRef",
                json!({"name": "a"}),
                "spec.paramRef.parameterNotFoundAction: Required value",
            ),
            (
                "paramRef",
                json!({"name": "a", "selector": {}}),
                "name and selector are mutually exclusive",
            ),
        ] {
            let mut spec = good.clone();
            spec[field] = value;
            expect(&check(spec), words);
        }
    }
}
