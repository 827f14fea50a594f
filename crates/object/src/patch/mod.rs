//! The three kinds of patch. Must not know what is patched but by its schema.

mod json;
mod merge;
mod strategic;

use meta::{Cause, Reason, Status};

pub use json::{MAX_OPERATIONS, json};
pub use merge::{diff, merge};
pub use strategic::strategic;

/// Why a patch was not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is wrong: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object, such as a failed `test`: 422.
    #[error("{0}")]
    DoesNotFit(String),
    /// The patch asks for too much: 413.
    #[error("{0}")]
    TooLarge(String),
}

impl From<PatchError> for Status {
    fn from(error: PatchError) -> Status {
        match error {
            PatchError::Malformed(m) => Status::bad_request(m),
            PatchError::TooLarge(m) => Status::new(413, Reason::RequestEntityTooLarge, m),
            PatchError::DoesNotFit(m) => {
                let message = "the server rejected our request due to an error in our request";
                let mut status = Status::new(422, Reason::Invalid, message);
                status.causes = vec![Cause {
                    reason: "FieldValueInvalid".into(),
                    message: m,
                    field: "patch".into(),
                }];
                status
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::samples::{any_thing, any_value, schema};
    use proptest::prelude::*;
    use serde_json::Value;
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

    fn json_patched(value: Value, patch: Value) -> Result<Value, PatchError> {
        let mut value = value;
        super::json(&mut value, &patch).map(|()| value)
    }

    #[test]
    fn json_patch_operations() {
        let base = json!({"a": {"b": [1, 2]}, "c~d/e": 1});
        for (patch, want) in [
            (
                json!([{"op": "add", "path": "/a/b/-", "value": 3}]),
                json!({"a": {"b": [1, 2, 3]}, "c~d/e": 1}),
            ),
            (
                json!([{"op": "add", "path": "/a/b/0", "value": 0}]),
                json!({"a": {"b": [0, 1, 2]}, "c~d/e": 1}),
            ),
            (
                json!([{"op": "remove", "path": "/a/b/0"}]),
                json!({"a": {"b": [2]}, "c~d/e": 1}),
            ),
            (
                json!([{"op": "replace", "path": "/c~0d~1e", "value": 2}]),
                json!({"a": {"b": [1, 2]}, "c~d/e": 2}),
            ),
            (
                json!([{"op": "move", "from": "/a/b", "path": "/x"}]),
                json!({"a": {}, "x": [1, 2], "c~d/e": 1}),
            ),
            (
                json!([{"op": "copy", "from": "/a/b", "path": "/a/x"}]),
                json!({"a": {"b": [1, 2], "x": [1, 2]}, "c~d/e": 1}),
            ),
            (json!([{"op": "test", "path": "/a/b/1", "value": 2}]), base.clone()),
            (json!([{"op": "test", "path": "/nothing", "value": null}]), base.clone()),
            (
                json!([{"op": "replace", "path": "", "value": {"z": 1}}]),
                json!({"z": 1}),
            ),
        ] {
            assert_eq!(json_patched(base.clone(), patch.clone()), Ok(want), "{patch}");
        }
    }

    #[test]
    fn json_patches_that_do_not_fit() {
        let base = json!({"a": {"b": [1, 2]}});
        for (patch, message) in [
            (
                json!([{"op": "test", "path": "/a/b/0", "value": 9}]),
                "testing value /a/b/0 failed: test failed",
            ),
            (
                json!([{"op": "remove", "path": "/x"}]),
                "remove operation does not apply: doc is missing path: /x: missing value",
            ),
            (
                json!([{"op": "replace", "path": "/x", "value": 1}]),
                "replace operation does not apply: doc is missing key: /x: missing value",
            ),
            (
                json!([{"op": "add", "path": "/x/y", "value": 1}]),
                "add operation does not apply: doc is missing path: /x/y: missing value",
            ),
            (
                json!([{"op": "add", "path": "/a/b/7", "value": 1}]),
                "add operation does not apply: Unable to access invalid index: 7: invalid index referenced",
            ),
            (
                json!([{"op": "move", "from": "/a", "path": "/a/b/c"}]),
                "move operation does not apply: /a/b/c is inside /a",
            ),
        ] {
            let err = json_patched(base.clone(), patch).unwrap_err();
            assert_eq!(err, PatchError::DoesNotFit(message.into()));
            assert_eq!(Status::from(err).code, 422);
        }
        for patch in [
            json!({}),
            json!([1]),
            json!([{"op": "jump", "path": "/a"}]),
            json!([{"op": "add", "path": "/a"}]),
            json!([{"op": "add", "path": "a", "value": 1}]),
        ] {
            let err = json_patched(base.clone(), patch).unwrap_err();
            assert_eq!(Status::from(err).code, 400);
        }
    }

    #[test]
    fn json_patches_cannot_grow_without_bound() {
        let double = json!({"op": "copy", "from": "", "path": "/a"});
        let err = json_patched(json!({"x": [1, 2, 3]}), Value::Array(vec![double; 200])).unwrap_err();
        assert!(
            matches!(err, PatchError::TooLarge(_) | PatchError::DoesNotFit(_)),
            "{err}"
        );
        let add = json!({"op": "add", "path": "/l/-", "value": 1});
        let wide = json!({"op": "copy", "from": "/l", "path": "/l/-"});
        let mut patch = vec![add; 1000];
        patch.extend(vec![wide; 40]);
        let err = json_patched(json!({"l": []}), Value::Array(patch)).unwrap_err();
        assert!(matches!(err, PatchError::TooLarge(_)), "{err}");
        let many = Value::Array(vec![json!({"op": "test", "path": "/x"}); MAX_OPERATIONS + 1]);
        assert_eq!(Status::from(json_patched(json!({}), many).unwrap_err()).code, 413);
    }

    proptest! {
        #[test]
        fn the_merge_patch_of_two_leads_from_one_to_the_other(a in any_thing(), b in any_thing()) {
            let mut value = a.clone();
            merge(&mut value, &diff(&a, &b));
            prop_assert_eq!(value, b);
        }

        #[test]
        fn an_empty_strategic_patch_changes_nothing(a in any_value()) {
            let mut value = a.clone();
            strategic(&schema(), &mut value, &json!({})).unwrap();
            if a.is_object() {
                prop_assert_eq!(value, a);
            }
        }

        #[test]
        fn a_strategic_patch_applied_twice_is_applied_once(a in any_thing(), b in any_thing()) {
            let mut once = a;
            strategic(&schema(), &mut once, &b).unwrap();
            let mut twice = once.clone();
            strategic(&schema(), &mut twice, &b).unwrap();
            prop_assert_eq!(twice, once);
        }

        #[test]
        fn no_patch_panics(a in any_value(), b in any_value(), p in "[/a-z0-9~-]{0,6}", op in 0..6usize) {
            merge(&mut a.clone(), &b);
            let _ = diff(&a, &b);
            let _ = strategic(&schema(), &mut a.clone(), &b);
            let _ = super::json(&mut a.clone(), &b);
            let op = ["add", "remove", "replace", "move", "copy", "test"][op];
            let _ = super::json(&mut a.clone(), &json!([{"op": op, "path": p, "from": "/spec", "value": b}]));
        }
    }
}
