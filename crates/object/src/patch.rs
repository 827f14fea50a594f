//! The patches of PATCH: JSON patch (RFC 6902, by a library), merge patch
//! (RFC 7386) and Kubernetes' strategic merge patch.

mod strategic;

use serde_json::Value;

pub use strategic::strategic;

/// Why a patch cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is malformed: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object: 422.
    #[error("{0}")]
    DoesNotFit(String),
}

/// RFC 6902. The value is unchanged when an operation fails.
pub fn json(value: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let operations: json_patch::Patch =
        serde_json::from_value(patch.clone()).map_err(|e| PatchError::Malformed(e.to_string()))?;
    json_patch::patch(value, &operations).map_err(|e| PatchError::DoesNotFit(e.to_string()))
}

/// RFC 7386.
pub fn merge(value: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *value = patch.clone();
        return;
    };
    if !value.is_object() {
        *value = crate::shape::empty();
    }
    if let Value::Object(map) = value {
        for (name, v) in patch {
            if v.is_null() {
                map.remove(name);
            } else {
                merge(map.entry(name.clone()).or_insert(Value::Null), v);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_patch_is_all_or_nothing() {
        let mut value = json!({"a": 1});
        let patch = json!([{"op": "add", "path": "/b", "value": 2}, {"op": "test", "path": "/a", "value": 9}]);
        assert!(matches!(
            super::json(&mut value, &patch),
            Err(PatchError::DoesNotFit(_))
        ));
        assert_eq!(value, json!({"a": 1}));
        assert!(matches!(
            super::json(&mut value, &json!({"op": 1})),
            Err(PatchError::Malformed(_))
        ));
    }

    #[test]
    fn merge_patch_examples_of_the_rfc() {
        for (a, patch, want) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (json!(["a"]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let mut value = a;
            merge(&mut value, &patch);
            assert_eq!(value, want);
        }
    }
}
