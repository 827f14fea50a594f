//! The apiextensions.k8s.io group: CustomResourceDefinition. What a definition
//! makes is in [`crate::custom`].

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1;
use meta::field::{ErrorList, Path};
use serde_json::{Value, json};

use crate::columns::column;
use crate::custom::Rules;
use crate::edit::{default, default_text, items, items_mut, object, set, text};
use crate::extensions::{check_create, check_status, check_update};
use crate::plain::Names;
use crate::schemas::typed;
use crate::{Cell, Context, Declared, Scope, Strategy, Subresource};

/// Held by a definition until its objects are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// The kinds of this group.
pub(crate) fn kinds() -> Vec<Declared> {
    let names = Names {
        group: "apiextensions.k8s.io",
        version: "v1",
        kind: "CustomResourceDefinition",
        plural: "customresourcedefinitions",
        singular: "customresourcedefinition",
        short_names: &["crd", "crds"],
    };
    vec![Declared {
        scope: Scope::Cluster,
        categories: &["api-extensions"],
        subresources: const { &[Subresource::Status] },
        ..names.with(
            typed::<v1::CustomResourceDefinition>,
            const { &[column("Created At", "date")] },
            &Definition,
        )
    }]
}

pub(crate) struct Definition;

impl Strategy for Definition {
    fn prepare_create(&self, _ctx: &Context<'_>, crd: &mut Value) {
        let stored = storage_version(crd);
        let status = json!({"conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored});
        set(crd, "status", status);
        tidy(crd);
    }

    fn prepare_update(&self, _ctx: &Context<'_>, new: &mut Value, _old: &Value) {
        let stored = storage_version(new);
        if let Some(status) = object(new, "status") {
            let mut all: Vec<Value> = items(status, "storedVersions").cloned().collect();
            all.extend(
                stored
                    .into_iter()
                    .map(Value::String)
                    .filter(|v| !all.contains(v))
                    .collect::<Vec<_>>(),
            );
            set(status, "storedVersions", all);
        }
        tidy(new);
    }

    fn default(&self, crd: &mut Value) {
        let Some(spec) = object(crd, "spec") else { return };
        if let Some(names) = object(spec, "names") {
            let kind = text(names, "kind").to_owned();
            if !kind.is_empty() {
                default_text(names, "singular", &kind.to_lowercase());
                default_text(names, "listKind", &format!("{kind}List"));
            }
        }
        if let Some(conversion) = object(spec, "conversion") {
            default_text(conversion, "strategy", "None");
            if let Some(service) = conversion.pointer_mut("/webhook/clientConfig/service") {
                default(service, "port", 443);
            }
        }
    }

    fn validate_create(&self, crd: &Value) -> ErrorList {
        let mut errors = check_create(crd);
        check_rules(crd, None, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = check_update(new, old);
        check_rules(new, Some(old), &mut errors);
        errors
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> ErrorList {
        check_status(new)
    }

    fn row(&self, crd: &Value, _now: Timestamp) -> Vec<Cell> {
        vec![text(&crd["metadata"], "creationTimestamp").into()]
    }

    fn delete_finalizers(&self) -> &'static [&'static str] {
        &[CLEANUP]
    }
}

/// Compiles the rules of every version whose schema is new. Others were accepted once.
fn check_rules(crd: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    if !errors.is_empty() {
        return;
    }
    let schema = |v: &Value| v["schema"]["openAPIV3Schema"].clone();
    let known: Vec<Value> = old
        .into_iter()
        .flat_map(|o| items(&o["spec"], "versions"))
        .map(schema)
        .collect();
    for (i, version) in items(&crd["spec"], "versions").enumerate() {
        let schema = schema(version);
        if !known.contains(&schema) {
            let at = Path::new("spec")
                .child("versions")
                .index(i)
                .child("schema")
                .child("openAPIV3Schema");
            Rules::compile(&schema, &at, errors);
        }
    }
}

/// Whether a condition holds.
pub fn is_true(crd: &Value, condition: &str) -> bool {
    items(&crd["status"], "conditions").any(|c| text(c, "type") == condition && text(c, "status") == "True")
}

fn storage_version(crd: &Value) -> Vec<String> {
    let stored = items(&crd["spec"], "versions").filter(|v| v["storage"] == true);
    stored.map(|v| text(v, "name").to_owned()).collect()
}

/// Upstream does not write out what is false.
fn tidy(crd: &mut Value) {
    let Some(spec) = crd.get_mut("spec") else { return };
    if spec.get("preserveUnknownFields") == Some(&Value::Bool(false)) {
        crate::edit::drop(spec, "preserveUnknownFields");
    }
    for version in items_mut(spec, "versions") {
        if version.get("deprecated") == Some(&Value::Bool(false)) {
            crate::edit::drop(version, "deprecated");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crd() -> Value {
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "crontabs.stable.example.com"},
            "spec": {"group": "stable.example.com", "scope": "Namespaced", "names": {"plural": "crontabs", "kind": "CronTab"},
                "versions": [{"name": "v1", "served": true, "storage": true,
                    "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object",
                        "properties": {"replicas": {"type": "integer", "default": 1}}}}}}}]}})
    }

    #[test]
    fn a_small_definition_is_filled_in() {
        let mut crd = crd();
        Definition.default(&mut crd);
        assert_eq!(crd["spec"]["names"]["singular"], "crontab");
        assert_eq!(crd["spec"]["names"]["listKind"], "CronTabList");
        assert_eq!(crd["spec"]["conversion"], json!({"strategy": "None"}));
        assert!(Definition.validate_create(&crd).is_empty());
    }

    #[test]
    fn a_version_with_stored_objects_must_stay() {
        let mut old = crd();
        Definition.default(&mut old);
        let context = Context {
            now: Timestamp::UNIX_EPOCH,
            namespace: "",
            user: "",
        };
        Definition.prepare_create(&context, &mut old);
        assert_eq!(old["status"]["storedVersions"], json!(["v1"]));
        let mut new = old.clone();
        new["spec"]["versions"][0]["name"] = "v2".into();
        Definition.prepare_update(&context, &mut new, &old);
        assert_eq!(new["status"]["storedVersions"], json!(["v1", "v2"]));
        let errors = Definition.validate_update(&new, &old).causes();
        assert!(
            errors.iter().any(|e| e.field == "status.storedVersions[0]"),
            "{errors:?}"
        );
    }
}
