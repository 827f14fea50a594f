//! ServiceCIDR and IPAddress: the addresses of Services.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::networking::v1;
use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::Value;

use crate::check::{self, IMMUTABLE, immutable, named, required_name};
use crate::columns::{AGE, age, column};
use crate::edit::{items, text};
use crate::plain::names as kind_names;
use crate::schemas::typed;
use crate::{Cell, Declared, Strategy};

/// The kinds of this file.
pub(super) fn kinds() -> Vec<Declared> {
    vec![
        kind_names(super::GROUP, "v1", "ServiceCIDR", "servicecidrs", "servicecidr", &[])
            .with(
                typed::<v1::ServiceCIDR>,
                const { &[column("CIDRs", "string"), AGE] },
                &Range,
            )
            .cluster()
            .status(),
        kind_names(super::GROUP, "v1", "IPAddress", "ipaddresses", "ipaddress", &["ip"])
            .with(
                typed::<v1::IPAddress>,
                const { &[column("ParentRef", "string")] },
                &Address,
            )
            .cluster()
            .fields(&["spec.parentRef.resource", "spec.parentRef.name"]),
    ]
}

struct Range;
struct Address;

fn ranges(object: &Value) -> Vec<&str> {
    items(&object["spec"], "cidrs").filter_map(Value::as_str).collect()
}

impl Strategy for Range {
    fn validate_create(&self, range: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (list, at) = (ranges(range), Path::new("spec").child("cidrs"));
        let families: Vec<bool> = list
            .iter()
            .enumerate()
            .filter_map(|(i, cidr)| check_range(cidr, &at.index(i), &mut errors))
            .collect();
        match list.len() {
            0 => errors.required(&at, "at least one CIDR required"),
            1 => {}
            2 if families.len() == 2 && families[0] == families[1] => errors.invalid(
                &at,
                &range["spec"]["cidrs"],
                "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/96",
            ),
            2 => {}
            _ => errors.invalid(&at, &range["spec"]["cidrs"], "may only hold up to 2 values"),
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(new);
        let (is, was) = (ranges(new), ranges(old));
        let at = Path::new("spec").child("cidrs");
        // A second family may be added, and nothing else.
        if is.len() == was.len() || (was.len() == 1 && is.len() == 2) {
            for (i, (is, was)) in is.iter().zip(&was).enumerate() {
                if is != was {
                    errors.invalid(&at.index(i), quoted(is), IMMUTABLE);
                }
            }
        } else {
            errors.invalid(&at, &new["spec"]["cidrs"], IMMUTABLE);
        }
        errors
    }

    fn row(&self, range: &Value, now: Timestamp) -> Vec<Cell> {
        vec![ranges(range).join(",").into(), age(range, now)]
    }
}

/// Whether it is of IPv6.
fn check_range(cidr: &str, at: &Path, errors: &mut ErrorList) -> Option<bool> {
    let (address, bits) = check::cidr(cidr, at, errors)?;
    let base = check::network(address, bits);
    let canonical = format!("{base}/{bits}");
    if base != address {
        errors.invalid(at, quoted(cidr), "must not have bits set beyond the prefix length");
    } else if canonical != cidr {
        errors.invalid(
            at,
            quoted(cidr),
            format!("must be in canonical form ({})", quoted(&canonical)),
        );
    }
    Some(address.is_ipv6())
}

impl Strategy for Address {
    fn validate_create(&self, address: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (parent, at) = (&address["spec"]["parentRef"], Path::new("spec").child("parentRef"));
        if !parent.is_object() {
            errors.required(&at, "");
            return errors;
        }
        let group = text(parent, "group");
        if !group.is_empty() {
            named(group, names::dns1123_subdomain, &at.child("group"), &mut errors);
        }
        for field in ["resource", "name"] {
            required_name(parent, field, names::path_segment, &at, &mut errors);
        }
        let namespace = text(parent, "namespace");
        named(namespace, names::path_segment, &at.child("namespace"), &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(new);
        let at = Path::new("spec").child("parentRef");
        immutable(&new["spec"]["parentRef"], &old["spec"]["parentRef"], &at, &mut errors);
        errors
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        match name.parse::<IpAddr>() {
            Ok(ip) if ip.to_string() == name => Vec::new(),
            Ok(_) => vec!["must be a canonical format IP address".to_owned()],
            Err(_) => vec![format!("ParseAddr({}): unable to parse IP", quoted(name))],
        }
    }

    fn row(&self, address: &Value, _: Timestamp) -> Vec<Cell> {
        let parent = &address["spec"]["parentRef"];
        if !parent.is_object() {
            return vec!["<none>".into()];
        }
        let mut shown = text(parent, "resource").to_lowercase();
        for (mark, field) in [(".", "group"), ("/", "namespace")] {
            if !text(parent, field).is_empty() {
                shown.push_str(mark);
                shown.push_str(text(parent, field));
            }
        }
        vec![format!("{shown}/{}", text(parent, "name")).into()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::expect;
    use serde_json::json;

    #[test]
    fn ranges_of_services() {
        let range = |cidrs: Value| json!({"spec": {"cidrs": cidrs}});
        let good = range(json!(["10.96.0.0/16"]));
        assert!(Range.validate_create(&good).is_empty());
        for (cidrs, words) in [
            (json!([]), "spec.cidrs: Required value: at least one CIDR required"),
            (
                json!(["10.0.0.0/8", "11.0.0.0/8"]),
                "may specify no more than one IP for each IP family",
            ),
            (
                json!(["10.0.0.1/8"]),
                "spec.cidrs[0]: Invalid value: \"10.0.0.1/8\": must not have bits set beyond the prefix length",
            ),
            (json!(["FD00::/64"]), "must be in canonical form (\"fd00::/64\")"),
        ] {
            expect(&Range.validate_create(&range(cidrs)), words);
        }
        assert!(
            Range
                .validate_update(&range(json!(["10.96.0.0/16", "fd00::/108"])), &good)
                .is_empty()
        );
        expect(
            &Range.validate_update(&range(json!(["10.97.0.0/16"])), &good),
            "field is immutable",
        );
    }

    #[test]
    fn one_address() {
        let address = json!({"spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "web"}}});
        assert!(Address.validate_create(&address).is_empty());
        assert_eq!(
            Address.row(&address, Timestamp::UNIX_EPOCH),
            [json!("services/default/web")]
        );
        expect(
            &Address.validate_create(&json!({"spec": {}})),
            "spec.parentRef: Required value",
        );
        assert!(Address.validate_name("10.96.0.1").is_empty() && !Address.validate_name("web").is_empty());
    }
}
