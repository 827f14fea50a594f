//! EndpointSlice.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::discovery::v1;
use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::Value;

use crate::check::{self, any, has, must_be_one_of, named};
use crate::columns::{AGE, age, column, some_of};
use crate::edit::{default, default_text, items, items_mut, text};
use crate::plain::names as kind_names;
use crate::schemas::typed;
use crate::{Cell, Declared, Strategy};

/// The kind.
pub(super) fn kind() -> Declared {
    kind_names(
        "discovery.k8s.io",
        "v1",
        "EndpointSlice",
        "endpointslices",
        "endpointslice",
        &[],
    )
    .with(
        typed::<v1::EndpointSlice>,
        const {
            &[
                column("AddressType", "string"),
                column("Ports", "string"),
                column("Endpoints", "string"),
                AGE,
            ]
        },
        &Slice,
    )
}

struct Slice;

const MOST_ENDPOINTS: usize = 1000;
const MOST_ADDRESSES: usize = 100;
const MOST_PORTS: usize = 20_000;
const MOST_HINTS: usize = 8;

impl Strategy for Slice {
    fn default(&self, slice: &mut Value) {
        for port in items_mut(slice, "ports") {
            default(port, "name", "");
            default_text(port, "protocol", "TCP");
        }
    }

    fn validate_create(&self, slice: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        must_be_one_of(
            slice,
            "addressType",
            &["FQDN", "IPv4", "IPv6"],
            &Path::root(),
            &mut errors,
        );
        let path = Path::new("endpoints");
        let n = items(slice, "endpoints").count();
        if n > MOST_ENDPOINTS {
            errors.too_many(&path, n, MOST_ENDPOINTS);
            return errors;
        }
        for (i, endpoint) in items(slice, "endpoints").enumerate() {
            let kind = text(slice, "addressType");
            check_endpoint(endpoint, kind, is_server(slice), &path.index(i), &mut errors);
        }
        check_ports(slice, &Path::new("ports"), &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(new);
        let at = Path::new("addressType");
        check::immutable(&new["addressType"], &old["addressType"], &at, &mut errors);
        errors
    }

    fn row(&self, slice: &Value, now: Timestamp) -> Vec<Cell> {
        let port = |p: &Value| match p["port"].as_i64() {
            Some(n) => n.to_string(),
            None if has(p, "name") => text(p, "name").to_owned(),
            None => "*".to_owned(),
        };
        let ports = items(slice, "ports").map(port).collect();
        let addresses = items(slice, "endpoints").flat_map(|e| items(e, "addresses"));
        let addresses = addresses.filter_map(Value::as_str).map(str::to_owned).collect();
        vec![
            text(slice, "addressType").into(),
            some_of(ports, "<unset>").into(),
            some_of(addresses, "<unset>").into(),
            age(slice, now),
        ]
    }
}

/// Whether these are the addresses of this server, which may listen on loopback alone.
pub(crate) fn is_server(endpoints: &Value) -> bool {
    let metadata = &endpoints["metadata"];
    text(metadata, "namespace") == "default" && text(metadata, "name") == "kubernetes"
}

fn check_endpoint(endpoint: &Value, kind: &str, server: bool, at: &Path, errors: &mut ErrorList) {
    let place = at.child("addresses");
    match items(endpoint, "addresses").count() {
        0 => errors.required(&place, "must contain at least 1 address"),
        n if n > MOST_ADDRESSES => errors.too_many(&place, n, MOST_ADDRESSES),
        _ => {}
    }
    for (i, address) in items(endpoint, "addresses").enumerate() {
        let address = address.as_str().unwrap_or_default();
        check_address(address, kind, server, &place.index(i), errors);
    }
    if has(endpoint, "nodeName") {
        let at = at.child("nodeName");
        named(text(endpoint, "nodeName"), names::dns1123_subdomain, &at, errors);
    }
    if has(endpoint, "hostname") {
        let at = at.child("hostname");
        named(text(endpoint, "hostname"), names::dns1123_label, &at, errors);
    }
    check::labels(&endpoint["deprecatedTopology"], &at.child("deprecatedTopology"), errors);
    if any(&endpoint["hints"], "forZones") {
        let at = at.child("hints").child("forZones");
        let zones: Vec<&str> = items(&endpoint["hints"], "forZones").map(|z| text(z, "name")).collect();
        if zones.len() > MOST_HINTS {
            return errors.too_many(&at, zones.len(), MOST_HINTS);
        }
        let mut seen = BTreeSet::new();
        for (i, zone) in zones.iter().enumerate() {
            if !seen.insert(zone) {
                errors.duplicate(&at.index(i), quoted(zone));
            }
            named(zone, names::label_value, &at.index(i), errors);
        }
    }
}

fn check_address(address: &str, kind: &str, server: bool, at: &Path, errors: &mut ErrorList) {
    if kind == "FQDN" {
        return named(address, names::dns1123_subdomain, at, errors);
    }
    let Some(ip) = check::ip(address, at, errors) else {
        return;
    };
    match kind {
        "IPv4" if ip.is_ipv6() => errors.invalid(at, quoted(address), "must be an IPv4 address"),
        "IPv6" if ip.is_ipv4() => errors.invalid(at, quoted(address), "must be an IPv6 address"),
        _ => {}
    }
    if !(server && ip.is_loopback()) {
        check_special(ip, at, errors);
    }
}

/// Addresses that no endpoint can have.
pub(crate) fn check_special(ip: IpAddr, at: &Path, errors: &mut ErrorList) {
    let (link, multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    let shown = quoted(&ip.to_string());
    for (wrong, words) in [
        (ip.is_unspecified(), format!("may not be unspecified ({shown})")),
        (
            ip.is_loopback(),
            "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned(),
        ),
        (
            link,
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned(),
        ),
        (
            multicast,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned(),
        ),
    ] {
        if wrong {
            errors.invalid(at, &shown, words);
        }
    }
}

fn check_ports(slice: &Value, path: &Path, errors: &mut ErrorList) {
    let n = items(slice, "ports").count();
    if n > MOST_PORTS {
        return errors.too_many(path, n, MOST_PORTS);
    }
    let mut seen = BTreeSet::new();
    for (i, port) in items(slice, "ports").enumerate() {
        let at = path.index(i);
        let name = text(port, "name");
        if !name.is_empty() {
            named(name, names::dns1123_label, &at.child("name"), errors);
        }
        if !seen.insert(name) {
            errors.duplicate(&at.child("name"), quoted(name));
        }
        must_be_one_of(port, "protocol", &["SCTP", "TCP", "UDP"], &at, errors);
        if has(port, "port") {
            check::port(&port["port"], &at.child("port"), errors);
        }
        if has(port, "appProtocol") {
            let at = at.child("appProtocol");
            named(text(port, "appProtocol"), names::qualified_name, &at, errors);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::expect;
    use serde_json::json;

    #[test]
    fn slices() {
        let mut good =
            json!({"addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": ["10.0.0.1"]}]});
        Slice.default(&mut good);
        assert_eq!(good["ports"][0], json!({"name": "", "port": 80, "protocol": "TCP"}));
        assert!(Slice.validate_create(&good).is_empty());
        assert_eq!(
            Slice.row(&good, Timestamp::UNIX_EPOCH)[..3],
            [json!("IPv4"), json!("80"), json!("10.0.0.1")]
        );
        for (pointer, value, words) in [
            (
                "/addressType",
                json!("IP"),
                "addressType: Unsupported value: \"IP\": supported values: \"FQDN\", \"IPv4\", \"IPv6\"",
            ),
            (
                "/endpoints/0/addresses",
                json!([]),
                "endpoints[0].addresses: Required value: must contain at least 1 address",
            ),
            ("/endpoints/0/addresses", json!(["fd00::1"]), "must be an IPv4 address"),
            (
                "/endpoints/0/addresses",
                json!(["127.0.0.1"]),
                "may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ),
            (
                "/ports/0/protocol",
                json!("X"),
                "ports[0].protocol: Unsupported value: \"X\"",
            ),
            (
                "/ports/0/port",
                json!(70000),
                "ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ),
        ] {
            let mut slice = good.clone();
            *slice.pointer_mut(pointer).unwrap() = value;
            expect(&Slice.validate_create(&slice), words);
        }
        let mut other = good.clone();
        other["addressType"] = "IPv6".into();
        expect(
            &Slice.validate_update(&other, &good),
            "addressType: Invalid value: \"IPv6\": field is immutable",
        );
    }
}
