//! `certificatesigningrequests/approval`: changes nothing but the conditions
//! by which a request is approved or denied.

use std::sync::Arc;

use meta::{Object, Status, time};
use serde_json::{Value, json};

use crate::auth::Access;
use crate::core::Core;
use crate::registry::{Answer, Call, Target};

impl Core {
    pub(super) async fn approve(
        &self,
        call: &Call,
        target: Target<'_>,
        wanted: &(dyn Fn(&Arc<Object>) -> Result<Value, Status> + Sync),
    ) -> Result<Answer, Status> {
        let signer = self.current(target)?.to_value();
        let signer = signer
            .pointer("/spec/signerName")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
        let may = |name: &str| {
            let access = Access {
                verb: "approve",
                group: "certificates.k8s.io",
                resource: "signers",
                name,
                ..Access::default()
            };
            self.decide(&call.user, &access).allows()
        };
        if !may(&signer) && !may(&domain) {
            return Err(target.forbidden(format!(
                "user not permitted to approve requests with signerName {signer:?}"
            )));
        }
        self.rewrite(call, target, &|old, mut value| {
            let wanted = wanted(old)?;
            let mut conditions = wanted
                .pointer("/status/conditions")
                .cloned()
                .unwrap_or_else(|| json!([]));
            for c in conditions.as_array_mut().into_iter().flatten() {
                for field in ["lastUpdateTime", "lastTransitionTime"] {
                    if c.get(field).is_none_or(Value::is_null) {
                        c[field] = time::rfc3339(call.now).into();
                    }
                }
                if c.get("status").is_none() {
                    c["status"] = "True".into();
                }
            }
            value["status"]["conditions"] = conditions;
            Ok(value)
        })
        .await
    }
}
