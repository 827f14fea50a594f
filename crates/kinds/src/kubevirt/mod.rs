//! kubevirt.io/v1: virtual machines, as users of KubeVirt know them.

mod schema;
mod validation;

use jiff::Timestamp;
use meta::field::{ErrorList, Path};
use serde_json::{Value, json};

use crate::columns::{AGE, age, column, wide};
use crate::edit::{default, default_text, items, items_mut, object, set, text};
use crate::plain::{AGE_ONLY, Names};
use crate::{Cell, Column, Context, Declared, Strategy, Subresource};

/// The kinds of this group.
pub(crate) fn kinds() -> Vec<Declared> {
    let names = |kind, plural, singular, short_names| Names {
        group: "kubevirt.io",
        version: "v1",
        kind,
        plural,
        singular,
        short_names,
    };
    let status = &[Subresource::Status];
    vec![
        Declared {
            categories: &["all"],
            subresources: status,
            ..names("VirtualMachine", "virtualmachines", "virtualmachine", &["vm", "vms"]).with(
                schema::machine,
                MACHINE_COLUMNS,
                &Machine,
            )
        },
        Declared {
            categories: &["all"],
            subresources: status,
            selectable_fields: &["status.phase", "status.nodeName"],
            ..names(
                "VirtualMachineInstance",
                "virtualmachineinstances",
                "virtualmachineinstance",
                &["vmi", "vmis"],
            )
            .with(schema::instance, INSTANCE_COLUMNS, &Instance)
        },
        Declared {
            categories: &["all"],
            subresources: status,
            ..names(
                "VirtualMachineInstanceMigration",
                "virtualmachineinstancemigrations",
                "virtualmachineinstancemigration",
                &["vmim", "vmims"],
            )
            .with(
                schema::migration,
                const { &[column("Phase", "string"), column("VMI", "string"), AGE] },
                &Migration,
            )
        },
        Declared {
            categories: &["all"],
            subresources: status,
            ..names("KubeVirt", "kubevirts", "kubevirt", &["kv", "kvs"]).with(
                schema::kubevirt,
                const { &[AGE] },
                &AGE_ONLY,
            )
        },
    ]
}

const MACHINE_COLUMNS: &[Column] = &[AGE, column("Status", "string"), column("Ready", "string")];
const INSTANCE_COLUMNS: &[Column] = &[
    AGE,
    column("Phase", "string"),
    column("IP", "string"),
    column("NodeName", "string"),
    column("Ready", "string"),
    wide("Live-Migratable", "string"),
    wide("Paused", "string"),
];

struct Machine;
struct Instance;
struct Migration;

fn condition(object: &Value, kind: &str) -> Cell {
    let found = items(&object["status"], "conditions").find(|c| text(c, "type") == kind);
    found.map(|c| text(c, "status")).unwrap_or_default().into()
}

fn text_at(object: &Value, pointer: &str) -> Cell {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .into()
}

impl Strategy for Machine {
    fn default(&self, machine: &mut Value) {
        // Nothing is to be inferred here: those that do not insist go on without.
        for field in ["instancetype", "preference"] {
            if let Some(spec) = machine.get_mut("spec").and_then(Value::as_object_mut)
                && spec
                    .get(field)
                    .is_some_and(|m| text(m, "inferFromVolumeFailurePolicy") == "Ignore")
            {
                spec.remove(field);
            }
        }
        if let Some(spec) = object(machine, "spec")
            .and_then(|s| object(s, "template"))
            .and_then(|t| object(t, "spec"))
        {
            default_instance(spec);
        }
    }

    fn validate_create(&self, machine: &Value) -> ErrorList {
        let mut errors = self.check(machine);
        validation::references(&machine["spec"], &Path::new("spec"), &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.check(new);
        let same = |field: &str| new["spec"][field] == old["spec"][field];
        if !same("instancetype") || !same("preference") {
            validation::references(&new["spec"], &Path::new("spec"), &mut errors);
        }
        errors
    }

    fn row(&self, machine: &Value, now: Timestamp) -> Vec<Cell> {
        vec![
            age(machine, now),
            text_at(machine, "/status/printableStatus"),
            condition(machine, "Ready"),
        ]
    }
}

impl Machine {
    fn check(&self, machine: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&machine["spec"], Path::new("spec"));
        match (spec.get("running").filter(|r| !r.is_null()), text(spec, "runStrategy")) {
            (Some(_), strategy) if !strategy.is_empty() => errors.invalid(
                &path.child("running"),
                spec["running"].clone(),
                "Running and RunStrategy are mutually exclusive. Note that Running is deprecated, please use RunStrategy instead",
            ),
            (None, "") => errors.invalid(
                &path.child("runStrategy"),
                "\"\"",
                "One of Running or RunStrategy must be specified",
            ),
            (None, strategy) if !STRATEGIES.contains(&strategy) => {
                errors.not_supported(&path.child("runStrategy"), strategy, &STRATEGIES);
            }
            _ => {}
        }
        if spec.get("template").is_none_or(Value::is_null) {
            errors.required(&path.child("template"), "");
        } else {
            validation::validate(
                &spec["template"]["spec"],
                &path.child("template").child("spec"),
                &mut errors,
            );
        }
        errors
    }
}

const STRATEGIES: [&str; 6] = ["Always", "Halted", "Manual", "Once", "RerunOnFailure", "WaitAsReceiver"];

fn default_instance(spec: &mut Value) {
    default(spec, "terminationGracePeriodSeconds", 30);
    let volumes: Vec<String> = items(spec, "volumes").map(|v| text(v, "name").to_owned()).collect();
    let attach = spec
        .pointer("/domain/devices/autoattachPodInterface")
        .and_then(Value::as_bool)
        .unwrap_or(true);
    let Some(domain) = object(spec, "domain") else { return };
    let sized = domain.pointer("/memory/guest").is_some();
    if let Some(machine) = object(domain, "machine") {
        default_text(machine, "type", "q35");
    }
    if sized && let Some(guest) = domain.pointer("/memory/guest").cloned() {
        // What the guest gets is what the pod asks for, unless the user says otherwise.
        if let Some(requests) = object(domain, "resources").and_then(|r| object(r, "requests")) {
            default(requests, "memory", guest);
        }
    }
    let Some(devices) = object(domain, "devices") else {
        return;
    };
    // A volume that no disk names becomes a disk of its own.
    let named: Vec<String> = items(devices, "disks").map(|d| text(d, "name").to_owned()).collect();
    let missing: Vec<Value> = volumes
        .iter()
        .filter(|v| !v.is_empty() && !named.contains(v))
        .map(|v| json!({"name": v, "disk": {"bus": "virtio"}}))
        .collect();
    if !missing.is_empty() {
        default(devices, "disks", json!([]));
        if let Some(disks) = devices.get_mut("disks").and_then(Value::as_array_mut) {
            disks.extend(missing);
        }
    }
    for disk in items_mut(devices, "disks") {
        let kinds = ["disk", "cdrom", "lun"];
        if !kinds.iter().any(|k| disk.get(k).is_some()) {
            default(disk, "disk", json!({"bus": "virtio"}));
        }
        for (kind, bus) in [("disk", "virtio"), ("lun", "scsi"), ("cdrom", "sata")] {
            if let Some(target) = disk.get_mut(kind).filter(|d| d.is_object()) {
                default_text(target, "bus", bus);
            }
        }
    }
    let interfaces = devices.get("interfaces").is_some();
    if attach && !interfaces {
        set(devices, "interfaces", json!([{"name": "default", "masquerade": {}}]));
    }
    if attach && !interfaces {
        default(spec, "networks", json!([{"name": "default", "pod": {}}]));
    }
}

impl Strategy for Instance {
    fn prepare_create(&self, _: &Context<'_>, instance: &mut Value) {
        if instance.is_object() {
            set(instance, "status", json!({"phase": "Pending"}));
        }
    }

    fn default(&self, instance: &mut Value) {
        if let Some(spec) = object(instance, "spec") {
            default_instance(spec);
        }
    }

    fn validate_create(&self, instance: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validation::validate(&instance["spec"], &Path::new("spec"), &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if new["spec"] != old["spec"] {
            errors.forbidden(&Path::new("spec"), "update of VMI object is restricted");
        }
        errors
    }

    fn row(&self, instance: &Value, now: Timestamp) -> Vec<Cell> {
        vec![
            age(instance, now),
            text_at(instance, "/status/phase"),
            text_at(instance, "/status/interfaces/0/ipAddress"),
            text_at(instance, "/status/nodeName"),
            condition(instance, "Ready"),
            condition(instance, "LiveMigratable"),
            condition(instance, "Paused"),
        ]
    }
}

impl Strategy for Migration {
    fn validate_create(&self, migration: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if text(&migration["spec"], "vmiName").is_empty() {
            errors.required(&Path::new("spec").child("vmiName"), "");
        }
        errors
    }

    fn row(&self, migration: &Value, now: Timestamp) -> Vec<Cell> {
        vec![
            text_at(migration, "/status/phase"),
            text_at(migration, "/spec/vmiName"),
            age(migration, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(spec: Value) -> Value {
        let mut m = json!({"spec": {"runStrategy": "Always", "template": {"spec": spec}}});
        Machine.default(&mut m);
        m
    }

    #[test]
    fn a_plain_machine_gets_disks_and_the_pod_network() {
        let m = machine(json!({"domain": {"memory": {"guest": "1Gi"}, "devices": {}},
            "volumes": [{"name": "root", "containerDisk": {"image": "i"}}]}));
        let spec = &m["spec"]["template"]["spec"];
        assert_eq!(
            spec["domain"]["devices"]["disks"],
            json!([{"name": "root", "disk": {"bus": "virtio"}}])
        );
        assert_eq!(spec["networks"], json!([{"name": "default", "pod": {}}]));
        assert_eq!(spec["domain"]["resources"]["requests"]["memory"], "1Gi");
        assert!(
            Machine.validate_create(&m).is_empty(),
            "{}",
            Machine.validate_create(&m)
        );
    }

    #[test]
    fn an_instancetype_that_cannot_be_is_named() {
        let mut m = machine(json!({"domain": {"devices": {}}}));
        let old = m.clone();
        m["spec"]["instancetype"] = json!({"name": "u1.small"});
        for errors in [Machine.validate_create(&m), Machine.validate_update(&m, &old)] {
            let said = errors.to_string();
            assert!(
                said.contains("Failure to find instancetype: virtualmachineclusterinstancetypes"),
                "{said}"
            );
        }
        assert!(Machine.validate_update(&m, &m).is_empty());
        m["spec"]["instancetype"] = json!({"inferFromVolume": "v", "inferFromVolumeFailurePolicy": "Ignore"});
        Machine.default(&mut m);
        assert!(Machine.validate_create(&m).is_empty());
    }

    #[test]
    fn contradictions_are_refused() {
        let mut m = machine(json!({"domain": {"devices": {}}}));
        m["spec"]["running"] = true.into();
        assert!(Machine.validate_create(&m).to_string().contains("mutually exclusive"));
        let m = machine(json!({"domain": {"devices": {"disks": [{"name": "x", "disk": {"bus": "virtio"}}]}}}));
        let errors = Machine.validate_create(&m).to_string();
        assert!(
            errors.contains("spec.template.spec.domain.devices.disks[0].name"),
            "{errors}"
        );
    }
}
