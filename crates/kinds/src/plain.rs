//! Kinds that need little more than their schema, and the builder that all use.

use jiff::Timestamp;
use k8s_openapi::api;
use serde_json::Value;

use crate::columns::{AGE, age, column, text_or_none, wide};
use crate::schemas::typed;
use crate::{Cell, Column, Declared, Scope, Strategy, Subresource};

/// Names of a kind.
pub(crate) struct Names {
    /// API group.
    pub group: &'static str,
    /// Version.
    pub version: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Resource.
    pub plural: &'static str,
    /// Singular.
    pub singular: &'static str,
    /// Short names.
    pub short_names: &'static [&'static str],
}

impl Names {
    /// A namespaced kind without subresources, with columns after the name.
    pub(crate) fn with(
        self,
        schema: fn() -> &'static object::schema::Schema,
        columns: &'static [Column],
        strategy: &'static dyn Strategy,
    ) -> Declared {
        Declared {
            group: self.group,
            version: self.version,
            kind: self.kind,
            plural: self.plural,
            singular: self.singular,
            short_names: self.short_names,
            categories: &[],
            scope: Scope::Namespaced,
            subresources: const { &[] },
            verbs: crate::Kind::ALL_VERBS,
            schema,
            columns,
            strategy,
            selectable_fields: &[],
        }
    }
}

impl Declared {
    /// Not in a namespace.
    pub(crate) fn cluster(self) -> Self {
        Declared {
            scope: Scope::Cluster,
            ..self
        }
    }

    /// With a status that is written apart.
    pub(crate) fn status(self) -> Self {
        Declared {
            subresources: STATUS,
            ..self
        }
    }

    /// With fields that field selectors may use.
    pub(crate) fn fields(self, selectable_fields: &'static [&'static str]) -> Self {
        Declared {
            selectable_fields,
            ..self
        }
    }
}

/// A strategy that only draws a row: pointers into the object, then the age.
pub(crate) struct Row(pub &'static [&'static str]);

impl Strategy for Row {
    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let mut out: Vec<Cell> = self.0.iter().map(|p| text_or_none(object, p)).collect();
        out.push(age(object, now));
        out
    }
}

/// Shows the age alone.
pub(crate) static AGE_ONLY: Row = Row(&[]);

const STATUS: &[Subresource] = &[Subresource::Status];

/// Names in one line.
pub(crate) const fn names(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short_names: &'static [&'static str],
) -> Names {
    Names {
        group,
        version,
        kind,
        plural,
        singular,
        short_names,
    }
}

/// The kinds of this file.
pub(crate) fn kinds() -> Vec<Declared> {
    others()
}

fn others() -> Vec<Declared> {
    vec![
        names("coordination.k8s.io", "v1", "Lease", "leases", "lease", &[]).with(
            typed::<api::coordination::v1::Lease>,
            const { &[column("Holder", "string"), AGE] },
            &Row(&["/spec/holderIdentity"]),
        ),
        Declared {
            scope: Scope::Cluster,
            ..names(
                "scheduling.k8s.io",
                "v1",
                "PriorityClass",
                "priorityclasses",
                "priorityclass",
                &["pc"],
            )
            .with(
                typed::<api::scheduling::v1::PriorityClass>,
                const { &[column("Value", "integer"), column("Global-Default", "boolean"), AGE] },
                &PriorityClass,
            )
        },
        Declared {
            subresources: STATUS,
            ..names(
                "policy",
                "v1",
                "PodDisruptionBudget",
                "poddisruptionbudgets",
                "poddisruptionbudget",
                &["pdb"],
            )
            .with(
                typed::<api::policy::v1::PodDisruptionBudget>,
                const {
                    &[
                        column("Min Available", "string"),
                        column("Max Unavailable", "string"),
                        column("Allowed Disruptions", "integer"),
                        AGE,
                    ]
                },
                &Row(&[
                    "/spec/minAvailable",
                    "/spec/maxUnavailable",
                    "/status/disruptionsAllowed",
                ]),
            )
        },
        Declared {
            scope: Scope::Cluster,
            ..names(
                "node.k8s.io",
                "v1",
                "RuntimeClass",
                "runtimeclasses",
                "runtimeclass",
                &[],
            )
            .with(
                typed::<api::node::v1::RuntimeClass>,
                const { &[column("Handler", "string"), AGE] },
                &Row(&["/handler"]),
            )
        },
        Declared {
            scope: Scope::Cluster,
            subresources: const {
                &[
                    Subresource::Status,
                    Subresource::Custom("approval", "CertificateSigningRequest", &["get", "patch", "update"]),
                ]
            },
            ..names(
                "certificates.k8s.io",
                "v1",
                "CertificateSigningRequest",
                "certificatesigningrequests",
                "certificatesigningrequest",
                &["csr"],
            )
            .with(
                typed::<api::certificates::v1::CertificateSigningRequest>,
                const {
                    &[
                        AGE,
                        column("SignerName", "string"),
                        column("Requestor", "string"),
                        wide("RequestedDuration", "string"),
                        column("Condition", "string"),
                    ]
                },
                &Signing,
            )
        },
    ]
}

struct PriorityClass;

impl Strategy for PriorityClass {
    fn default(&self, object: &mut Value) {
        crate::edit::default_text(object, "preemptionPolicy", "PreemptLowerPriority");
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        vec![
            object["value"].as_i64().unwrap_or(0).into(),
            object["globalDefault"].as_bool().unwrap_or(false).into(),
            age(object, now),
        ]
    }
}

struct Signing;

impl Strategy for Signing {
    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let mut states: Vec<&str> = crate::edit::items(&object["status"], "conditions")
            .map(|c| crate::edit::text(c, "type"))
            .collect();
        if object.pointer("/status/certificate").is_some() {
            states.push("Issued");
        }
        let state = if states.is_empty() {
            "Pending".to_owned()
        } else {
            states.join(",")
        };
        vec![
            age(object, now),
            text_or_none(object, "/spec/signerName"),
            text_or_none(object, "/spec/username"),
            text_or_none(object, "/spec/expirationSeconds"),
            state.into(),
        ]
    }
}
