//! Custom resources: from a CustomResourceDefinition to the kinds that it makes,
//! one per served version.
//!
//! Must not panic on any definition: the API checks them, but a store may hold anything.

mod rules;

pub use rules::Rules;

use std::sync::Arc;

use jiff::Timestamp;
use meta::Gvk;
use meta::field::{ErrorList, Path};
use object::jsonpath::JsonPath;
use object::openapi;
use object::schema::{Schema, Shape};
use serde_json::Value;

use crate::columns::since;
use crate::edit::{items, text};
use crate::{Cell, Column, Kind, ScalePaths, Scope, Strategy, Subresource, Text};

/// What a definition makes.
#[derive(Clone)]
pub struct Definition {
    /// API group.
    pub group: String,
    /// Plural.
    pub plural: String,
    /// Served versions, in the order of discovery: the newest and stablest first.
    pub served: Vec<Arc<Kind>>,
    /// The version in which objects are stored; it may not be served.
    pub storage: Arc<Kind>,
}

/// Why a definition makes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    /// No version is marked as the one to store.
    #[error("no version has storage: true")]
    NoStorage,
    /// A schema that is not structural.
    #[error("spec.versions[{version}].schema.openAPIV3Schema.{source}")]
    Schema {
        /// Version.
        version: String,
        /// Where and why.
        source: openapi::SchemaError,
    },
}

impl Definition {
    /// Reads a definition.
    ///
    /// # Errors
    /// For what the API would not have accepted.
    pub fn read(crd: &Value) -> Result<Self, DefinitionError> {
        let spec = &crd["spec"];
        let mut served = Vec::new();
        let mut storage = None;
        for version in items(spec, "versions") {
            let kind = Arc::new(kind(spec, version)?);
            if version["storage"] == true {
                storage = Some(kind.clone());
            }
            if version["served"] == true {
                served.push(kind);
            }
        }
        served.sort_by(|a, b| meta::version_order(&a.version, &b.version));
        Ok(Definition {
            group: text(spec, "group").to_owned(),
            plural: text(&spec["names"], "plural").to_owned(),
            served,
            storage: storage.ok_or(DefinitionError::NoStorage)?,
        })
    }
}

fn kind(spec: &Value, version: &Value) -> Result<Kind, DefinitionError> {
    let (names, name) = (&spec["names"], text(version, "name"));
    let schema = &version["schema"]["openAPIV3Schema"];
    let schema = if spec["preserveUnknownFields"] == true || schema.is_null() {
        keeps_everything()
    } else {
        openapi::from_crd(schema).map_err(|source| DefinitionError::Schema {
            version: name.to_owned(),
            source,
        })?
    };
    let scope = if text(spec, "scope") == "Cluster" {
        Scope::Cluster
    } else {
        Scope::Namespaced
    };
    let gvk = Gvk {
        group: text(spec, "group").to_owned().into(),
        version: name.to_owned().into(),
        kind: text(names, "kind").to_owned().into(),
    };
    let (columns, paths) = columns(version);
    // Rules that do not compile were refused with the definition; an older one may still be stored.
    let rules = Rules::compile(
        &version["schema"]["openAPIV3Schema"],
        &Path::root(),
        &mut ErrorList::new(),
    );
    let mut kind = Kind::custom(
        &gvk,
        text(names, "plural"),
        scope,
        Arc::new(named(schema, &gvk)),
        Arc::new(Custom { paths, rules }),
    );
    if let Some(given) = names["singular"].as_str().filter(|s| !s.is_empty()) {
        kind.singular = given.to_owned().into();
    }
    if let Some(given) = names["listKind"].as_str().filter(|s| !s.is_empty()) {
        kind.list_kind = given.to_owned().into();
    }
    kind.short_names = texts(&names["shortNames"]);
    kind.categories = texts(&names["categories"]);
    kind.columns = columns;
    kind.selectable_fields = items(version, "selectableFields")
        .map(|f| text(f, "jsonPath").trim_start_matches('.').to_owned().into())
        .collect();
    let parts = &version["subresources"];
    if parts["status"].is_object() {
        kind.subresources.push(Subresource::Status);
    }
    if parts["scale"].is_object() {
        let path = |name: &str| Text::Owned(text(&parts["scale"], name).to_owned());
        kind.subresources.push(Subresource::Scale(ScalePaths {
            spec_replicas: path("specReplicasPath"),
            status_replicas: path("statusReplicasPath"),
            selector: path("labelSelectorPath"),
        }));
    }
    Ok(kind)
}

/// Names the definition in OpenAPI as upstream does: the group's parts reversed.
fn named(mut schema: Schema, gvk: &Gvk) -> Schema {
    let mut parts: Vec<&str> = gvk.group.split('.').rev().collect();
    parts.extend([&*gvk.version, &*gvk.kind]);
    schema.definition = parts.join(".");
    schema.gvks = vec![gvk.clone()];
    schema
}

/// A schema without one: anything is kept.
fn keeps_everything() -> Schema {
    let any = serde_json::json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    // It cannot fail; if it did, `ANY` says the same but for the metadata.
    openapi::from_crd(&any).unwrap_or_else(|_| Schema {
        shape: Shape::Any,
        preserve_unknown: true,
        ..Schema::default()
    })
}

fn texts(list: &Value) -> Vec<Text> {
    let list = list.as_array().map_or(&[][..], Vec::as_slice);
    list.iter()
        .filter_map(|v| v.as_str().map(|s| s.to_owned().into()))
        .collect()
}

/// Printer columns and where their cells come from. Without any, the age is shown.
fn columns(version: &Value) -> (Vec<Column>, Vec<CellPath>) {
    let mut out = (Vec::new(), Vec::new());
    for column in items(version, "additionalPrinterColumns") {
        let Ok(path) = JsonPath::parse(text(column, "jsonPath")) else {
            continue;
        };
        let name = text(column, "name");
        let description = match text(column, "description") {
            "" => format!(
                "Custom resource definition column (in JSONPath format): {}",
                text(column, "jsonPath")
            ),
            given => given.to_owned(),
        };
        let kind = text(column, "type");
        out.0.push(Column {
            name: name.to_owned().into(),
            kind: kind.to_owned().into(),
            format: text(column, "format").to_owned().into(),
            priority: column["priority"]
                .as_i64()
                .and_then(|n| i32::try_from(n).ok())
                .unwrap_or(0),
            description: description.into(),
        });
        out.1.push(CellPath {
            path,
            form: Form::of(kind),
        });
    }
    if items(version, "additionalPrinterColumns").next().is_none()
        && let Ok(path) = JsonPath::parse(".metadata.creationTimestamp")
    {
        let mut age = crate::columns::AGE;
        age.kind = "date".into();
        out = (vec![age], vec![CellPath { path, form: Form::Date }]);
    }
    out
}

/// Where a cell's value is, and how it is shown.
struct CellPath {
    path: JsonPath,
    form: Form,
}

#[derive(Clone, Copy, PartialEq)]
enum Form {
    Integer,
    Number,
    Boolean,
    Date,
    Text,
}

impl Form {
    fn of(kind: &str) -> Self {
        match kind {
            "integer" => Form::Integer,
            "number" => Form::Number,
            "boolean" => Form::Boolean,
            "date" => Form::Date,
            _ => Form::Text,
        }
    }

    fn cell(self, found: &[&Value], now: Timestamp) -> Cell {
        let Some(&first) = found.first() else {
            return Value::Null;
        };
        match self {
            Form::Integer if first.is_i64() || first.is_u64() => first.clone(),
            Form::Integer => first.as_f64().map_or(Value::Null, |n| (n.trunc() as i64).into()),
            Form::Number if first.is_number() => first.clone(),
            Form::Boolean if first.is_boolean() => first.clone(),
            Form::Date => match first.as_str().map(meta::time::parse) {
                Some(Some(_)) => since(Some(first), now).into(),
                _ => "<invalid>".into(),
            },
            Form::Text => {
                let shown = |v: &&Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
                found.iter().map(shown).collect::<Vec<_>>().join(" ").into()
            }
            Form::Number | Form::Boolean => Value::Null,
        }
    }
}

/// What is the same for all custom resources.
struct Custom {
    paths: Vec<CellPath>,
    rules: Option<Rules>,
}

impl Custom {
    fn check(&self, new: &Value, old: Option<&Value>) -> ErrorList {
        self.rules.as_ref().map(|r| r.validate(new, old)).unwrap_or_default()
    }
}

impl Strategy for Custom {
    fn validate_create(&self, object: &Value) -> ErrorList {
        self.check(object, None)
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        self.check(new, Some(old))
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> ErrorList {
        self.check(new, Some(old))
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let cell = |p: &CellPath| p.form.cell(&p.path.find(object), now);
        self.paths.iter().map(cell).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn crontab() -> Value {
        json!({"spec": {"group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "crontabs", "kind": "CronTab", "shortNames": ["ct"], "categories": ["all"]},
            "versions": [
                {"name": "v1beta1", "served": true, "storage": false, "schema": {"openAPIV3Schema": {"type": "object"}}},
                {"name": "v1", "served": true, "storage": true,
                 "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
                 "selectableFields": [{"jsonPath": ".spec.cronSpec"}],
                 "additionalPrinterColumns": [
                    {"name": "Spec", "type": "string", "jsonPath": ".spec.cronSpec"},
                    {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas", "priority": 1},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}],
                 "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": {
                    "cronSpec": {"type": "string"}, "replicas": {"type": "integer", "default": 1}}},
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}]}})
    }

    #[test]
    fn a_definition_makes_a_kind_per_version() {
        let made = Definition::read(&crontab()).unwrap();
        let versions: Vec<&str> = made.served.iter().map(|k| &*k.version).collect();
        assert_eq!(versions, ["v1", "v1beta1"]);
        let kind = &made.storage;
        assert_eq!((&*kind.list_kind, &*kind.singular), ("CronTabList", "crontab"));
        assert!(kind.has_status() && kind.custom);
        assert_eq!(kind.selectable_fields, ["spec.cronSpec"]);
        assert_eq!(kind.schema().definition, "com.example.stable.v1.CronTab");
        let now = meta::time::parse("2026-01-01T00:05:00Z").unwrap();
        let object = json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"cronSpec": "* * * * *", "replicas": 3}});
        assert_eq!(
            kind.strategy().row(&object, now),
            [json!("* * * * *"), json!(3), json!("5m")]
        );
        assert_eq!(
            kind.strategy().row(&json!({}), now),
            [json!(null), json!(null), json!(null)]
        );
        let plain = &made.served[1];
        assert_eq!(plain.columns.len(), 1);
        assert_eq!(plain.strategy().row(&object, now), [json!("5m")]);
    }

    #[test]
    fn what_cannot_be_served_says_why() {
        let mut crd = crontab();
        crd["spec"]["versions"][1]["storage"] = false.into();
        assert_eq!(Definition::read(&crd).err(), Some(DefinitionError::NoStorage));
        crd["spec"]["versions"][1]["schema"]["openAPIV3Schema"]["properties"]["spec"]["type"] = "thing".into();
        let error = Definition::read(&crd).err().map(|e| e.to_string()).unwrap();
        assert_eq!(
            error,
            "spec.versions[v1].schema.openAPIV3Schema.properties[spec].type: Unsupported value: \"thing\""
        );
        assert!(Definition::read(&json!(null)).is_err());
    }
}
