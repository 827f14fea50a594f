//! The rest of the core group: Events, service accounts, quotas and relics.

use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use serde_json::Value;

use crate::columns::{AGE, age, column, text_or_none};
use crate::edit::text;
use crate::plain::{AGE_ONLY, Row};
use crate::schemas::typed;
use crate::{Cell, Declared, Strategy, Subresource};

/// The kinds of this file.
pub(super) fn kinds() -> Vec<Declared> {
    vec![
        Declared {
            subresources: &[Subresource::Custom("token", "TokenRequest", &["create"])],
            ..super::core_kind("ServiceAccount", "serviceaccounts", "serviceaccount", &["sa"]).with(
                typed::<v1::ServiceAccount>,
                const { &[column("Secrets", "string"), AGE] },
                &ServiceAccount,
            )
        },
        super::core_kind("Endpoints", "endpoints", "endpoints", &["ep"]).with(
            typed::<v1::Endpoints>,
            const { &[column("Endpoints", "string"), AGE] },
            &Endpoints,
        ),
        super::core_kind("LimitRange", "limitranges", "limitrange", &["limits"]).with(
            typed::<v1::LimitRange>,
            const { &[column("Created At", "date")] },
            &LimitRange,
        ),
        Declared {
            subresources: const { &[Subresource::Status] },
            ..super::core_kind("ResourceQuota", "resourcequotas", "resourcequota", &["quota"]).with(
                typed::<v1::ResourceQuota>,
                const { &[AGE] },
                &AGE_ONLY,
            )
        },
        super::core_kind("PodTemplate", "podtemplates", "podtemplate", &[]).with(
            typed::<v1::PodTemplate>,
            const { &[AGE] },
            &AGE_ONLY,
        ),
        Declared {
            categories: &["all"],
            subresources: const { &[Subresource::Status] },
            ..super::core_kind(
                "ReplicationController",
                "replicationcontrollers",
                "replicationcontroller",
                &["rc"],
            )
            .with(
                typed::<v1::ReplicationController>,
                const {
                    &[
                        column("Desired", "integer"),
                        column("Current", "integer"),
                        column("Ready", "integer"),
                        AGE,
                    ]
                },
                &Row(&["/spec/replicas", "/status/replicas", "/status/readyReplicas"]),
            )
        },
    ]
}

struct ServiceAccount;

impl Strategy for ServiceAccount {
    fn row(&self, account: &Value, now: Timestamp) -> Vec<Cell> {
        let secrets = account["secrets"].as_array().map_or(0, Vec::len);
        vec![secrets.to_string().into(), age(account, now)]
    }
}

struct Endpoints;

impl Strategy for Endpoints {
    fn row(&self, endpoints: &Value, now: Timestamp) -> Vec<Cell> {
        let mut all = Vec::new();
        for subset in crate::edit::items(endpoints, "subsets") {
            for address in crate::edit::items(subset, "addresses") {
                let ip = text(address, "ip");
                let ports: Vec<i64> = crate::edit::items(subset, "ports")
                    .filter_map(|p| p["port"].as_i64())
                    .collect();
                if ports.is_empty() {
                    all.push(ip.to_owned());
                }
                all.extend(ports.iter().map(|p| format!("{ip}:{p}")));
            }
        }
        let shown = match all.len() {
            0 => "<none>".to_owned(),
            1..=3 => all.join(","),
            n => format!("{} + {} more...", all[..3].join(","), n - 3),
        };
        vec![shown.into(), age(endpoints, now)]
    }
}

struct LimitRange;

impl Strategy for LimitRange {
    fn row(&self, range: &Value, _: Timestamp) -> Vec<Cell> {
        vec![text_or_none(range, "/metadata/creationTimestamp")]
    }
}
