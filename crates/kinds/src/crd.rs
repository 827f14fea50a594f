//! The apiextensions.k8s.io group: CustomResourceDefinition. What a definition
//! makes is in [`crate::custom`].

use std::collections::HashSet;

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1;
use meta::field::{ErrorList, Path, quoted};
use meta::names::{dns1035_label, dns1123_subdomain};
use object::jsonpath::JsonPath;
use object::openapi;
use object::schema::Shape;
use serde_json::{Value, json};

use crate::admission::{check_service, check_url};
use crate::check::{immutable, must_be_one_of, named, required, required_name};
use crate::columns::column;
use crate::edit::{default, default_text, items, items_mut, object, set, text};
use crate::plain::Names;
use crate::schemas::typed;
use crate::{Cell, Context, Declared, Scope, Strategy, Subresource};

/// Held by a definition until its objects are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
/// Says that a name in a protected group was agreed upon.
const APPROVED: &str = "api-approved.kubernetes.io";

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

struct Definition;

impl Strategy for Definition {
    fn prepare_create(&self, _ctx: &Context<'_>, crd: &mut Value) {
        let stored = storage_version(crd);
        crd["status"] =
            json!({"conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored});
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
        let mut errors = ErrorList::new();
        let (spec, path) = (&crd["spec"], Path::new("spec"));
        let name = crd["metadata"]["name"].as_str().unwrap_or_default();
        let (group, plural) = (text(spec, "group"), text(&spec["names"], "plural"));
        if name != format!("{plural}.{group}") {
            let at = Path::new("metadata").child("name");
            errors.invalid(&at, quoted(name), "must be spec.names.plural+\".\"+spec.group");
        }
        validate_group(crd, group, &path.child("group"), &mut errors);
        must_be_one_of(spec, "scope", &["Cluster", "Namespaced"], &path, &mut errors);
        validate_names(&spec["names"], &path.child("names"), &mut errors);
        validate_versions(spec, &path.child("versions"), &mut errors);
        validate_conversion(&spec["conversion"], &path.child("conversion"), &mut errors);
        if spec["preserveUnknownFields"] == true {
            let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
            errors.invalid(&path.child("preserveUnknownFields"), true, why);
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(new);
        let (spec, path) = (&new["spec"], Path::new("spec"));
        immutable(&spec["group"], &old["spec"]["group"], &path.child("group"), &mut errors);
        if is_true(old, "Established") {
            immutable(&spec["scope"], &old["spec"]["scope"], &path.child("scope"), &mut errors);
            let at = path.child("names").child("kind");
            immutable(&spec["names"]["kind"], &old["spec"]["names"]["kind"], &at, &mut errors);
        }
        validate_stored(new, &mut errors);
        errors
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validate_stored(new, &mut errors);
        errors
    }

    fn row(&self, crd: &Value, _now: Timestamp) -> Vec<Cell> {
        vec![text(&crd["metadata"], "creationTimestamp").into()]
    }

    fn delete_finalizers(&self) -> &'static [&'static str] {
        &[CLEANUP]
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
    if crd["spec"]["preserveUnknownFields"] == false {
        crate::edit::drop(&mut crd["spec"], "preserveUnknownFields");
    }
    for version in items_mut(&mut crd["spec"], "versions") {
        if version["deprecated"] == false {
            crate::edit::drop(version, "deprecated");
        }
    }
}

fn validate_group(crd: &Value, group: &str, path: &Path, errors: &mut ErrorList) {
    if group.is_empty() {
        errors.required(path, "");
        return;
    }
    named(group, dns1123_subdomain, path, errors);
    if !group.contains('.') {
        errors.invalid(path, quoted(group), "should be a domain with at least one dot");
    }
    let protected = group == "k8s.io" || group.ends_with(".k8s.io") || group.ends_with(".kubernetes.io");
    let approval = crd["metadata"]["annotations"][APPROVED].as_str();
    if (protected || group == "kubernetes.io") && approval.is_none_or(str::is_empty) {
        let at = Path::new("metadata").child("annotations").key(APPROVED);
        let why = "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111";
        errors.required(&at, why);
    }
}

fn validate_names(names: &Value, path: &Path, errors: &mut ErrorList) {
    required_name(names, "plural", dns1035_label, path, errors);
    required_name(names, "singular", dns1035_label, path, errors);
    for field in ["kind", "listKind"] {
        if required(names, field, path, errors) {
            let value = text(names, field);
            for why in dns1035_label(&value.to_lowercase()) {
                errors.invalid(
                    &path.child(field),
                    quoted(value),
                    format!("may have mixed case, but should otherwise match: {why}"),
                );
            }
        }
    }
    if !text(names, "kind").is_empty() && text(names, "kind") == text(names, "listKind") {
        errors.invalid(
            &path.child("listKind"),
            quoted(text(names, "listKind")),
            "kind and listKind may not be the same",
        );
    }
    for field in ["shortNames", "categories"] {
        for (i, name) in items(names, field).enumerate() {
            let at = path.child(field).index(i);
            named(name.as_str().unwrap_or_default(), dns1035_label, &at, errors);
        }
    }
}

fn validate_versions(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let mut seen = HashSet::new();
    let mut stored = 0;
    for (i, version) in items(spec, "versions").enumerate() {
        let (at, name) = (path.index(i), text(version, "name"));
        stored += usize::from(version["storage"] == true);
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        } else {
            named(name, dns1035_label, &at.child("name"), errors);
        }
        if !seen.insert(name) {
            errors.invalid(path, quoted(name), "must contain unique version names");
        }
        if !text(version, "deprecationWarning").is_empty() && version["deprecated"] != true {
            errors.invalid(
                &at.child("deprecationWarning"),
                quoted(text(version, "deprecationWarning")),
                "can only be set for deprecated versions",
            );
        }
        validate_schema(version, &at.child("schema").child("openAPIV3Schema"), errors);
        validate_columns(version, &at.child("additionalPrinterColumns"), errors);
        validate_scale(
            &version["subresources"]["scale"],
            &at.child("subresources").child("scale"),
            errors,
        );
        validate_selectable(version, &at.child("selectableFields"), errors);
    }
    if stored != 1 {
        let shown = spec["versions"].to_string();
        errors.invalid(path, shown, "must have exactly one version marked as storage version");
    }
}

fn validate_schema(version: &Value, path: &Path, errors: &mut ErrorList) {
    let schema = &version["schema"]["openAPIV3Schema"];
    if schema.is_null() {
        errors.required(path, "schemas are required");
        return;
    }
    match openapi::from_openapi_v3(schema) {
        Ok(made) => {
            let root = matches!(made.shape, Shape::Object { .. } | Shape::Map { .. });
            if !root {
                errors.invalid(
                    &path.child("type"),
                    quoted(text(schema, "type")),
                    "must be object at the root",
                );
            }
            if made.nullable {
                errors.forbidden(&path.child("nullable"), "nullable cannot be true at the root");
            }
            validate_defaults(&made, path, errors);
        }
        Err(error) => {
            // The message begins with upstream's words for the kind of error.
            let at = Path::new(&format!("{path}.{}", error.path));
            match error.problem.split_once(": ") {
                Some(("Required value", why)) => errors.required(&at, why),
                Some(("Forbidden", why)) => errors.forbidden(&at, why),
                Some(("Unsupported value", value)) => {
                    let value = value.trim_matches('"');
                    errors.not_supported(
                        &at,
                        value,
                        &["array", "boolean", "integer", "number", "object", "string"],
                    );
                }
                Some(("Invalid value", rest)) => {
                    let (value, why) = rest.split_once(": ").unwrap_or((rest, ""));
                    errors.invalid(&at, value, why);
                }
                _ => errors.invalid(&at, quoted(""), error.problem),
            }
        }
    }
}

/// Defaults must be what the schema takes.
fn validate_defaults(schema: &object::schema::Schema, path: &Path, errors: &mut ErrorList) {
    schema.walk(&mut |at, node| {
        let Some(value) = &node.default else { return };
        let wrong =
            object::shape::type_error(node, value).is_some() || !object::shape::validate(node, value).is_empty();
        if wrong {
            let at = at
                .split('.')
                .filter(|p| !p.is_empty())
                .fold(path.clone(), |path, part| match part {
                    "*" => path.child("additionalProperties"),
                    part => part.strip_suffix("[]").map_or_else(
                        || path.child("properties").key(part),
                        |list| path.child("properties").key(list).child("items"),
                    ),
                });
            errors.invalid(
                &at.child("default"),
                value.to_string(),
                "must be valid against the schema",
            );
        }
    });
}

fn validate_columns(version: &Value, path: &Path, errors: &mut ErrorList) {
    const TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
    const FORMATS: &[&str] = &[
        "byte",
        "date",
        "date-time",
        "double",
        "float",
        "int32",
        "int64",
        "password",
    ];
    for (i, column) in items(version, "additionalPrinterColumns").enumerate() {
        let at = path.index(i);
        required(column, "name", &at, errors);
        must_be_one_of(column, "type", TYPES, &at, errors);
        crate::check::one_of(column, "format", FORMATS, &at, errors);
        if required(column, "jsonPath", &at, errors)
            && let Err(error) = JsonPath::parse(text(column, "jsonPath"))
        {
            errors.invalid(
                &at.child("jsonPath"),
                quoted(text(column, "jsonPath")),
                error.to_string(),
            );
        }
    }
}

fn validate_scale(scale: &Value, path: &Path, errors: &mut ErrorList) {
    if !scale.is_object() {
        return;
    }
    for (field, below, needed) in [
        ("specReplicasPath", ".spec.", true),
        ("statusReplicasPath", ".status.", true),
        ("labelSelectorPath", ".", false),
    ] {
        let value = text(scale, field);
        let at = path.child(field);
        if value.is_empty() {
            if needed {
                errors.required(&at, "");
            }
        } else if value.contains('[') {
            errors.invalid(
                &at,
                quoted(value),
                "should be a simple json path without array notation",
            );
        } else if !value.starts_with(below) {
            let place = below.trim_end_matches('.');
            errors.invalid(&at, quoted(value), format!("should be a json path under {place}"));
        }
    }
}

fn validate_selectable(version: &Value, path: &Path, errors: &mut ErrorList) {
    let mut seen = HashSet::new();
    for (i, field) in items(version, "selectableFields").enumerate() {
        let (at, value) = (path.index(i).child("jsonPath"), text(field, "jsonPath"));
        if !value.starts_with('.') || value.contains('[') || value.starts_with(".metadata") {
            errors.invalid(
                &at,
                quoted(value),
                "is an invalid path: must be a simple path to a field outside metadata",
            );
        }
        if !seen.insert(value) {
            errors.duplicate(&at, quoted(value));
        }
    }
    if items(version, "selectableFields").count() > 8 {
        errors.too_many(path, items(version, "selectableFields").count(), 8);
    }
}

fn validate_conversion(conversion: &Value, path: &Path, errors: &mut ErrorList) {
    if conversion.is_null() {
        return;
    }
    must_be_one_of(conversion, "strategy", &["None", "Webhook"], path, errors);
    let webhook = &conversion["webhook"];
    if text(conversion, "strategy") != "Webhook" {
        if !webhook.is_null() {
            errors.forbidden(
                &path.child("webhook"),
                "should not be set when strategy is not set to Webhook",
            );
        }
        return;
    }
    let at = path.child("webhook");
    if webhook.is_null() {
        errors.required(&at, "required when strategy is set to Webhook");
        return;
    }
    let (client, at_client) = (&webhook["clientConfig"], at.child("clientConfig"));
    match (client["url"].as_str(), client["service"].is_object()) {
        (Some(url), false) => check_url(url, &at_client.child("url"), errors),
        (None, true) => check_service(&client["service"], &at_client.child("service"), errors),
        _ => errors.required(&at_client, "exactly one of url or service is required"),
    }
    let versions: Vec<&str> = items(webhook, "conversionReviewVersions")
        .filter_map(Value::as_str)
        .collect();
    let at = at.child("conversionReviewVersions");
    if versions.is_empty() {
        errors.required(&at, "");
    } else if !versions.iter().any(|v| matches!(*v, "v1" | "v1beta1")) {
        errors.invalid(
            &at,
            json!(versions).to_string(),
            "must include at least one of v1, v1beta1",
        );
    }
}

/// A version in which objects may still be stored must stay.
fn validate_stored(crd: &Value, errors: &mut ErrorList) {
    let path = Path::new("status").child("storedVersions");
    let known: Vec<&str> = items(&crd["spec"], "versions").map(|v| text(v, "name")).collect();
    if items(&crd["status"], "storedVersions").next().is_none() {
        errors.invalid(&path, "[]", "must have at least one stored version");
    }
    for (i, stored) in items(&crd["status"], "storedVersions").enumerate() {
        let version = stored.as_str().unwrap_or_default();
        if !known.contains(&version) {
            let why = format!(
                "missing from spec.versions; {version} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {version} and removes {version} from status.storedVersions"
            );
            errors.invalid(&path.index(i), quoted(version), why);
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

    fn errors(edit: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut crd = crd();
        Definition.default(&mut crd);
        edit(&mut crd);
        let found = Definition.validate_create(&crd);
        found
            .causes()
            .into_iter()
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect()
    }

    #[test]
    fn a_small_definition_is_filled_in() {
        let mut crd = crd();
        Definition.default(&mut crd);
        assert_eq!(crd["spec"]["names"]["singular"], "crontab");
        assert_eq!(crd["spec"]["names"]["listKind"], "CronTabList");
        assert_eq!(crd["spec"]["conversion"], json!({"strategy": "None"}));
        assert_eq!(errors(|_| {}), Vec::<String>::new());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let schema = "/spec/versions/0/schema/openAPIV3Schema";
        let set = |crd: &mut Value, at: &str, to: Value| *crd.pointer_mut(at).unwrap() = to;
        let cases: [(&str, Value, &str); 9] = [
            (
                "/metadata/name",
                json!("x"),
                "metadata.name: Invalid value: \"x\": must be spec.names.plural+\".\"+spec.group",
            ),
            (
                "/spec/scope",
                json!("Global"),
                "spec.scope: Unsupported value: \"Global\": supported values: \"Cluster\", \"Namespaced\"",
            ),
            (
                "/spec/names/listKind",
                json!("CronTab"),
                "spec.names.listKind: Invalid value: \"CronTab\": kind and listKind may not be the same",
            ),
            (
                schema,
                json!(null),
                "spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required",
            ),
            (
                schema,
                json!({"type": "string"}),
                "spec.versions[0].schema.openAPIV3Schema.type: Invalid value: \"string\": must be object at the root",
            ),
            (
                schema,
                json!({"type": "object", "properties": {"a": {}}}),
                "spec.versions[0].schema.openAPIV3Schema.properties[a].type: Required value: must not be empty for specified object fields",
            ),
            (
                schema,
                json!({"type": "object", "properties": {"a": {"type": "integer", "default": "x"}}}),
                "spec.versions[0].schema.openAPIV3Schema.properties[a].default: Invalid value: \"x\": must be valid against the schema",
            ),
            (
                "/spec/conversion",
                json!({"strategy": "Webhook"}),
                "spec.conversion.webhook: Required value: required when strategy is set to Webhook",
            ),
            (
                "/spec/group",
                json!("example"),
                "spec.group: Invalid value: \"example\": should be a domain with at least one dot",
            ),
        ];
        for (at, to, expected) in cases {
            let found = errors(|crd| set(crd, at, to.clone()));
            assert!(found.iter().any(|e| e == expected), "{at}: {found:?}");
        }
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
