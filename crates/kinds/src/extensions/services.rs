//! APIService: a group and version of the API that another server answers.

use jiff::Timestamp;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1;
use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::Value;

use crate::check::{has, named, required};
use crate::columns::{AGE, age, column};
use crate::edit::{default, int, items, text};
use crate::plain::names as kind_names;
use crate::schemas::typed;
use crate::{Cell, Context, Declared, Strategy};

/// The kind.
pub(super) fn kind() -> Declared {
    Declared {
        categories: &["api-extensions"],
        ..kind_names(
            "apiregistration.k8s.io",
            "v1",
            "APIService",
            "apiservices",
            "apiservice",
            &[],
        )
        .with(
            typed::<v1::APIService>,
            const { &[column("Service", "string"), column("Available", "string"), AGE] },
            &ApiService,
        )
        .cluster()
        .status()
    }
}

struct ApiService;

impl Strategy for ApiService {
    fn prepare_create(&self, _: &Context<'_>, service: &mut Value) {
        // What this server answers itself is there at once.
        if service["spec"].is_object() && !has(&service["spec"], "service") {
            let status = serde_json::json!({"conditions": [{
                "type": "Available", "status": "True", "reason": "Local",
                "message": "Local APIServices are always available",
            }]});
            crate::edit::set(service, "status", status);
        }
    }

    fn default(&self, service: &mut Value) {
        if let Some(reference) = service.pointer_mut("/spec/service").filter(|s| s.is_object()) {
            default(reference, "port", 443);
        }
    }

    fn validate_create(&self, service: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&service["spec"], Path::new("spec"));
        let (group, version) = (text(spec, "group"), text(spec, "version"));
        let name = text(&service["metadata"], "name");
        let wanted = format!("{version}.{group}");
        if name != wanted {
            let words = format!("must be `spec.version+\".\"+spec.group`: {}", quoted(&wanted));
            errors.invalid(&Path::new("metadata").child("name"), quoted(name), words);
        }
        if group.is_empty() && version != "v1" {
            let words = "only v1 may have an empty group and it better be legacy kube";
            errors.required(&path.child("group"), words);
        }
        if !group.is_empty() {
            named(group, names::dns1123_subdomain, &path.child("group"), &mut errors);
        }
        named(version, names::dns1035_label, &path.child("version"), &mut errors);
        for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
            let n = int(spec, &format!("/{field}"));
            if !(1..=most).contains(&n) {
                errors.invalid(&path.child(field), n, format!("must be positive and less than {most}"));
            }
        }
        check_service(spec, &path, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, _: &Value) -> ErrorList {
        self.validate_create(new)
    }

    fn validate_status_update(&self, new: &Value, _: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for (i, condition) in items(&new["status"], "conditions").enumerate() {
            let status = text(condition, "status");
            if !["True", "False", "Unknown"].contains(&status) {
                let at = Path::new("status").child("conditions").index(i).child("status");
                errors.not_supported(&at, status, &["True", "False", "Unknown"]);
            }
        }
        errors
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        // The core group's services are `v1.`, which is no subdomain.
        names::path_segment(name)
    }

    fn row(&self, service: &Value, now: Timestamp) -> Vec<Cell> {
        let reference = &service["spec"]["service"];
        let target = if reference.is_object() {
            format!("{}/{}", text(reference, "namespace"), text(reference, "name"))
        } else {
            "Local".to_owned()
        };
        let condition = items(&service["status"], "conditions").find(|c| text(c, "type") == "Available");
        let available = match condition.map(|c| (text(c, "status"), text(c, "reason"))) {
            None => "Unknown".to_owned(),
            Some(("True", _)) => "True".to_owned(),
            Some((status, reason)) => format!("{status} ({reason})"),
        };
        vec![target.into(), available.into(), age(service, now)]
    }
}

fn check_service(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let bundle = !text(spec, "caBundle").is_empty();
    let insecure = spec["insecureSkipTLSVerify"] == true;
    if !has(spec, "service") {
        if bundle {
            let words = "local APIServices may not have a caBundle";
            let size = quoted(&format!("{} bytes", text(spec, "caBundle").len() / 4 * 3));
            errors.invalid(&path.child("caBundle"), size, words);
        }
        if insecure {
            let words = "local APIServices may not have insecureSkipTLSVerify";
            errors.invalid(&path.child("insecureSkipTLSVerify"), true, words);
        }
        return;
    }
    let (service, at) = (&spec["service"], path.child("service"));
    required(service, "namespace", &at, errors);
    required(service, "name", &at, errors);
    let port = service["port"].as_i64().unwrap_or(443);
    if !(1..=65_535).contains(&port) {
        let words = format!("port is not valid: {}", crate::check::PORT_RANGE);
        errors.invalid(&at.child("port"), port, words);
    }
    if bundle && insecure {
        errors.invalid(
            &path.child("insecureSkipTLSVerify"),
            true,
            "may not be true if caBundle is present",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::expect;
    use serde_json::json;

    #[test]
    fn services() {
        let mut good = json!({"metadata": {"name": "v1.example.com"}, "spec": {"group": "example.com", "version": "v1",
            "groupPriorityMinimum": 100, "versionPriority": 10, "service": {"namespace": "n", "name": "s"}}});
        ApiService.default(&mut good);
        assert_eq!(good["spec"]["service"]["port"], 443);
        assert!(ApiService.validate_create(&good).is_empty());
        let row = ApiService.row(&good, Timestamp::UNIX_EPOCH);
        assert_eq!(row[..2], [json!("n/s"), json!("Unknown")]);
        for (pointer, value, words) in [
            (
                "/metadata/name",
                json!("v1.x"),
                "metadata.name: Invalid value: \"v1.x\": must be `spec.version+\".\"+spec.group`: \"v1.example.com\"",
            ),
            (
                "/spec/versionPriority",
                json!(0),
                "spec.versionPriority: Invalid value: 0: must be positive and less than 1000",
            ),
            ("/spec/service/name", json!(""), "spec.service.name: Required value"),
            (
                "/spec/service/port",
                json!(0),
                "spec.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive",
            ),
        ] {
            let mut service = good.clone();
            *service.pointer_mut(pointer).unwrap() = value;
            expect(&ApiService.validate_update(&service, &good), words);
        }
        let mut local = good.clone();
        local["spec"]["service"] = Value::Null;
        local["spec"]["insecureSkipTLSVerify"] = true.into();
        expect(
            &ApiService.validate_create(&local),
            "local APIServices may not have insecureSkipTLSVerify",
        );
    }
}
