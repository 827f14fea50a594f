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
                    reason: "UnexpectedServerResponse".into(),
                    message: m,
                    field: String::new(),
                }];
                status
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
