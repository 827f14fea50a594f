//! What becomes of a request for a certificate, as a pure function.
//! Must not sign, and must not look at anything but what it is given.

use std::net::IpAddr;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Node;
use kinds::resources::NODES;
use reconcile::View;

use super::Certifier;

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";
const NODE_USER: &str = "system:node:";
const NODES_GROUP: &str = "system:nodes";

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Common name.
    pub common_name: String,
    /// Organisations.
    pub organisations: Vec<String>,
    /// DNS names.
    pub dns_names: Vec<String>,
    /// IP addresses.
    pub addresses: Vec<IpAddr>,
    /// Names of other kinds.
    pub others: Vec<String>,
}

/// Whose key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Issuer {
    /// The authority of clients.
    Clients,
    /// The authority of servers.
    Servers,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: it is settled, a person decides, or it is another signer's.
    Wait,
    /// It is approved; with a message.
    Approve(String),
    /// It is denied; with a reason and a message.
    Deny(&'static str, String),
    /// It is signed.
    Sign(Issuer),
    /// It was approved, but can never be signed; with a message.
    Fail(String),
}

/// Decides.
pub fn judge(
    request: &CertificateSigningRequest,
    asked: Result<&Asked, &String>,
    view: &dyn View,
    certifier: &dyn Certifier,
) -> Verdict {
    let status = request.status.as_ref();
    let has = |kind: &str| {
        let mut conditions = status.iter().flat_map(|s| s.conditions.iter().flatten());
        conditions.any(|c| c.type_ == kind)
    };
    let issued = status
        .and_then(|s| s.certificate.as_ref())
        .is_some_and(|c| !c.0.is_empty());
    if issued || has("Denied") || has("Failed") {
        return Verdict::Wait;
    }
    let signer = request.spec.signer_name.as_str();
    if ![CLIENT, NODE_CLIENT, NODE_SERVING].contains(&signer) {
        return Verdict::Wait;
    }
    let form = asked.map_err(Clone::clone).and_then(|a| {
        form(signer, a, request.spec.usages.as_deref().unwrap_or_default())?;
        Ok(a)
    });
    if has("Approved") {
        return match form {
            Ok(_) if signer == NODE_SERVING => Verdict::Sign(Issuer::Servers),
            Ok(_) => Verdict::Sign(Issuer::Clients),
            Err(why) => Verdict::Fail(why),
        };
    }
    match form {
        Ok(asked) if signer == NODE_CLIENT => node_client(request, asked, view, certifier),
        Ok(asked) if signer == NODE_SERVING => node_serving(request, asked, view, certifier),
        // Whether to trust a person is for a person, and so is what has the wrong form.
        _ => Verdict::Wait,
    }
}

/// What the signers of Kubernetes demand of every request.
fn form(signer: &str, asked: &Asked, usages: &[String]) -> Result<(), String> {
    let purpose = if signer == NODE_SERVING {
        "server auth"
    } else {
        "client auth"
    };
    let known = ["digital signature", "key encipherment", purpose];
    if let Some(other) = usages.iter().find(|u| !known.contains(&u.as_str())) {
        return Err(format!("usage {other:?} is not allowed for signerName {signer}"));
    }
    let needed = |usage: &str| usages.iter().any(|u| u == usage);
    if !needed(purpose) || (signer != CLIENT && !needed("digital signature")) {
        return Err(format!("usages must contain {purpose:?} for signerName {signer}"));
    }
    if signer == CLIENT {
        return Ok(());
    }
    if asked.organisations != [NODES_GROUP] {
        return Err(format!("subject organization is not {NODES_GROUP}"));
    }
    if asked
        .common_name
        .strip_prefix(NODE_USER)
        .is_none_or(|node| !meta::names::dns1123_subdomain(node).is_empty())
    {
        return Err(format!("subject common name does not begin with {NODE_USER}"));
    }
    let named = !asked.dns_names.is_empty() || !asked.addresses.is_empty();
    match (signer == NODE_SERVING, named, asked.others.is_empty()) {
        (_, _, false) => Err("email and URI subjectAltNames are not allowed".to_owned()),
        (true, false, _) => Err("at least one DNS or IP subjectAltName is required".to_owned()),
        (false, true, _) => Err("DNS and IP subjectAltNames are not allowed".to_owned()),
        _ => Ok(()),
    }
}

fn requester(request: &CertificateSigningRequest) -> (&str, &[String]) {
    let user = request.spec.username.as_deref().unwrap_or_default();
    (user, request.spec.groups.as_deref().unwrap_or_default())
}

/// The first certificate of a node that joins, or the next one of a node that asks itself.
fn node_client(
    request: &CertificateSigningRequest,
    asked: &Asked,
    view: &dyn View,
    certifier: &dyn Certifier,
) -> Verdict {
    let (user, groups) = requester(request);
    if user == asked.common_name && certifier.may(user, groups, "selfnodeclient") {
        return Verdict::Approve("Auto approving self kubelet client certificate after SubjectAccessReview.".into());
    }
    if !certifier.may(user, groups, "nodeclient") {
        return Verdict::Wait;
    }
    let node = asked.common_name.strip_prefix(NODE_USER).unwrap_or_default();
    if view.get(&NODES, "", node).is_some() {
        let message = format!(
            "there is a node {node:?} already: delete node {node} first if this machine replaces it, \
             or give this machine another name"
        );
        return Verdict::Deny("NodeExists", message);
    }
    if certifier.is_reserved(node) {
        return Verdict::Deny("NameReserved", format!("{node:?} is a name of the API server"));
    }
    Verdict::Approve("Auto approving kubelet client certificate after SubjectAccessReview.".into())
}

/// What a node shows to those who call it: its own name, and addresses that it has reported and
/// nobody else has.
fn node_serving(
    request: &CertificateSigningRequest,
    asked: &Asked,
    view: &dyn View,
    certifier: &dyn Certifier,
) -> Verdict {
    let (user, groups) = requester(request);
    let Some(node) = user.strip_prefix(NODE_USER) else {
        return Verdict::Wait;
    };
    if user != asked.common_name || !groups.iter().any(|g| g == NODES_GROUP) {
        return Verdict::Wait;
    }
    let names = asked.dns_names.iter().cloned();
    let all = names.chain(asked.addresses.iter().map(ToString::to_string));
    if let Some(taken) = all.into_iter().find(|n| certifier.is_reserved(n)) {
        return Verdict::Deny("NameReserved", format!("{taken} is a name of the API server"));
    }
    if asked.dns_names.iter().any(|n| n != node) {
        return Verdict::Wait;
    }
    let nodes = view.list(&NODES, "");
    let mut theirs = nodes.iter().filter(|n| n.name() != node);
    let has = |addresses: &[IpAddr], ip: &IpAddr| addresses.contains(ip);
    let own = view.get(&NODES, "", node).map(|n| addresses(&n)).unwrap_or_default();
    if asked.addresses.iter().any(|ip| !has(&own, ip)) {
        return Verdict::Wait;
    }
    let rival = theirs.find(|n| asked.addresses.iter().any(|ip| has(&addresses(n), ip)));
    if let Some(rival) = rival {
        return Verdict::Deny("AddressTaken", format!("node {:?} has the same address", rival.name()));
    }
    Verdict::Approve("Auto approving kubelet serving certificate for the node's own names.".into())
}

/// The addresses that a node has reported.
fn addresses(node: &meta::Object) -> Vec<IpAddr> {
    let Ok(node) = node.view::<Node>() else {
        return Vec::new();
    };
    let all = node.status.iter().flat_map(|s| s.addresses.iter().flatten());
    all.filter(|a| a.type_ == "InternalIP" || a.type_ == "ExternalIP")
        .filter_map(|a| a.address.parse().ok())
        .collect()
}
