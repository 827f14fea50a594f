//! The rbac.authorization.k8s.io group.

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1;
use meta::field::{ErrorList, Path};
use meta::names;
use serde_json::Value;

use crate::check::{named, required, required_name};
use crate::columns::{AGE, age, column, text_or_none, wide};
use crate::edit::{default_text, items, items_mut, text};
use crate::plain::Names;
use crate::schemas::typed;
use crate::{Cell, Declared, Scope, Strategy};

const GROUP: &str = "rbac.authorization.k8s.io";

/// The kinds of this file.
pub(crate) fn kinds() -> Vec<Declared> {
    let names = |kind, plural, singular| Names {
        group: GROUP,
        version: "v1",
        kind,
        plural,
        singular,
        short_names: &[],
    };
    let role_columns = const { &[column("Created At", "date")] };
    let binding_columns = const {
        &[
            column("Role", "string"),
            AGE,
            wide("Users", "string"),
            wide("Groups", "string"),
            wide("ServiceAccounts", "string"),
        ]
    };
    let cluster = |kind: Declared| Declared {
        scope: Scope::Cluster,
        ..kind
    };
    vec![
        names("Role", "roles", "role").with(typed::<v1::Role>, role_columns, &Role),
        names("RoleBinding", "rolebindings", "rolebinding").with(typed::<v1::RoleBinding>, binding_columns, &Binding),
        cluster(names("ClusterRole", "clusterroles", "clusterrole").with(
            typed::<v1::ClusterRole>,
            role_columns,
            &Role,
        )),
        cluster(
            names("ClusterRoleBinding", "clusterrolebindings", "clusterrolebinding").with(
                typed::<v1::ClusterRoleBinding>,
                binding_columns,
                &Binding,
            ),
        ),
    ]
}

struct Role;
struct Binding;

impl Strategy for Role {
    fn validate_create(&self, role: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for (i, rule) in items(role, "rules").enumerate() {
            let at = Path::new("rules").index(i);
            let any = |field: &str| items(rule, field).next().is_some();
            if !any("verbs") {
                errors.required(&at.child("verbs"), "verbs must contain at least one value");
            }
            if any("nonResourceURLs") {
                if role
                    .pointer("/metadata/namespace")
                    .and_then(Value::as_str)
                    .is_some_and(|n| !n.is_empty())
                {
                    errors.invalid(
                        &at.child("nonResourceURLs"),
                        rule["nonResourceURLs"].clone(),
                        "namespaced rules cannot apply to non-resource URLs",
                    );
                }
                if any("apiGroups") || any("resources") || any("resourceNames") {
                    errors.invalid(
                        &at.child("nonResourceURLs"),
                        &rule["nonResourceURLs"],
                        "rules cannot apply to both regular resources and non-resource URLs",
                    );
                }
                continue;
            }
            if !any("apiGroups") {
                errors.required(
                    &at.child("apiGroups"),
                    "resource rules must supply at least one api group",
                );
            }
            if !any("resources") {
                errors.required(
                    &at.child("resources"),
                    "resource rules must supply at least one resource",
                );
            }
        }
        let aggregated = &role["aggregationRule"];
        if aggregated.is_object() {
            let at = Path::new("aggregationRule").child("clusterRoleSelectors");
            if items(aggregated, "clusterRoleSelectors").next().is_none() {
                let words = "at least one clusterRoleSelector required if aggregationRule is non-nil";
                errors.required(&at, words);
            }
            for (i, selector) in items(aggregated, "clusterRoleSelectors").enumerate() {
                crate::check::label_selector(selector, &at.index(i), &mut errors);
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, _: &Value) -> ErrorList {
        self.validate_create(new)
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::path_segment(name)
    }

    fn row(&self, role: &Value, _: Timestamp) -> Vec<Cell> {
        vec![text_or_none(role, "/metadata/creationTimestamp")]
    }
}

fn check_subject(subject: &Value, at: &Path, errors: &mut ErrorList) {
    required(subject, "name", at, errors);
    let group = text(subject, "apiGroup");
    match text(subject, "kind") {
        "ServiceAccount" => {
            let name = text(subject, "name");
            if !name.is_empty() {
                named(name, names::dns1123_subdomain, &at.child("name"), errors);
            }
            if !group.is_empty() {
                errors.not_supported(&at.child("apiGroup"), group, &[""]);
            }
            if text(subject, "namespace").is_empty() {
                errors.required(&at.child("namespace"), "");
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.not_supported(&at.child("apiGroup"), group, &[GROUP]);
            }
        }
        other => errors.not_supported(&at.child("kind"), other, &["ServiceAccount", "User", "Group"]),
    }
}

impl Strategy for Binding {
    fn default(&self, binding: &mut Value) {
        if let Some(role) = binding.get_mut("roleRef").filter(|r| r.is_object()) {
            default_text(role, "apiGroup", GROUP);
        }
        for subject in items_mut(binding, "subjects") {
            if matches!(text(subject, "kind"), "User" | "Group") {
                default_text(subject, "apiGroup", GROUP);
            }
        }
    }

    fn validate_create(&self, binding: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (role, at) = (&binding["roleRef"], Path::new("roleRef"));
        if text(role, "apiGroup") != GROUP {
            errors.not_supported(&at.child("apiGroup"), text(role, "apiGroup"), &[GROUP]);
        }
        let of_cluster = text(&binding["metadata"], "namespace").is_empty();
        let kinds: &[&str] = if of_cluster {
            &["ClusterRole"]
        } else {
            &["ClusterRole", "Role"]
        };
        if !kinds.contains(&text(role, "kind")) {
            errors.not_supported(&at.child("kind"), text(role, "kind"), kinds);
        }
        required_name(role, "name", names::path_segment, &at, &mut errors);
        for (i, subject) in items(binding, "subjects").enumerate() {
            check_subject(subject, &Path::new("subjects").index(i), &mut errors);
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(new);
        if new["roleRef"] != old["roleRef"] {
            errors.invalid(&Path::new("roleRef"), new["roleRef"].clone(), "cannot change roleRef");
        }
        errors
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::path_segment(name)
    }

    fn row(&self, binding: &Value, now: Timestamp) -> Vec<Cell> {
        let subjects = |kind: &str| {
            let of_kind = items(binding, "subjects").filter(|s| text(s, "kind") == kind);
            let list: Vec<String> = of_kind
                .map(|s| match text(s, "namespace") {
                    "" => text(s, "name").to_owned(),
                    namespace => format!("{namespace}/{}", text(s, "name")),
                })
                .collect();
            Cell::from(list.join(", "))
        };
        let role = &binding["roleRef"];
        vec![
            format!("{}/{}", text(role, "kind"), text(role, "name")).into(),
            age(binding, now),
            subjects("User"),
            subjects("Group"),
            subjects("ServiceAccount"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::expect;
    use serde_json::json;

    #[test]
    fn roles() {
        let rule = |rule: Value| Role.validate_create(&json!({"metadata": {"namespace": "n"}, "rules": [rule]}));
        assert!(rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]})).is_empty());
        for (given, words) in [
            (
                json!({}),
                "rules[0].verbs: Required value: verbs must contain at least one value",
            ),
            (
                json!({"verbs": ["get"]}),
                "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
            ),
            (
                json!({"verbs": ["get"], "nonResourceURLs": ["/a"]}),
                "namespaced rules cannot apply to non-resource URLs",
            ),
            (
                json!({"verbs": ["get"], "nonResourceURLs": ["/a"], "resources": ["pods"]}),
                "rules cannot apply to both regular resources and non-resource URLs",
            ),
        ] {
            expect(&rule(given), words);
        }
        let empty = json!({"aggregationRule": {}});
        expect(
            &Role.validate_create(&empty),
            "at least one clusterRoleSelector required if aggregationRule is non-nil",
        );
    }

    #[test]
    fn bindings() {
        let mut good =
            json!({"roleRef": {"kind": "ClusterRole", "name": "view"}, "subjects": [{"kind": "User", "name": "u"}]});
        Binding.default(&mut good);
        assert_eq!(good["subjects"][0]["apiGroup"], GROUP);
        assert!(Binding.validate_create(&good).is_empty());
        let mut other = good.clone();
        other["roleRef"]["kind"] = "Role".into();
        other["subjects"] = json!([{"kind": "ServiceAccount", "name": "a"}, {"kind": "X", "name": "b"}]);
        let errors = Binding.validate_update(&other, &good);
        expect(
            &errors,
            "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
        );
        expect(&errors, "subjects[0].namespace: Required value");
        expect(&errors, "subjects[1].kind: Unsupported value: \"X\"");
        expect(&errors, "cannot change roleRef");
    }
}
