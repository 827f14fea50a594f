//! Subresources with handlers of their own, one file each; the tables here say
//! which. Must not be reached without authorisation of `resource/subresource`.

mod certificates;
pub(crate) mod machines;
mod namespaces;
mod pods;
mod rewrite;

use std::sync::Arc;

use meta::{Object, Status};
use serde_json::{Value, json};

use crate::core::Core;
use crate::registry::{Answer, Call, Input, PatchRequest, Target};

impl Core {
    /// POST to a subresource: the document that answers it.
    pub(crate) async fn post_subresource(
        &self,
        call: &Call,
        target: Target<'_>,
        input: Input,
    ) -> Result<Value, Status> {
        match (&*target.resource.kind.plural, target.subresource) {
            ("serviceaccounts", "token") => self.request_token(call, target, input.value),
            ("pods", "binding") => self.bind_pod(call, target, &input.value).await,
            ("pods", "eviction") => self.evict_pod(call, target, &input.value).await,
            _ => Err(Status::no_such_path()),
        }
    }

    /// PUT of a subresource: the object as it is then.
    pub(crate) async fn put_subresource(
        &self,
        call: &Call,
        target: Target<'_>,
        input: Input,
    ) -> Result<Answer, Status> {
        match (&*target.resource.kind.plural, target.subresource) {
            ("namespaces", "finalize") => self.finalize_namespace(call, target, input.value).await,
            ("certificatesigningrequests", "approval") => {
                self.approve(call, target, &|_| Ok(input.value.clone())).await
            }
            ("pods", "ephemeralcontainers" | "resize") => {
                self.change_pod_part(call, target, &|_| Ok(input.value.clone())).await
            }
            _ => Err(Status::no_such_path()),
        }
    }

    /// PATCH of a subresource: the object as it is then.
    pub(crate) async fn patch_subresource(
        &self,
        call: &Call,
        target: Target<'_>,
        request: PatchRequest,
    ) -> Result<Answer, Status> {
        let kind = &target.resource.kind;
        let patched = |old: &Arc<Object>| {
            let mut value = old.to_value();
            match request.form {
                client::PatchType::Json => crate::machinery::json_patch(&mut value, &request.document)?,
                client::PatchType::Merge => crate::machinery::merge_patch(&mut value, &request.document)?,
                _ => crate::machinery::strategic_patch(kind, &mut value, &request.document)?,
            }
            Ok(value)
        };
        match (&*kind.plural, target.subresource) {
            ("certificatesigningrequests", "approval") => self.approve(call, target, &patched).await,
            ("pods", "ephemeralcontainers" | "resize") => self.change_pod_part(call, target, &patched).await,
            _ => Err(Status::no_such_path()),
        }
    }
}

/// The answer to an action that has no object of its own.
pub(crate) fn success(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code})
}
