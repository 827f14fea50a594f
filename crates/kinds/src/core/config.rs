//! ConfigMap and Secret.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as B64;
use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::{Map, Value};

use crate::columns::{AGE, age, column, text_or_none};
use crate::edit::{default_text, drop, object, set, text};
use crate::schemas::typed;
use crate::{Cell, Declared, Strategy};

/// Largest sum of values, as upstream.
const MAX_BYTES: usize = 1 << 20;

/// ConfigMap.
pub(super) fn config_map() -> Declared {
    super::core_kind("ConfigMap", "configmaps", "configmap", &["cm"]).with(
        typed::<v1::ConfigMap>,
        const { &[column("Data", "string"), AGE] },
        &ConfigMap,
    )
}

/// Secret.
pub(super) fn secret() -> Declared {
    Declared {
        selectable_fields: &["type"],
        ..super::core_kind("Secret", "secrets", "secret", &[]).with(
            typed::<v1::Secret>,
            const { &[column("Type", "string"), column("Data", "string"), AGE] },
            &Secret,
        )
    }
}

struct ConfigMap;
struct Secret;

fn size(object: &Value, field: &str) -> usize {
    object.get(field).and_then(Value::as_object).map_or(0, Map::len)
}

fn check_keys(object: &Value, field: &str, errors: &mut ErrorList) -> usize {
    let mut bytes = 0;
    for (key, value) in object.get(field).and_then(Value::as_object).into_iter().flatten() {
        for message in names::config_key(key) {
            errors.invalid(&Path::new(field).key(key), quoted(key), message);
        }
        bytes += value.as_str().map_or(0, str::len);
    }
    bytes
}

fn check_immutable(new: &Value, old: &Value, fields: &[&str], errors: &mut ErrorList) {
    if old["immutable"] != true {
        return;
    }
    if new["immutable"] != true {
        errors.forbidden(&Path::new("immutable"), "field is immutable when `immutable` is set");
    }
    for field in fields {
        if new.get(field) != old.get(field) {
            errors.forbidden(&Path::new(field), "field is immutable when `immutable` is set");
        }
    }
}

impl Strategy for ConfigMap {
    fn validate_create(&self, map: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let bytes = check_keys(map, "data", &mut errors) + check_keys(map, "binaryData", &mut errors);
        for (key, _) in map["binaryData"].as_object().into_iter().flatten() {
            if map["data"].get(key).is_some() {
                let at = Path::new("data").child(key);
                errors.invalid(&at, quoted(key), "duplicate of key present in binaryData");
            }
        }
        if bytes > MAX_BYTES {
            errors.too_long(&Path::root(), MAX_BYTES);
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(new);
        check_immutable(new, old, &["data", "binaryData"], &mut errors);
        errors
    }

    fn row(&self, map: &Value, now: Timestamp) -> Vec<Cell> {
        let count = size(map, "data") + size(map, "binaryData");
        vec![count.to_string().into(), age(map, now)]
    }
}

/// What a secret of a known type must have.
fn check_type(secret: &Value, errors: &mut ErrorList) {
    let data = Path::new("data");
    let has = |key: &str| secret["data"].get(key).is_some();
    let required: &[&str] = match text(secret, "type") {
        "kubernetes.io/service-account-token" => {
            let name = &secret["metadata"]["annotations"]["kubernetes.io/service-account.name"];
            if name.as_str().is_none_or(str::is_empty) {
                let at = Path::new("metadata").child("annotations");
                errors.required(&at.key("kubernetes.io/service-account.name"), "");
            }
            &[]
        }
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/basic-auth" => {
            if !has("username") && !has("password") {
                errors.required(&data.key("username"), "");
                errors.required(&data.key("password"), "");
            }
            &[]
        }
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        _ => &[],
    };
    for key in required {
        if !has(key) {
            errors.required(&data.key(key), "");
        }
        if key.starts_with(".docker")
            && let Some(given) = secret["data"][*key].as_str()
            && serde_json::from_slice::<Map<String, Value>>(&B64.decode(given).unwrap_or_default()).is_err()
        {
            // As above, the value is not shown.
            errors.invalid(&data.key(key), "\"<secret contents redacted>\"", "invalid character");
        }
    }
}

impl Strategy for Secret {
    fn default(&self, secret: &mut Value) {
        default_text(secret, "type", "Opaque");
        let Some(plain) = secret.get("stringData").and_then(Value::as_object).cloned() else {
            return;
        };
        if let Some(data) = object(secret, "data") {
            for (key, value) in plain {
                set(data, &key, B64.encode(value.as_str().unwrap_or_default()));
            }
        }
        // Write-only: it is never given back.
        drop(secret, "stringData");
    }

    fn validate_create(&self, secret: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if check_keys(secret, "data", &mut errors) / 4 * 3 > MAX_BYTES {
            errors.too_long(&Path::new("data"), MAX_BYTES);
        }
        for (key, value) in secret.get("data").and_then(Value::as_object).into_iter().flatten() {
            if value.as_str().is_some_and(|v| B64.decode(v).is_err()) {
                // The value is not shown: it is a secret, however badly encoded.
                errors.invalid(&Path::new("data").key(key), "\"<redacted>\"", "must be base64");
            }
        }
        check_type(secret, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(new);
        if new["type"] != old["type"] {
            errors.invalid(&Path::new("type"), quoted(text(new, "type")), "field is immutable");
        }
        check_immutable(new, old, &["data"], &mut errors);
        errors
    }

    fn row(&self, secret: &Value, now: Timestamp) -> Vec<Cell> {
        vec![
            text_or_none(secret, "/type"),
            size(secret, "data").to_string().into(),
            age(secret, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn string_data_is_encoded_once() {
        let mut secret = json!({"stringData": {"a": "b"}, "data": {"c": "ZA=="}});
        Secret.default(&mut secret);
        assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "Yg==", "c": "ZA=="}}));
    }

    #[test]
    fn immutability_and_keys() {
        let old = json!({"immutable": true, "data": {"a": "1"}});
        let new = json!({"immutable": true, "data": {"a": "2"}});
        assert!(
            ConfigMap
                .validate_update(&new, &old)
                .to_string()
                .contains("data: Forbidden: field is immutable")
        );
        assert!(!ConfigMap.validate_create(&json!({"data": {"a/b": ""}})).is_empty());
    }

    #[test]
    fn types_of_secrets() {
        let check = |kind: &str, data: Value| Secret.validate_create(&json!({"type": kind, "data": data}));
        assert!(check("Opaque", json!({})).is_empty());
        for (kind, words) in [
            ("kubernetes.io/tls", "data[tls.crt]: Required value"),
            ("kubernetes.io/ssh-auth", "data[ssh-privatekey]: Required value"),
            ("kubernetes.io/basic-auth", "data[username]: Required value"),
            (
                "kubernetes.io/service-account-token",
                "metadata.annotations[kubernetes.io/service-account.name]: Required value",
            ),
        ] {
            crate::check::expect(&check(kind, json!({})), words);
        }
        let twice = json!({"data": {"a": "b"}, "binaryData": {"a": "Yg=="}});
        crate::check::expect(
            &ConfigMap.validate_create(&twice),
            "duplicate of key present in binaryData",
        );
    }
}
