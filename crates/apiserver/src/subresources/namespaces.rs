//! `namespaces/finalize`: takes finalizers off a namespace's spec, and removes
//! the namespace when none is left.

use meta::Status;
use serde_json::{Value, json};

use crate::core::Core;
use crate::registry::{Answer, Call, Target};

impl Core {
    pub(super) async fn finalize_namespace(
        &self,
        call: &Call,
        target: Target<'_>,
        wanted: Value,
    ) -> Result<Answer, Status> {
        let finalizers = wanted.pointer("/spec/finalizers").cloned().unwrap_or_else(|| json!([]));
        let revision = wanted
            .pointer("/metadata/resourceVersion")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let changed = self
            .rewrite(call, target, &|old, mut value| {
                if !revision.is_empty() && revision != old.resource_version().to_string() {
                    return Err(target.modified());
                }
                value["spec"]["finalizers"] = finalizers.clone();
                Ok(value)
            })
            .await?;
        if !call.dry_run {
            self.remove_if_finished(Target {
                subresource: "",
                ..target
            })
            .await?;
        }
        Ok(changed)
    }
}
