//! DeviceClass, ResourceClaim and ResourceClaimTemplate.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::resource::v1;
use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::Value;

use super::configuration::{check_config, check_selectors};
use super::requests::{check_claim, default_claim};
use crate::check::{any, has, immutable, required, required_name};
use crate::columns::{AGE, age, column};
use crate::edit::{items, object, text};
use crate::plain::names as kind_names;
use crate::schemas::typed;
use crate::{Cell, Declared, Strategy, Subresource};

/// The kinds of this file.
pub(super) fn kinds() -> Vec<Declared> {
    let age_only = const { &[AGE] };
    vec![
        kind_names(super::GROUP, "v1", "DeviceClass", "deviceclasses", "deviceclass", &[])
            .with(typed::<v1::DeviceClass>, age_only, &Class)
            .cluster(),
        Declared {
            subresources: const { &[Subresource::Status] },
            ..kind_names(
                super::GROUP,
                "v1",
                "ResourceClaim",
                "resourceclaims",
                "resourceclaim",
                &[],
            )
            .with(
                typed::<v1::ResourceClaim>,
                const { &[column("State", "string"), AGE] },
                &Claim,
            )
        },
        kind_names(
            super::GROUP,
            "v1",
            "ResourceClaimTemplate",
            "resourceclaimtemplates",
            "resourceclaimtemplate",
            &[],
        )
        .with(typed::<v1::ResourceClaimTemplate>, age_only, &Template),
    ]
}

struct Class;
struct Claim;
struct Template;

impl Strategy for Class {
    fn validate_create(&self, class: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&class["spec"], Path::new("spec"));
        check_selectors(spec, &path, &mut errors);
        check_config(spec, None, &path, &mut errors);
        if has(spec, "extendedResourceName") {
            required_name(spec, "extendedResourceName", names::qualified_name, &path, &mut errors);
        }
        errors
    }

    fn validate_update(&self, new: &Value, _: &Value) -> ErrorList {
        self.validate_create(new)
    }

    fn row(&self, class: &Value, now: Timestamp) -> Vec<Cell> {
        vec![age(class, now)]
    }
}

impl Strategy for Claim {
    fn default(&self, claim: &mut Value) {
        if let Some(spec) = object(claim, "spec") {
            default_claim(spec);
        }
    }

    fn validate_create(&self, claim: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_claim(&claim["spec"], &Path::new("spec"), &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(new);
        immutable(&new["spec"], &old["spec"], &Path::new("spec"), &mut errors);
        errors
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_status(new, old, &Path::new("status"), &mut errors);
        errors
    }

    fn row(&self, claim: &Value, now: Timestamp) -> Vec<Cell> {
        let deleted = claim
            .pointer("/metadata/deletionTimestamp")
            .is_some_and(|t| !t.is_null());
        let status = &claim["status"];
        let mut states = Vec::new();
        if deleted {
            states.push("deleted");
        }
        if has(status, "allocation") {
            states.push("allocated");
            if any(status, "reservedFor") {
                states.push("reserved");
            }
        } else if !deleted {
            states.push("pending");
        }
        vec![states.join(",").into(), age(claim, now)]
    }
}

fn check_status(new: &Value, old: &Value, path: &Path, errors: &mut ErrorList) {
    const MOST_CONSUMERS: usize = 256;
    let (status, was) = (&new["status"], &old["status"]);
    let reserved = path.child("reservedFor");
    let consumers = items(status, "reservedFor").count();
    if consumers > MOST_CONSUMERS {
        errors.too_many(&reserved, consumers, MOST_CONSUMERS);
    }
    let mut seen = BTreeSet::new();
    for (i, consumer) in items(status, "reservedFor").enumerate() {
        let at = reserved.index(i);
        for field in ["resource", "name", "uid"] {
            required(consumer, field, &at, errors);
        }
        let uid = text(consumer, "uid");
        if !seen.insert(uid) {
            errors.duplicate(&at.child("uid"), quoted(uid));
        }
    }
    if consumers > 0 && !has(status, "allocation") {
        errors.forbidden(&reserved, "may not be specified when `allocated` is not set");
    }
    let added = items(status, "reservedFor").any(|c| !items(was, "reservedFor").any(|w| w == c));
    let leaving = new.pointer("/metadata/deletionTimestamp").is_some_and(|t| !t.is_null());
    if added && leaving {
        let words = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
        errors.forbidden(&reserved, words);
    }
    if has(was, "allocation") && has(status, "allocation") {
        let at = path.child("allocation");
        immutable(&status["allocation"], &was["allocation"], &at, errors);
    }
}

impl Strategy for Template {
    fn default(&self, template: &mut Value) {
        if let Some(spec) = template.pointer_mut("/spec/spec").filter(|s| s.is_object()) {
            default_claim(spec);
        }
    }

    fn validate_create(&self, template: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec").child("spec");
        check_claim(&template["spec"]["spec"], &path, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(new);
        immutable(&new["spec"], &old["spec"], &Path::new("spec"), &mut errors);
        errors
    }

    fn row(&self, template: &Value, now: Timestamp) -> Vec<Cell> {
        vec![age(template, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::expect;
    use serde_json::json;

    fn claim() -> Value {
        let mut claim = json!({"spec": {"devices": {"requests": [
            {"name": "gpu", "exactly": {"deviceClassName": "gpu.example.com", "tolerations": [{"key": "a"}]}},
            {"name": "nic", "firstAvailable": [{"name": "fast", "deviceClassName": "nic.example.com"}]},
        ]}}});
        Claim.default(&mut claim);
        claim
    }

    #[test]
    fn claims() {
        let good = claim();
        let requests = &good["spec"]["devices"]["requests"];
        assert_eq!(requests[0]["exactly"]["allocationMode"], "ExactCount");
        assert_eq!(requests[0]["exactly"]["count"], 1);
        assert_eq!(requests[0]["exactly"]["tolerations"][0]["operator"], "Equal");
        assert_eq!(requests[1]["firstAvailable"][0]["count"], 1);
        assert!(Claim.validate_create(&good).is_empty());
        assert_eq!(Claim.row(&good, Timestamp::UNIX_EPOCH)[0], "pending");
        let first = "/spec/devices/requests/0";
        for (pointer, value, words) in [
            (
                first,
                json!({"name": "A", "exactly": {}}),
                "spec.devices.requests[0].name: Invalid value: \"A\"",
            ),
            (
                first,
                json!({"name": "a", "exactly": {}}),
                "requests[0].exactly.deviceClassName: Required value",
            ),
            (
                first,
                json!({"name": "a"}),
                "requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
            ),
            (
                first,
                json!({"name": "nic", "exactly": {"deviceClassName": "a"}}),
                "requests[1].name: Duplicate value: \"nic\"",
            ),
            (
                "/spec/devices/requests/0/exactly/count",
                json!(0),
                "count: Invalid value: 0: must be greater than zero",
            ),
            (
                "/spec/devices/requests/0/exactly/allocationMode",
                json!("All"),
                "must not be specified when allocationMode is 'All'",
            ),
        ] {
            let mut claim = good.clone();
            *claim.pointer_mut(pointer).unwrap() = value;
            expect(&Claim.validate_create(&claim), words);
        }
        let mut other = good.clone();
        other["spec"]["devices"]["constraints"] = json!([{"requests": ["cpu"], "matchAttribute": "x"}]);
        let errors = Claim.validate_update(&other, &good);
        expect(
            &errors,
            "constraints[0].requests[0]: Invalid value: \"cpu\": must be the name of a request in the claim",
        );
        expect(&errors, "matchAttribute: Invalid value: \"x\": must include a domain");
        expect(&errors, "field is immutable");
    }

    #[test]
    fn classes_and_states() {
        let class = json!({"spec": {"selectors": [{"cel": {"expression": "true"}}], "config": [{}]}});
        expect(&Class.validate_create(&class), "spec.config[0].opaque: Required value");
        let mut old = claim();
        let mut new = old.clone();
        new["status"] = json!({"reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]});
        expect(
            &Claim.validate_status_update(&new, &old),
            "status.reservedFor: Forbidden: may not be specified when `allocated` is not set",
        );
        old["status"] = json!({"allocation": {"a": 1}});
        new["status"] = json!({"allocation": {"a": 2}});
        expect(
            &Claim.validate_status_update(&new, &old),
            "status.allocation: Invalid value: {\"a\":2}: field is immutable",
        );
    }
}
