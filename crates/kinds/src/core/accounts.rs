//! ServiceAccount.

use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use serde_json::Value;

use crate::columns::{AGE, age, column};
use crate::edit::items;
use crate::schemas::typed;
use crate::{Cell, Declared, Strategy, Subresource};

/// The kinds of this file.
pub(super) fn kinds() -> Vec<Declared> {
    vec![Declared {
        subresources: &[Subresource::Custom("token", "TokenRequest", &["create"])],
        ..super::core_kind("ServiceAccount", "serviceaccounts", "serviceaccount", &["sa"]).with(
            typed::<v1::ServiceAccount>,
            const { &[column("Secrets", "string"), AGE] },
            &ServiceAccount,
        )
    }]
}

struct ServiceAccount;

impl Strategy for ServiceAccount {
    fn row(&self, account: &Value, now: Timestamp) -> Vec<Cell> {
        vec![items(account, "secrets").count().into(), age(account, now)]
    }
}
