//! Schemas of kubevirt.io/v1, written by hand. What is supported is typed;
//! other parts of KubeVirt's API are kept as they come, so that nothing of a
//! user's manifest is lost.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use object::schema::{ListType, PatchStrategy, Schema, Shape};

use crate::schemas::typed;

type Field = (&'static str, Schema);

/// VirtualMachine.
pub(super) fn machine() -> &'static Schema {
    static ONCE: OnceLock<Schema> = OnceLock::new();
    ONCE.get_or_init(|| {
        let template = object(vec![("metadata", metadata()), ("spec", instance_spec())]);
        let spec = object(vec![
            (
                "running",
                boolean("Whether the machine should run. Deprecated: use runStrategy."),
            ),
            ("runStrategy", string("Always, Halted, Manual, Once or RerunOnFailure.")),
            ("template", template),
            (
                "dataVolumeTemplates",
                anything("DataVolumes to be made with the machine."),
            ),
            ("instancetype", anything("Instance type that sizes the machine.")),
            ("preference", anything("Preference that sets devices.")),
        ]);
        let status = open(vec![
            ("created", boolean("Whether the instance exists.")),
            ("ready", boolean("Whether the instance is running and ready.")),
            ("printableStatus", string("State in one word, for people.")),
            ("runStrategy", string("Strategy in force.")),
            (
                "observedGeneration",
                integer("Generation of the spec that the status is about."),
            ),
            ("conditions", conditions()),
        ]);
        root(
            "VirtualMachine",
            "A virtual machine: runs while its run strategy says so, and keeps its disks.",
            spec,
            status,
        )
    })
}

/// VirtualMachineInstance.
pub(super) fn instance() -> &'static Schema {
    static ONCE: OnceLock<Schema> = OnceLock::new();
    ONCE.get_or_init(|| {
        let status = open(vec![
            (
                "phase",
                string("Pending, Scheduling, Scheduled, Running, Succeeded, Failed or Unknown."),
            ),
            ("nodeName", string("Node on which it runs.")),
            ("reason", string("Why it is in this phase.")),
            ("conditions", conditions()),
            (
                "interfaces",
                list(anything("Network interface as seen."), ListType::Atomic),
            ),
        ]);
        root(
            "VirtualMachineInstance",
            "A running virtual machine.",
            instance_spec(),
            status,
        )
    })
}

/// VirtualMachineInstanceMigration.
pub(super) fn migration() -> &'static Schema {
    static ONCE: OnceLock<Schema> = OnceLock::new();
    ONCE.get_or_init(|| {
        let spec = open(vec![("vmiName", string("Name of the instance to migrate."))]);
        let status = open(vec![
            ("phase", string("Phase of the migration.")),
            ("conditions", conditions()),
        ]);
        root(
            "VirtualMachineInstanceMigration",
            "Moves a running virtual machine to another node.",
            spec,
            status,
        )
    })
}

/// KubeVirt.
pub(super) fn kubevirt() -> &'static Schema {
    static ONCE: OnceLock<Schema> = OnceLock::new();
    ONCE.get_or_init(|| {
        root(
            "KubeVirt",
            "The installation that tools look for.",
            open(vec![]),
            open(vec![]),
        )
    })
}

fn instance_spec() -> Schema {
    let devices = open(vec![
        (
            "disks",
            keyed(
                open(vec![
                    ("name", string("Name of the volume that backs the disk.")),
                    ("disk", bus("A hard disk.")),
                    ("cdrom", bus("A CD-ROM.")),
                    ("lun", bus("A LUN.")),
                    ("bootOrder", integer("Order of booting, from 1.")),
                    ("serial", string("Serial number that the guest sees.")),
                    ("cache", string("none, writethrough or writeback.")),
                ]),
                "Disks of the guest.",
            ),
        ),
        (
            "interfaces",
            keyed(
                open(vec![
                    ("name", string("Name of the network.")),
                    ("model", string("virtio, e1000e or rtl8139.")),
                    ("macAddress", string("MAC address.")),
                    ("masquerade", anything("On the pod network, behind the pod's address.")),
                    (
                        "ports",
                        list(
                            open(vec![
                                ("name", string("Name.")),
                                ("protocol", string("TCP or UDP.")),
                                ("port", integer("Port of the guest.")),
                            ]),
                            ListType::Atomic,
                        ),
                    ),
                ]),
                "Network interfaces of the guest.",
            ),
        ),
        (
            "autoattachPodInterface",
            boolean("Whether a machine without interfaces gets the pod network."),
        ),
        ("autoattachGraphicsDevice", boolean("Whether there is a display.")),
        ("autoattachSerialConsole", boolean("Whether there is a serial console.")),
    ]);
    let domain = open(vec![
        (
            "cpu",
            open(vec![
                ("cores", integer("Cores of a socket.")),
                ("sockets", integer("Sockets.")),
                ("threads", integer("Threads of a core.")),
                ("model", string("host-model, host-passthrough or a model of QEMU.")),
            ]),
        ),
        ("memory", open(vec![("guest", quantity("Memory that the guest sees."))])),
        ("machine", open(vec![("type", string("q35."))])),
        ("firmware", anything("BIOS, UEFI or a kernel to boot directly.")),
        (
            "resources",
            open(vec![
                ("requests", map(quantity("Amount."))),
                ("limits", map(quantity("Amount."))),
            ]),
        ),
        ("devices", devices),
    ]);
    let mut fields = vec![
        ("domain", domain),
        (
            "volumes",
            keyed(
                open(vec![("name", string("Name, as disks use it."))]),
                "Volumes that disks can use.",
            ),
        ),
        (
            "networks",
            keyed(
                open(vec![("name", string("Name, as interfaces use it."))]),
                "Networks that interfaces can use.",
            ),
        ),
        (
            "terminationGracePeriodSeconds",
            integer("Seconds between the power button and the plug."),
        ),
        ("hostname", string("Host name of the guest.")),
        ("subdomain", string("Subdomain of the guest's full name.")),
        ("nodeSelector", map(string("Value."))),
        ("schedulerName", string("Scheduler.")),
        ("priorityClassName", string("Priority class.")),
        ("evictionStrategy", string("What a drain does with the machine.")),
        (
            "startStrategy",
            string("Paused starts the machine with its processors stopped."),
        ),
        ("readinessProbe", anything("Whether the guest is ready to serve.")),
        ("livenessProbe", anything("Whether the guest still works.")),
        (
            "accessCredentials",
            anything("SSH keys and passwords to be put into the guest."),
        ),
        (
            "topologySpreadConstraints",
            anything("How machines are spread over nodes."),
        ),
    ];
    for (name, schema) in [
        ("affinity", typed::<v1::Affinity>()),
        ("dnsConfig", typed::<v1::PodDNSConfig>()),
    ] {
        fields.push((name, schema.clone()));
    }
    fields.push(("dnsPolicy", string("As for pods.")));
    fields.push(("tolerations", list(typed::<v1::Toleration>().clone(), ListType::Atomic)));
    open(fields)
}

fn root(kind: &str, description: &str, spec: Schema, status: Schema) -> Schema {
    let mut out = object(vec![
        ("apiVersion", string("Version of the API.")),
        ("kind", string("Kind of the object.")),
        ("metadata", metadata()),
        ("spec", spec),
        ("status", status),
    ]);
    out.definition = format!("io.kubevirt.v1.{kind}");
    description.clone_into(&mut out.description);
    out
}

fn metadata() -> Schema {
    typed::<ObjectMeta>().clone()
}

fn object(fields: Vec<Field>) -> Schema {
    Schema {
        shape: Shape::Object {
            fields: fields
                .into_iter()
                .map(|(k, v)| (k.to_owned(), Arc::new(v)))
                .collect::<BTreeMap<_, _>>(),
            required: Vec::new(),
            atomic: false,
        },
        ..Schema::default()
    }
}

/// An object that keeps fields which are not listed.
fn open(fields: Vec<Field>) -> Schema {
    Schema {
        preserve_unknown: true,
        ..object(fields)
    }
}

fn leaf(shape: Shape, description: &str) -> Schema {
    Schema {
        shape,
        description: description.to_owned(),
        ..Schema::default()
    }
}

fn string(description: &str) -> Schema {
    leaf(Shape::String, description)
}

fn boolean(description: &str) -> Schema {
    leaf(Shape::Boolean, description)
}

fn integer(description: &str) -> Schema {
    Schema {
        format: "int64".into(),
        ..leaf(Shape::Integer, description)
    }
}

fn quantity(description: &str) -> Schema {
    Schema {
        format: "quantity".into(),
        ..leaf(Shape::IntOrString, description)
    }
}

fn anything(description: &str) -> Schema {
    Schema {
        preserve_unknown: true,
        ..leaf(Shape::Any, description)
    }
}

fn bus(description: &str) -> Schema {
    Schema {
        description: description.to_owned(),
        ..open(vec![
            ("bus", string("virtio, sata or scsi.")),
            ("readonly", boolean("Whether the guest cannot write.")),
        ])
    }
}

fn map(values: Schema) -> Schema {
    leaf(
        Shape::Map {
            values: Arc::new(values),
            atomic: false,
        },
        "",
    )
}

fn list(items: Schema, list: ListType) -> Schema {
    leaf(
        Shape::List {
            items: Arc::new(items),
            list,
            patch: PatchStrategy::default(),
        },
        "",
    )
}

/// A list whose items are known by name.
fn keyed(items: Schema, description: &str) -> Schema {
    Schema {
        description: description.to_owned(),
        ..list(items, ListType::Map(vec!["name".into()]))
    }
}

fn conditions() -> Schema {
    list(anything("Condition."), ListType::Map(vec!["type".into()]))
}
