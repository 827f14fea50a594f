//! The rbac.authorization.k8s.io group.

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1;
use meta::field::{ErrorList, Path};
use meta::names;
use serde_json::Value;

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
        if !["Role", "ClusterRole"].contains(&text(role, "kind")) {
            errors.not_supported(&at.child("kind"), text(role, "kind"), &["ClusterRole", "Role"]);
        }
        if text(role, "name").is_empty() {
            errors.required(&at.child("name"), "");
        }
        for (i, subject) in items(binding, "subjects").enumerate() {
            let at = Path::new("subjects").index(i);
            if text(subject, "name").is_empty() {
                errors.required(&at.child("name"), "");
            }
            match text(subject, "kind") {
                "ServiceAccount" if text(subject, "namespace").is_empty() => {
                    errors.required(&at.child("namespace"), "")
                }
                "ServiceAccount" | "User" | "Group" => {}
                other => errors.not_supported(&at.child("kind"), other, &["Group", "ServiceAccount", "User"]),
            }
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
