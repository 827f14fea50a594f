//! Subresources with handlers of their own. One file each; the table here says
//! which. Must not be reached without authorisation of `resource/subresource`.

use meta::Status;
use serde_json::Value;

use crate::core::Core;
use crate::registry::{Answer, Call, Input, Target};

impl Core {
    /// POST to a subresource: the document that answers it.
    pub(crate) async fn post_subresource(&self, call: &Call, target: Target<'_>, input: Input) -> Result<Value, Status> {
        match (target.resource.kind.plural, target.subresource) {
            ("serviceaccounts", "token") => self.request_token(call, target, input.value),
            _ => Err(Status::no_such_path()),
        }
    }

    /// PUT of a subresource: the object as it is then.
    pub(crate) async fn put_subresource(&self, _call: &Call, _target: Target<'_>, _input: Input) -> Result<Answer, Status> {
        Err(Status::no_such_path())
    }
}
