//! What all nodes of a cluster must agree on. The server writes it into a ConfigMap, agents read it.
//!
//! Must not hold secrets: every node may read it.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use client::{Client, ClientExt};
use kinds::resources::CONFIG_MAPS;
use meta::{Object, Status};
use serde_json::{Value, json};

/// Where it is. The node authoriser lets nodes read this one.
pub const NAMESPACE: &str = "kube-system";
/// See [`NAMESPACE`].
pub const NAME: &str = "allmend-cluster";

/// The parameters of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Addresses of all pods.
    pub cluster_cidr: (Ipv4Addr, u8),
    /// Addresses of services.
    pub service_cidr: (Ipv4Addr, u8),
    /// Address of the cluster's DNS.
    pub cluster_dns: IpAddr,
    /// Domain of the cluster's names.
    pub cluster_domain: String,
    /// Whether nodes answer names.
    pub dns: bool,
    /// The authority of clients, PEM: who may call nodes has a certificate of it.
    pub client_authority: String,
}

impl Cluster {
    fn data(&self) -> Value {
        let cidr = |(address, prefix): (Ipv4Addr, u8)| format!("{address}/{prefix}");
        json!({
            "cluster-cidr": cidr(self.cluster_cidr),
            "service-cidr": cidr(self.service_cidr),
            "cluster-dns": self.cluster_dns.to_string(),
            "cluster-domain": self.cluster_domain,
            "dns": self.dns.to_string(),
            "client-ca.crt": self.client_authority,
        })
    }

    /// Reads what [`Cluster::publish`] wrote.
    pub fn read(map: &Object) -> Result<Self> {
        let value = map.to_value();
        let text = |key: &str| {
            let found = value["data"][key].as_str().map(str::to_owned);
            found.with_context(|| {
                format!("the ConfigMap {NAMESPACE}/{NAME} lacks {key}: the server writes it when it starts")
            })
        };
        let cidr = |key: &str| crate::server::parse_cidr(&text(key)?).with_context(|| key.to_owned());
        Ok(Cluster {
            cluster_cidr: cidr("cluster-cidr")?,
            service_cidr: cidr("service-cidr")?,
            cluster_dns: text("cluster-dns")?.parse().context("cluster-dns")?,
            cluster_domain: text("cluster-domain")?,
            dns: text("dns")? == "true",
            client_authority: text("client-ca.crt")?,
        })
    }

    /// Writes it, if it is not there as it should be.
    pub async fn publish(&self, client: &dyn Client) -> Result<(), Status> {
        let data = self.data();
        match client.get(&CONFIG_MAPS, NAMESPACE, NAME).await {
            Ok(there) if there.to_value()["data"] == data => Ok(()),
            Ok(_) => {
                let patch = json!({"data": data});
                let patched = client.merge_patch(&CONFIG_MAPS, NAMESPACE, NAME, "", &patch).await;
                patched.map(drop)
            }
            Err(status) if status.is_not_found() => {
                let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME}, "data": data});
                client.create_object(&CONFIG_MAPS, NAMESPACE, &map).await.map(drop)
            }
            Err(status) => Err(status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let cluster = Cluster {
            cluster_cidr: ([10, 42, 0, 0].into(), 16),
            service_cidr: ([10, 43, 0, 0].into(), 16),
            cluster_dns: [10, 43, 0, 10].into(),
            cluster_domain: "cluster.local".into(),
            dns: true,
            client_authority: "PEM".into(),
        };
        let map = |data: Value| Object::from_value(json!({"metadata": {"name": NAME}, "data": data})).unwrap();
        assert_eq!(Cluster::read(&map(cluster.data())).unwrap(), cluster);
        let error = Cluster::read(&map(json!({}))).unwrap_err().to_string();
        assert!(error.contains("cluster-cidr") && error.contains(NAME), "{error}");
    }
}
