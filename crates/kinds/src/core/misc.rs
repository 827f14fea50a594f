//! The rest of the core group: Events, service accounts, quotas and relics.

use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use serde_json::Value;

use crate::columns::{AGE, age, column, since, text_or_none, wide};
use crate::edit::text;
use crate::plain::{AGE_ONLY, Row};
use crate::schemas::typed;
use crate::{Cell, Declared, Strategy, Subresource};

/// The kinds of this file.
pub(super) fn kinds() -> Vec<Declared> {
    vec![
        Declared {
            selectable_fields: &[
                "involvedObject.kind",
                "involvedObject.namespace",
                "involvedObject.name",
                "involvedObject.uid",
                "involvedObject.apiVersion",
                "involvedObject.resourceVersion",
                "involvedObject.fieldPath",
                "reason",
                "reportingComponent",
                "source",
                "type",
            ],
            ..super::core_kind("Event", "events", "event", &["ev"]).with(
                typed::<v1::Event>,
                const {
                    &[
                        column("Last Seen", "string"),
                        column("Type", "string"),
                        column("Reason", "string"),
                        column("Object", "string"),
                        wide("Subobject", "string"),
                        wide("Source", "string"),
                        column("Message", "string"),
                        wide("First Seen", "string"),
                        wide("Count", "string"),
                        wide("Name", "string"),
                    ]
                },
                &Event,
            )
        },
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

struct Event;

impl Strategy for Event {
    fn row(&self, event: &Value, now: Timestamp) -> Vec<Cell> {
        let time = |fields: &[&str]| {
            let found = fields.iter().find_map(|f| event.pointer(f).filter(|v| v.is_string()));
            since(found, now)
        };
        let seen = [
            "/series/lastObservedTime",
            "/lastTimestamp",
            "/eventTime",
            "/metadata/creationTimestamp",
        ];
        let object = &event["involvedObject"];
        let source = match text(&event["source"], "component") {
            "" => text(event, "reportingComponent"),
            given => given,
        };
        let count = event
            .pointer("/series/count")
            .or(event.get("count"))
            .and_then(Value::as_i64)
            .unwrap_or(1);
        vec![
            time(&seen).into(),
            text(event, "type").into(),
            text(event, "reason").into(),
            format!("{}/{}", text(object, "kind").to_lowercase(), text(object, "name")).into(),
            text(object, "fieldPath").into(),
            source.into(),
            text(event, "message").trim().into(),
            time(&["/firstTimestamp", "/eventTime", "/metadata/creationTimestamp"]).into(),
            count.to_string().into(),
            event
                .pointer("/metadata/name")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .into(),
        ]
    }

    fn field(&self, event: &Value, path: &str) -> String {
        match path {
            "source" => {
                let component = text(&event["source"], "component");
                if component.is_empty() {
                    text(event, "reportingComponent")
                } else {
                    component
                }
                .to_owned()
            }
            _ => {
                let found = path.split('.').try_fold(event, |v, part| v.get(part));
                found.and_then(Value::as_str).unwrap_or_default().to_owned()
            }
        }
    }
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
