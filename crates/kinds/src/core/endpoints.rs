//! Endpoints.

use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use meta::field::{ErrorList, Path};
use meta::names;
use serde_json::Value;

use crate::check::{self, any, must_be_one_of, named};
use crate::columns::{AGE, age, column, some_of};
use crate::edit::{default_text, items, items_mut, text};
use crate::networking::{check_special, is_server};
use crate::schemas::typed;
use crate::{Cell, Declared, Strategy};

/// The kind.
pub(super) fn kind() -> Declared {
    super::core_kind("Endpoints", "endpoints", "endpoints", &["ep"]).with(
        typed::<v1::Endpoints>,
        const { &[column("Endpoints", "string"), AGE] },
        &Endpoints,
    )
}

struct Endpoints;

impl Strategy for Endpoints {
    fn default(&self, endpoints: &mut Value) {
        for subset in items_mut(endpoints, "subsets") {
            items_mut(subset, "ports").for_each(|p| default_text(p, "protocol", "TCP"));
        }
    }

    fn validate_create(&self, endpoints: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for (i, subset) in items(endpoints, "subsets").enumerate() {
            let at = Path::new("subsets").index(i);
            if !any(subset, "addresses") && !any(subset, "notReadyAddresses") {
                errors.required(&at, "must specify `addresses` or `notReadyAddresses`");
            }
            for field in ["addresses", "notReadyAddresses"] {
                for (n, address) in items(subset, field).enumerate() {
                    let server = is_server(endpoints);
                    check_address(address, server, &at.child(field).index(n), &mut errors);
                }
            }
            let several = items(subset, "ports").count() > 1;
            for (n, port) in items(subset, "ports").enumerate() {
                let at = at.child("ports").index(n);
                match text(port, "name") {
                    "" if several => errors.required(&at.child("name"), ""),
                    "" => {}
                    name => named(name, names::dns1123_label, &at.child("name"), &mut errors),
                }
                check::port(&port["port"], &at.child("port"), &mut errors);
                must_be_one_of(port, "protocol", &["SCTP", "TCP", "UDP"], &at, &mut errors);
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, _: &Value) -> ErrorList {
        self.validate_create(new)
    }

    fn warnings(&self, _: &Value) -> Vec<String> {
        vec!["v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".to_owned()]
    }

    fn row(&self, endpoints: &Value, now: Timestamp) -> Vec<Cell> {
        let mut all = Vec::new();
        for subset in items(endpoints, "subsets") {
            let addresses = || items(subset, "addresses").map(|a| text(a, "ip"));
            if !any(subset, "ports") {
                all.extend(addresses().map(str::to_owned));
            }
            for port in items(subset, "ports").filter_map(|p| p["port"].as_i64()) {
                all.extend(addresses().map(|ip| {
                    if ip.contains(':') {
                        format!("[{ip}]:{port}")
                    } else {
                        format!("{ip}:{port}")
                    }
                }));
            }
        }
        vec![some_of(all, "<none>").into(), age(endpoints, now)]
    }
}

fn check_address(address: &Value, server: bool, at: &Path, errors: &mut ErrorList) {
    if let Some(ip) = check::ip(text(address, "ip"), &at.child("ip"), errors)
        && !(server && ip.is_loopback())
    {
        check_special(ip, &at.child("ip"), errors);
    }
    for (field, problems) in [
        ("hostname", names::dns1123_label as fn(&str) -> Vec<String>),
        ("nodeName", names::dns1123_subdomain),
    ] {
        let value = text(address, field);
        if !value.is_empty() {
            named(value, problems, &at.child(field), errors);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::expect;
    use serde_json::json;

    #[test]
    fn endpoints() {
        let mut good =
            json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "ports": [{"port": 80}]}]});
        Endpoints.default(&mut good);
        assert_eq!(good["subsets"][0]["ports"][0]["protocol"], "TCP");
        assert!(Endpoints.validate_create(&good).is_empty());
        assert_eq!(
            Endpoints.row(&good, Timestamp::UNIX_EPOCH)[0],
            "10.0.0.1:80,[fd00::1]:80"
        );
        let bad =
            json!({"subsets": [{}, {"addresses": [{"ip": "169.254.1.1"}], "ports": [{"port": 1, "protocol": "X"}]}]});
        let errors = Endpoints.validate_create(&bad);
        expect(
            &errors,
            "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`",
        );
        expect(
            &errors,
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        );
        expect(&errors, "subsets[1].ports[0].protocol: Unsupported value: \"X\"");
    }
}
