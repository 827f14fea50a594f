//! What every cluster has: system namespaces, default roles and bindings,
//! priority classes, the `kubernetes` Service, the root certificate. Made at
//! start where it is missing; must not undo what an administrator changed.

use std::sync::Arc;

use meta::{Gvr, Object, Status, time};
use serde_json::{Value, json};

use super::policy;
use crate::api::OpenError;
use crate::cache::{Selection, select};
use crate::core::Core;
use crate::identity::User;
use crate::registry::{Call, Change, DeleteRequest, Target};

const RBAC: &str = "rbac.authorization.k8s.io";
/// Set to `false` on a default role or binding, it is left as it is.
const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

impl Core {
    /// Makes what is missing.
    pub(crate) async fn bootstrap(&self) -> Result<(), OpenError> {
        let mut call = Call::new(Arc::new(User::master("system:apiserver")));
        call.field_manager = "allmend".into();
        for namespace in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            self.ensure(&call, ("", "namespaces"), "", &json!({"metadata": {"name": namespace}}))
                .await?;
        }
        for role in policy::cluster_roles() {
            self.reconcile(&call, "clusterroles", &role, "rules").await?;
        }
        for binding in policy::cluster_role_bindings() {
            self.reconcile(&call, "clusterrolebindings", &binding, "subjects")
                .await?;
        }
        for (name, value, what) in [
            (
                "system-node-critical",
                2_000_001_000i64,
                "node critical pods that must not be moved from their current node.",
            ),
            (
                "system-cluster-critical",
                2_000_000_000,
                "cluster critical pods that must run in the cluster, but can be moved to another node if necessary.",
            ),
        ] {
            let class = json!({"metadata": {"name": name}, "value": value,
                "description": format!("Used for system {what}")});
            self.ensure(&call, ("scheduling.k8s.io", "priorityclasses"), "", &class)
                .await?;
        }
        if !self.config.root_ca.is_empty() {
            let ca = json!({"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": self.config.root_ca}});
            for namespace in ["default", "kube-system", "kube-public", "kube-node-lease"] {
                self.ensure(&call, ("", "configmaps"), namespace, &ca).await?;
            }
        }
        self.own_service(&call).await
    }

    /// The `kubernetes` Service at the first address of the range, and where it leads.
    async fn own_service(&self, call: &Call) -> Result<(), OpenError> {
        // Nobody but this machine could follow an endpoint on its loopback: there is none then.
        let Some(address) = self.config.advertise.filter(|a| !a.ip().is_loopback()) else {
            return Ok(());
        };
        let (net, bits) = self.config.service_cidr;
        let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
        let first = std::net::Ipv4Addr::from((u32::from(net) & mask) + 1);
        let labels = json!({"component": "apiserver", "provider": "kubernetes"});
        let service = json!({
            "metadata": {"name": "kubernetes", "labels": labels},
            "spec": {
                "type": "ClusterIP", "clusterIP": first.to_string(), "sessionAffinity": "None",
                "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": address.port()}],
            },
        });
        self.ensure(call, ("", "services"), "default", &service).await?;
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        let slice = json!({
            "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": family,
            "endpoints": [{"addresses": [address.ip().to_string()], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": address.port(), "protocol": "TCP"}],
        });
        let endpoints = json!({
            "metadata": {"name": "kubernetes"},
            "subsets": [{"addresses": [{"ip": address.ip().to_string()}],
                "ports": [{"name": "https", "port": address.port(), "protocol": "TCP"}]}],
        });
        self.ensure(call, ("discovery.k8s.io", "endpointslices"), "default", &slice)
            .await?;
        self.ensure(call, ("", "endpoints"), "default", &endpoints).await?;
        // The address may have changed since the last start.
        self.renew(
            call,
            ("discovery.k8s.io", "endpointslices"),
            &slice,
            &["endpoints", "ports"],
        )
        .await?;
        self.renew(call, ("", "endpoints"), &endpoints, &["subsets"]).await
    }

    /// Creates an object unless it exists or its kind is not served.
    async fn ensure(
        &self,
        call: &Call,
        (group, plural): (&str, &str),
        namespace: &str,
        object: &Value,
    ) -> Result<(), OpenError> {
        let Some(resource) = self.catalog.find(group, plural) else {
            return Ok(());
        };
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let target = Target::of(resource, namespace, "");
        if resource
            .cache
            .get(&crate::resource::object_key(namespace, name))
            .is_some()
        {
            return Ok(());
        }
        match self.create(call, target, object.clone().into()).await {
            Err(status) if !status.is_already_exists() => Err(failed(plural, name, status)),
            _ => Ok(()),
        }
    }

    async fn renew(
        &self,
        call: &Call,
        (group, plural): (&str, &str),
        object: &Value,
        fields: &[&str],
    ) -> Result<(), OpenError> {
        let Some(resource) = self.catalog.find(group, plural) else {
            return Ok(());
        };
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let target = Target::of(resource, "default", name);
        let renewed = |old: &Arc<Object>| {
            let mut value = old.to_value();
            for field in fields {
                value[*field] = object[*field].clone();
            }
            Ok(Change { value, managed: None })
        };
        self.change(call, target, &renewed)
            .await
            .map(drop)
            .map_err(|status| failed(plural, name, status))
    }

    /// Creates a role or binding, or adds to it what it lacks.
    async fn reconcile(&self, call: &Call, plural: &str, wanted: &Value, field: &str) -> Result<(), OpenError> {
        self.ensure(call, (RBAC, plural), "", wanted).await?;
        let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
        let Some(resource) = self.catalog.find(RBAC, plural) else {
            return Ok(());
        };
        let target = Target::of(resource, "", name);
        let Ok(present) = self.current(target) else {
            return Ok(());
        };
        let value = present.to_value();
        let locked = present.annotations().get(AUTO_UPDATE).is_none_or(|v| v != "true");
        let missing = lacking(&value[field], &wanted[field]);
        // What an aggregated role holds is its controller's business after the first start.
        if locked || missing.is_empty() || value["aggregationRule"].is_object() {
            return Ok(());
        }
        let added = |old: &Arc<Object>| {
            let mut value = old.to_value();
            let missing = lacking(&value[field], &wanted[field]);
            match &mut value[field] {
                Value::Array(list) => list.extend(missing),
                other => *other = missing.into(),
            }
            Ok(Change { value, managed: None })
        };
        self.change(call, target, &added)
            .await
            .map(drop)
            .map_err(|status| failed(plural, name, status))
    }

    /// Removes Events that are too old.
    pub(crate) async fn expire_events(&self) {
        let call = Call::new(Arc::new(User::master("system:apiserver")));
        let ttl = jiff::SignedDuration::try_from(self.config.event_ttl).unwrap_or(jiff::SignedDuration::from_hours(1));
        let Ok(oldest) = call.now.checked_sub(ttl) else {
            return;
        };
        let Ok(resource) = self.catalog.resolve(&Gvr::of("", "v1", "events")) else {
            return;
        };
        let (snapshot, _) = resource.cache.snapshot();
        let (items, _) = select(&snapshot, &resource.kind, &Selection::default(), "", usize::MAX);
        for (_, item) in items {
            let object = &item.object;
            let value = object.to_value();
            // An event that repeats is as old as its last occurrence.
            let times = ["lastTimestamp", "eventTime"].map(|f| value[f].as_str().and_then(time::parse));
            let created = object.header().creation_timestamp.as_deref().and_then(time::parse);
            let series = value
                .pointer("/series/lastObservedTime")
                .and_then(Value::as_str)
                .and_then(time::parse);
            let last = times.into_iter().chain([created, series]).flatten().max();
            if last.is_some_and(|t| t < oldest) {
                let target = Target::of(&resource, object.namespace(), object.name());
                // Somebody may have been quicker; the next round sees what is left.
                let _ = self.delete(&call, target, &DeleteRequest::default()).await;
            }
        }
    }
}

fn failed(plural: &str, name: &str, source: Status) -> OpenError {
    OpenError::Bootstrap {
        what: format!("{plural}/{name}"),
        source,
    }
}

/// Entries of `wanted` that are not in `present`.
fn lacking(present: &Value, wanted: &Value) -> Vec<Value> {
    let present = present.as_array().map(Vec::as_slice).unwrap_or_default();
    let wanted = wanted.as_array().into_iter().flatten();
    wanted.filter(|w| !present.contains(w)).cloned().collect()
}
