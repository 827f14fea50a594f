//! Checks of a VirtualMachineInstanceSpec: that its parts name each other.

use std::collections::BTreeSet;

use meta::field::{ErrorList, Path, quoted};
use meta::{Quantity, names};
use serde_json::Value;

use crate::edit::{items, text};

/// Kinds of instancetypes and preferences are not served: whoever names one would get a machine
/// without it.
pub(super) fn references(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let fields = [
        (
            "instancetype",
            "virtualmachineinstancetype",
            "virtualmachineclusterinstancetype",
        ),
        (
            "preference",
            "virtualmachinepreference",
            "virtualmachineclusterpreference",
        ),
    ];
    for (field, namespaced, cluster) in fields {
        let Some(reference) = spec.get(field).filter(|r| r.is_object()) else {
            continue;
        };
        let kind = text(reference, "kind").to_lowercase();
        let kind = if kind.trim_end_matches('s') == namespaced {
            namespaced
        } else {
            cluster
        };
        let (at, name) = (path.child(field), text(reference, "name"));
        let inferred = text(reference, "inferFromVolume");
        let why = if inferred.is_empty() {
            format!("Failure to find {field}: {kind}s.instancetype.kubevirt.io {name:?} not found")
        } else {
            format!("Failure to find {field}: unable to infer it from volume {inferred}")
        };
        errors.invalid(&at, quoted(if name.is_empty() { inferred } else { name }), why);
    }
}

/// Checks a spec.
pub(super) fn validate(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let domain = path.child("domain");
    let devices = domain.child("devices");
    let volumes = unique_names(spec, "volumes", path, errors);
    let networks = unique_names(spec, "networks", path, errors);
    let empty = Value::Null;
    let given = spec.pointer("/domain/devices").unwrap_or(&empty);
    for (i, disk) in items(given, "disks").enumerate() {
        let at = devices.child("disks").index(i).child("name");
        let name = text(disk, "name");
        if !volumes.contains(name) {
            let words = format!("{at} '{name}' not found.");
            errors.invalid(&at, quoted(name), words);
        }
    }
    unique_names(given, "disks", &devices, errors);
    let interfaces = unique_names(given, "interfaces", &devices, errors);
    for (i, interface) in items(given, "interfaces").enumerate() {
        let name = text(interface, "name");
        if !networks.contains(name) {
            let at = devices.child("interfaces").index(i).child("name");
            let words = format!("{at} '{name}' not found.");
            errors.invalid(&at, quoted(name), words);
        }
    }
    for (i, network) in items(spec, "networks").enumerate() {
        let name = text(network, "name");
        if !interfaces.contains(name) {
            let at = path.child("networks").index(i).child("name");
            let words = format!("{at} '{name}' not found.");
            errors.invalid(&at, quoted(name), words);
        }
    }
    validate_sizes(spec, &domain, errors);
    for (i, volume) in items(spec, "volumes").enumerate() {
        let sources = volume
            .as_object()
            .map_or(0, |v| v.keys().filter(|k| *k != "name").count());
        if sources != 1 {
            let at = path.child("volumes").index(i);
            errors.invalid(
                &at,
                quoted(text(volume, "name")),
                format!("{at} must have exactly one source type set"),
            );
        }
    }
}

fn unique_names<'a>(parent: &'a Value, field: &str, path: &Path, errors: &mut ErrorList) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    for (i, item) in items(parent, field).enumerate() {
        let at = path.child(field).index(i).child("name");
        let name = text(item, "name");
        for message in names::dns1123_label(name) {
            errors.invalid(&at, quoted(name), message);
        }
        if !seen.insert(name) {
            errors.duplicate(&at, quoted(name));
        }
    }
    seen
}

fn validate_sizes(spec: &Value, domain: &Path, errors: &mut ErrorList) {
    let amount = |pointer: &str| -> Option<Result<Quantity, String>> {
        let value = spec.pointer(pointer)?;
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Some(text.parse().map_err(|_| text))
    };
    for (pointer, field) in [
        ("/domain/memory/guest", "memory.guest"),
        ("/domain/resources/requests/memory", "resources.requests.memory"),
        ("/domain/resources/limits/memory", "resources.limits.memory"),
    ] {
        let at = domain.child(field);
        match amount(pointer) {
            Some(Err(text)) => errors.invalid(&at, quoted(&text), "must be a quantity such as 512Mi"),
            Some(Ok(q)) if q.value() < 1 << 20 => {
                errors.invalid(
                    &at,
                    quoted(&q.to_string()),
                    format!("{at} must be greater than or equal to 1Mi"),
                );
            }
            _ => {}
        }
    }
    for field in ["cores", "sockets", "threads"] {
        let value = spec.pointer(&format!("/domain/cpu/{field}")).and_then(Value::as_i64);
        if let Some(n) = value.filter(|n| !(1..=288).contains(n)) {
            errors.invalid(&domain.child("cpu").child(field), n, "must be between 1 and 288");
        }
    }
}
