//! OpenAPI documents of the served kinds: definitions from `object`, paths from
//! the catalog. Must not describe anything that is not served.

use kinds::{Kind, Subresource};
use serde_json::{Map, Value, json};

use super::{kinds_of, subresource};
use crate::core::Core;
use crate::machinery;

/// The one document of version 2.
pub(super) fn v2(core: &Core) -> Value {
    let resources = core.catalog.all();
    let definitions = machinery::definitions(resources.iter().map(|r| &*r.kind), false);
    let mut paths = Map::new();
    resources.iter().for_each(|r| add_paths(&mut paths, &r.kind, false));
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": core.config.git_version},
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": {"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header"}},
        "security": [{"BearerToken": []}],
    })
}

/// Media type of [`v2_protobuf`].
pub(super) const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// Under which older clients ask for it; no valid media type, and so never answered.
const PROTOBUF_AT: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// Whether a client prefers the document in protobuf.
pub(super) fn wants_protobuf(accept: &str) -> bool {
    let mut ranges = accept
        .split(',')
        .map(|r| r.split(';').next().unwrap_or_default().trim());
    ranges
        .find(|r| [PROTOBUF, PROTOBUF_AT, "application/json", "*/*"].contains(r))
        .is_some_and(|r| r.contains("protobuf"))
}

/// The document of version 2 in protobuf.
pub(super) fn v2_protobuf(core: &Core) -> Vec<u8> {
    crate::wire::openapi::document(&v2(core))
}

/// The document of one group version.
pub(super) fn v3(core: &Core, group: &str, version: &str) -> Value {
    let kinds = kinds_of(&core.catalog, group, version);
    let schemas = machinery::definitions(kinds.iter().map(|k| &**k), true);
    let mut paths = Map::new();
    kinds.iter().for_each(|kind| add_paths(&mut paths, kind, true));
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": core.config.git_version},
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

fn add_paths(paths: &mut Map<String, Value>, kind: &Kind, v3: bool) {
    let root = if kind.group.is_empty() {
        format!("/api/{}", kind.version)
    } else {
        format!("/apis/{}/{}", kind.group, kind.version)
    };
    let collection = if kind.namespaced() {
        format!("{root}/namespaces/{{namespace}}/{}", kind.plural)
    } else {
        format!("{root}/{}", kind.plural)
    };
    let gvk = (&*kind.group, &*kind.version, &*kind.kind);
    let verbs = |wanted: &[(&str, &str, &str)]| -> Map<String, Value> {
        let served = wanted.iter().filter(|(verb, ..)| kind.verbs.contains(verb));
        served
            .map(|(_, method, action)| ((*method).to_owned(), operation(kind, gvk, "", method, action, v3)))
            .collect()
    };
    let mut item = verbs(&[
        ("list", "get", "list"),
        ("create", "post", "post"),
        ("deletecollection", "delete", "deletecollection"),
    ]);
    if !item.is_empty() {
        item.insert("parameters".into(), path_parameters(kind, false, v3));
        paths.insert(collection.clone(), Value::Object(item));
    }
    let mut item = verbs(&[
        ("get", "get", "get"),
        ("update", "put", "put"),
        ("patch", "patch", "patch"),
        ("delete", "delete", "delete"),
    ]);
    if !item.is_empty() {
        item.insert("parameters".into(), path_parameters(kind, true, v3));
        paths.insert(format!("{collection}/{{name}}"), Value::Object(item));
    }
    if kind.namespaced() && kind.verbs.contains(&"list") {
        let list = operation(kind, gvk, "ForAllNamespaces", "get", "list", v3);
        paths.insert(format!("{root}/{}", kind.plural), json!({"get": list}));
    }
    for s in &kind.subresources {
        add_subresource(paths, kind, s, &collection, v3);
    }
}

fn add_subresource(paths: &mut Map<String, Value>, kind: &Kind, s: &Subresource, collection: &str, v3: bool) {
    let (name, gvk, verbs) = subresource(kind, s);
    let mut item = Map::new();
    for verb in verbs {
        let (method, action) = match *verb {
            "get" => ("get", "get"),
            "create" => ("post", "post"),
            "update" => ("put", "put"),
            "patch" => ("patch", "patch"),
            "delete" => ("delete", "delete"),
            _ => continue,
        };
        item.insert(method.into(), operation(kind, gvk, name, method, action, v3));
    }
    item.insert("parameters".into(), path_parameters(kind, true, v3));
    paths.insert(format!("{collection}/{{name}}/{name}"), Value::Object(item));
}

fn operation(kind: &Kind, gvk: (&str, &str, &str), part: &str, method: &str, action: &str, v3: bool) -> Value {
    let writes = !matches!(method, "get");
    let names: &[&str] = match (method, action) {
        ("get", "list") => &[
            "allowWatchBookmarks",
            "continue",
            "fieldSelector",
            "labelSelector",
            "limit",
            "resourceVersion",
            "resourceVersionMatch",
            "sendInitialEvents",
            "timeoutSeconds",
            "watch",
            "pretty",
        ],
        ("patch", _) => &["dryRun", "fieldManager", "fieldValidation", "force", "pretty"],
        ("post" | "put", _) => &["dryRun", "fieldManager", "fieldValidation", "pretty"],
        ("delete", "delete") => &[
            "dryRun",
            "gracePeriodSeconds",
            "orphanDependents",
            "propagationPolicy",
            "pretty",
        ],
        ("delete", _) => &[
            "dryRun",
            "continue",
            "fieldSelector",
            "gracePeriodSeconds",
            "labelSelector",
            "limit",
            "propagationPolicy",
            "resourceVersion",
        ],
        _ => &["pretty"],
    };
    let parameters: Vec<Value> = names.iter().map(|n| parameter(n, v3)).collect();
    let group = if kind.group.is_empty() {
        "core"
    } else {
        kind.group.split('.').next().unwrap_or_default()
    };
    let id = format!("{action}_{group}_{}_{}_{part}", kind.version, kind.plural);
    let mut out = json!({
        "operationId": id, "parameters": parameters,
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": gvk.0, "version": gvk.1, "kind": gvk.2},
    });
    let reference = |prefix: &str| json!({"$ref": format!("{prefix}{}", machinery::definition(kind))});
    if v3 {
        out["responses"] = json!({"200": {"description": "OK", "content": {
            "application/json": {"schema": reference("#/components/schemas/")}}}});
        if writes && method != "delete" {
            out["requestBody"] =
                json!({"content": {"*/*": {"schema": reference("#/components/schemas/")}}, "required": true});
        }
    } else {
        out["responses"] = json!({"200": {"description": "OK", "schema": reference("#/definitions/")}});
        out["consumes"] = json!(["*/*"]);
        out["produces"] = match kind.custom || kind.group.contains("kubevirt") {
            true => json!(["application/json", "application/yaml", "application/cbor"]),
            false => json!([
                "application/json",
                "application/yaml",
                "application/vnd.kubernetes.protobuf",
                "application/cbor",
            ]),
        };
        if writes
            && method != "delete"
            && let Some(list) = out["parameters"].as_array_mut()
        {
            list.push(json!({"name": "body", "in": "body", "required": true, "schema": reference("#/definitions/")}));
        }
    }
    out
}

fn parameter(name: &str, v3: bool) -> Value {
    let kind = match name {
        "allowWatchBookmarks" | "watch" | "force" | "sendInitialEvents" | "orphanDependents" => "boolean",
        "limit" | "timeoutSeconds" | "gracePeriodSeconds" => "integer",
        _ => "string",
    };
    if v3 {
        json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}})
    } else {
        json!({"name": name, "in": "query", "type": kind, "uniqueItems": true})
    }
}

fn path_parameters(kind: &Kind, named: bool, v3: bool) -> Value {
    let mut names = Vec::new();
    if named {
        names.push("name");
    }
    if kind.namespaced() {
        names.push("namespace");
    }
    let entry = |name: &&str| {
        if v3 {
            json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}})
        } else {
            json!({"name": name, "in": "path", "required": true, "type": "string", "uniqueItems": true})
        }
    };
    names.iter().map(entry).collect()
}
