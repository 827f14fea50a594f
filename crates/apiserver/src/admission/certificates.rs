//! Requests for certificates: who asked is what the server knows, not what is written in the
//! request; nobody gets into `system:masters` by one, and only signers sign.

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as B64;
use meta::Status;
use meta::field::{ErrorList, Path};
use serde_json::{Value, json};

use super::{Admission, Attributes, Operation};
use crate::auth::Access;
use crate::core::Core;
use crate::identity::MASTERS;

const GROUP: &str = "certificates.k8s.io";
const KIND: &str = "CertificateSigningRequest";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Shortest life that may be asked for, seconds.
const SHORTEST: i64 = 600;
/// What certificates may be used for.
const USAGES: [&str; 23] = [
    "signing",
    "digital signature",
    "content commitment",
    "key encipherment",
    "key agreement",
    "data encipherment",
    "cert sign",
    "crl sign",
    "encipher only",
    "decipher only",
    "any",
    "server auth",
    "client auth",
    "code signing",
    "email protection",
    "s/mime",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "timestamping",
    "ocsp signing",
    "microsoft sgc",
    "netscape sgc",
];

/// See the module. Upstream has this in the strategy and two plug-ins.
pub(super) struct Certificates;

#[async_trait]
impl Admission for Certificates {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        a.kind().group == GROUP && a.kind().kind == KIND && matches!(a.operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, _core: &Core, a: &mut Attributes<'_>) -> Result<(), Status> {
        if let Some(old) = a.old {
            // What was asked does not change while it is decided upon.
            a.object["spec"] = old["spec"].clone();
            return Ok(());
        }
        let user = &a.call.user;
        let Some(spec) = a.object.get_mut("spec").and_then(Value::as_object_mut) else {
            return Ok(());
        };
        spec.insert("username".into(), user.name.as_str().into());
        spec.insert("groups".into(), json!(user.groups));
        spec.remove("uid");
        spec.remove("extra");
        if !user.uid.is_empty() {
            spec.insert("uid".into(), user.uid.as_str().into());
        }
        if !user.extra.is_empty() {
            spec.insert("extra".into(), json!(user.extra));
        }
        Ok(())
    }

    async fn validate(&self, core: &Core, a: &mut Attributes<'_>) -> Result<(), Status> {
        let signer = a.object["spec"]["signerName"].as_str().unwrap_or_default().to_owned();
        let Some(old) = a.old else {
            let mut errors = ErrorList::new();
            let request = check(&a.object["spec"], &mut errors);
            if !errors.is_empty() {
                return Err(Status::invalid(GROUP, KIND, a.target.name, &errors));
            }
            if signer == CLIENT && request.is_some_and(|r| r.organisations.iter().any(|o| o == MASTERS)) {
                return Err(a
                    .target
                    .forbidden(format!("use of {CLIENT} signer with {MASTERS} group is not allowed")));
            }
            return Ok(());
        };
        let signed = |object: &Value| object["status"]["certificate"].clone();
        if a.target.subresource == "status" && signed(&a.object) != signed(old) {
            let domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
            let may = |name: &str| {
                let access = Access {
                    verb: "sign",
                    group: GROUP,
                    resource: "signers",
                    name,
                    ..Access::default()
                };
                core.decide(&a.call.user, &access).allows()
            };
            if !may(&signer) && !may(&domain) {
                return Err(a.target.forbidden(format!(
                    "user not permitted to sign requests with signerName {signer:?}"
                )));
            }
        }
        Ok(())
    }
}

/// What upstream demands of every request; the request itself, if it can be read.
fn check(spec: &Value, errors: &mut ErrorList) -> Option<pki::Request> {
    let path = Path::new("spec");
    let text = spec["request"].as_str().unwrap_or_default();
    let pem = B64.decode(text).ok().and_then(|b| String::from_utf8(b).ok());
    let request = match pki::read_request(pem.as_deref().unwrap_or_default()) {
        Ok(request) => Some(request),
        Err(error) => {
            errors.invalid(&path.child("request"), "", error.to_string());
            None
        }
    };
    let usages: Vec<&str> = spec["usages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if usages.is_empty() {
        errors.required(&path.child("usages"), "");
    }
    for (i, usage) in usages.iter().enumerate() {
        if !USAGES.contains(usage) {
            errors.not_supported(&path.child("usages").index(i), usage, &USAGES);
        } else if usages[..i].contains(usage) {
            errors.duplicate(&path.child("usages").index(i), usage);
        }
    }
    let signer = spec["signerName"].as_str().unwrap_or_default();
    let at = path.child("signerName");
    if signer.is_empty() {
        errors.required(&at, "");
    } else if !qualified(signer) {
        let message = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.invalid(&at, signer, message);
    }
    if let Some(seconds) = spec["expirationSeconds"].as_i64().filter(|s| *s < SHORTEST) {
        let message = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.invalid(&path.child("expirationSeconds"), seconds, message);
    }
    request
}

fn qualified(signer: &str) -> bool {
    signer.split_once('/').is_some_and(|(domain, path)| {
        domain.contains('.')
            && meta::names::dns1123_subdomain(domain).is_empty()
            && !path.is_empty()
            && path.split('/').all(|p| meta::names::dns1123_subdomain(p).is_empty())
    })
}
