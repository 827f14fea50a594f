//! `meta.k8s.io/v1 Table`: what `kubectl get` asks for. Must not compute cells.

use serde_json::{Value, json};

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub struct Column<'a> {
    /// Heading.
    pub name: &'a str,
    /// `string`, `integer`, `date`, `boolean`, `number`.
    pub kind: &'a str,
    /// OpenAPI format; `name` for the name column.
    pub format: &'a str,
    /// For people.
    pub description: &'a str,
    /// 0 shows always, 1 with `-o wide`.
    pub priority: i32,
}

/// How much of its object a row carries (`includeObject`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// `PartialObjectMetadata`.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

impl Include {
    /// From the query parameter; `None` when it is none of the three.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Metadata" => Some(Include::Metadata),
            "None" => Some(Include::None),
            "Object" => Some(Include::Object),
            _ => None,
        }
    }
}

/// The `columnDefinitions`.
pub fn columns(columns: &[Column<'_>]) -> Value {
    columns
        .iter()
        .map(|c| {
            json!({
                "name": c.name,
                "type": c.kind,
                "format": c.format,
                "description": c.description,
                "priority": c.priority,
            })
        })
        .collect()
}

/// One element of `rows`. `object` is the object as JSON with apiVersion and kind.
pub fn row(cells: Vec<Value>, object: &Value, include: Include) -> Value {
    let object = match include {
        Include::None => return json!({ "cells": cells }),
        Include::Object => object.clone(),
        Include::Metadata => json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
        }),
    };
    json!({ "cells": cells, "object": object })
}

/// A whole table. `metadata` is the list's: resourceVersion, continue, remainingItemCount. In
/// a watch, `column_definitions` stand in the first event only; give `None` then.
pub fn table(metadata: &Value, column_definitions: Option<&Value>, rows: Vec<Value>) -> Value {
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": column_definitions.cloned().unwrap_or_else(|| json!([])),
        "rows": rows,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_carries_as_much_of_its_objects_as_was_asked_for() {
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"a": 1}});
        let name = Column {
            name: "Name",
            kind: "string",
            format: "name",
            description: "",
            priority: 0,
        };
        let rows = |include| row(vec!["x".into()], &object, include);
        assert_eq!(rows(Include::None), json!({"cells": ["x"]}));
        assert_eq!(rows(Include::Object)["object"], object);
        assert_eq!(
            rows(Include::Metadata)["object"],
            json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "x"}})
        );
        let whole = table(
            &json!({"resourceVersion": "7"}),
            Some(&columns(&[name])),
            vec![rows(Include::None)],
        );
        assert_eq!(whole["columnDefinitions"][0]["format"], "name");
        assert_eq!(whole["rows"][0]["cells"][0], "x");
        assert_eq!(table(&json!({}), None, Vec::new())["columnDefinitions"], json!([]));
        assert_eq!(
            (Include::parse(""), Include::parse("All")),
            (Some(Include::Metadata), None)
        );
    }
}
