//! Definitions that are right, and what is said of those that are not.

use serde_json::{Value, json};

use crate::Strategy;
use crate::check::expect;
use crate::crd::Definition;

fn crd() -> Value {
    let mut crd = json!({
        "metadata": {"name": "eggs.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "eggs", "kind": "Egg"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object",
                "properties": {"spec": {"type": "object", "properties": {
                    "size": {"type": "string", "default": "L", "enum": ["S", "M", "L"]},
                    "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
                }}},
            }}}],
        },
        "status": {"storedVersions": ["v1"]},
    });
    Definition.default(&mut crd);
    crd
}

#[test]
fn defaults() {
    let crd = crd();
    assert_eq!(crd["spec"]["names"]["singular"], "egg");
    assert_eq!(crd["spec"]["names"]["listKind"], "EggList");
    assert_eq!(crd["spec"]["conversion"], json!({"strategy": "None"}));
    let errors = Definition.validate_create(&crd);
    assert!(errors.is_empty(), "{errors}");
}

#[test]
fn names_and_versions() {
    for (pointer, value, words) in [
        (
            "/metadata/name",
            json!("egg.example.com"),
            "metadata.name: Invalid value: \"egg.example.com\": must be spec.names.plural+\".\"+spec.group",
        ),
        (
            "/spec/group",
            json!("example"),
            "spec.group: Invalid value: \"example\": should be a domain with at least one dot",
        ),
        (
            "/spec/scope",
            json!("Any"),
            "spec.scope: Unsupported value: \"Any\": supported values: \"Cluster\", \"Namespaced\"",
        ),
        (
            "/spec/names/kind",
            json!("EggList"),
            "spec.names.listKind: Invalid value: \"EggList\": kind and listKind may not be the same",
        ),
        (
            "/spec/versions/0/storage",
            json!(false),
            "must have exactly one version marked as storage version",
        ),
        (
            "/spec/versions/0/name",
            json!("1"),
            "spec.versions[0].name: Invalid value: \"1\": a DNS-1035 label must",
        ),
        (
            "/spec/versions/0/schema",
            json!({}),
            "spec.versions[0].schema.openAPIV3Schema: Required value",
        ),
        (
            "/spec/conversion",
            json!({"strategy": "Webhook"}),
            "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook",
        ),
    ] {
        let mut crd = crd();
        *crd.pointer_mut(pointer).unwrap() = value;
        expect(&Definition.validate_create(&crd), words);
    }
    let mut scaled = crd();
    scaled["spec"]["versions"][0]["subresources"] = json!({"scale": {"specReplicasPath": ".status.a"}});
    let errors = Definition.validate_create(&scaled);
    expect(
        &errors,
        "spec.subresources.scale.specReplicasPath: Invalid value: \".status.a\": should be a json path under .spec",
    );
    expect(&errors, "spec.subresources.scale.statusReplicasPath: Required value");
    let mut column = crd();
    column["spec"]["versions"][0]["additionalPrinterColumns"] = json!([{"name": "A", "type": "text", "jsonPath": "a"}]);
    let errors = Definition.validate_create(&column);
    expect(
        &errors,
        "spec.additionalPrinterColumns[0].type: Invalid value: \"text\": must be one of boolean,date,integer,number,string",
    );
    expect(
        &errors,
        "JSONPath: Invalid value: \"a\": must be a simple json path starting with .",
    );
}

#[test]
fn schemas() {
    let at = "spec.validation.openAPIV3Schema";
    for (schema, words) in [
        (
            json!({"type": "string"}),
            format!("{at}.type: Invalid value: \"string\": must be object at the root"),
        ),
        (
            json!({"type": "object", "properties": {"a": {}}}),
            format!("{at}.properties[a].type: Required value: must not be empty for specified object fields"),
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array"}}}),
            format!("{at}.properties[a].items: Required value: must be specified"),
        ),
        (
            json!({"type": "object", "additionalProperties": {"type": "string"}}),
            format!("{at}.additionalProperties: Forbidden: must not be used at the root"),
        ),
        (
            json!({"type": "object", "anyOf": [{"type": "object"}]}),
            format!("{at}.anyOf[0].type: Forbidden: must be empty to be structural"),
        ),
        (
            json!({"type": "object", "anyOf": [{"properties": {"a": {"minimum": 1}}}]}),
            format!("{at}.properties[a]: Required value: because it is defined in {at}.anyOf[0].properties[a]"),
        ),
        (
            json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
            "must not specify anything other than name and generateName".into(),
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "default": 1}}}),
            format!("{at}.properties[a].default"),
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "object", "default": {"x": 1}}}}),
            "must not have unknown fields".into(),
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": true, "items": {"type": "string"}}}}),
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic".into(),
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "object", "x-kubernetes-list-type": "set"}}}),
            "type: Invalid value: \"object\": must be array if x-kubernetes-list-type is specified".into(),
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}}}}),
            "x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map".into(),
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object", "properties": {"k": {"type": "string"}}}}}}),
            "so it must have a default or be a required property".into(),
        ),
        (
            json!({"type": "object", "properties": {"a": {"$ref": "#/x", "type": "string"}}}),
            "$ref: Forbidden: $ref is not supported".into(),
        ),
        (
            json!({"type": "object", "x-kubernetes-validations": [{"rule": " "}]}),
            "x-kubernetes-validations[0].rule: Required value: rule is not specified".into(),
        ),
        (
            json!({"type": "object", "nullable": true}),
            format!("{at}.nullable: Forbidden: nullable cannot be true at the root"),
        ),
    ] {
        let mut crd = crd();
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = schema;
        expect(&Definition.validate_create(&crd), &words);
    }
}

#[test]
fn what_must_not_change() {
    let mut old = crd();
    old["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
    let mut new = old.clone();
    new["spec"]["scope"] = "Cluster".into();
    new["spec"]["names"]["plural"] = "ova".into();
    let errors = Definition.validate_update(&new, &old);
    expect(&errors, "spec.scope: Invalid value: \"Cluster\": field is immutable");
    expect(&errors, "spec.names.plural: Invalid value: \"ova\": field is immutable");
    let mut new = old.clone();
    new["spec"]["versions"][0]["name"] = "v2".into();
    expect(
        &Definition.validate_update(&new, &old),
        "v1 was previously a storage version",
    );
}
