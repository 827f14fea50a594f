//! What the derived schemas leave out: how lists are keyed, which structs and
//! maps are one unit, and defaults of key fields. Facts of the Kubernetes API
//! 1.36 (`x-kubernetes-*` extensions of its OpenAPI document).

use object::schema::{ListType, PatchStrategy, Schema, Shape};

/// A list that is not owned whole: definition, field, list keys (empty for a set),
/// merge key of strategic merge patch (empty for none).
pub(crate) struct ListFact(
    pub &'static str,
    pub &'static str,
    pub &'static [&'static str],
    pub &'static str,
);

/// Lists by definition and field. Lists that are not here are atomic and replaced by patches.
pub(crate) const LISTS: &[ListFact] = &[
    ListFact("ObjectMeta", "finalizers", &[], "*"),
    ListFact("ObjectMeta", "ownerReferences", &["uid"], "uid"),
    ListFact("PodSpec", "containers", &["name"], "name"),
    ListFact("PodSpec", "initContainers", &["name"], "name"),
    ListFact("PodSpec", "ephemeralContainers", &["name"], "name"),
    ListFact("PodSpec", "volumes", &["name"], "name"),
    ListFact("PodSpec", "imagePullSecrets", &["name"], "name"),
    ListFact("PodSpec", "hostAliases", &["ip"], "ip"),
    ListFact(
        "PodSpec",
        "topologySpreadConstraints",
        &["topologyKey", "whenUnsatisfiable"],
        "topologyKey",
    ),
    ListFact("PodSpec", "schedulingGates", &["name"], "name"),
    ListFact("PodSpec", "resourceClaims", &["name"], "name"),
    ListFact("Container", "ports", &["containerPort", "protocol"], "containerPort"),
    ListFact("Container", "env", &["name"], "name"),
    ListFact("Container", "volumeMounts", &["mountPath"], "mountPath"),
    ListFact("Container", "volumeDevices", &["devicePath"], "devicePath"),
    ListFact(
        "EphemeralContainer",
        "ports",
        &["containerPort", "protocol"],
        "containerPort",
    ),
    ListFact("EphemeralContainer", "env", &["name"], "name"),
    ListFact("EphemeralContainer", "volumeMounts", &["mountPath"], "mountPath"),
    ListFact("EphemeralContainer", "volumeDevices", &["devicePath"], "devicePath"),
    ListFact("ResourceRequirements", "claims", &["name"], ""),
    ListFact("PodStatus", "conditions", &["type"], "type"),
    ListFact("PodStatus", "podIPs", &["ip"], "ip"),
    ListFact("ServiceSpec", "ports", &["port", "protocol"], "port"),
    ListFact("ServiceStatus", "conditions", &["type"], "type"),
    ListFact("ServiceAccount", "secrets", &["name"], "name"),
    ListFact("NodeSpec", "podCIDRs", &[], "*"),
    ListFact("NodeStatus", "addresses", &["type"], "type"),
    ListFact("NodeStatus", "conditions", &["type"], "type"),
    ListFact("NamespaceStatus", "conditions", &["type"], "type"),
    ListFact("PersistentVolumeClaimStatus", "conditions", &["type"], "type"),
    ListFact("ReplicationControllerStatus", "conditions", &["type"], "type"),
    ListFact("DeploymentStatus", "conditions", &["type"], "type"),
    ListFact("ReplicaSetStatus", "conditions", &["type"], "type"),
    ListFact("StatefulSetStatus", "conditions", &["type"], "type"),
    ListFact("DaemonSetStatus", "conditions", &["type"], "type"),
    ListFact("PodDisruptionBudgetStatus", "conditions", &["type"], "type"),
    ListFact("HorizontalPodAutoscalerStatus", "conditions", &["type"], "type"),
    ListFact("CertificateSigningRequestStatus", "conditions", &["type"], ""),
    ListFact("Endpoint", "addresses", &[], ""),
    ListFact("CSINodeSpec", "drivers", &["name"], "name"),
];

/// Structs that are owned whole.
pub(crate) const ATOMIC_STRUCTS: &[&str] = &[
    "ConfigMapKeySelector",
    "CrossVersionObjectReference",
    "EndpointAddress",
    "EndpointPort",
    "LabelSelector",
    "LocalObjectReference",
    "NodeSelector",
    "NodeSelectorTerm",
    "ObjectFieldSelector",
    "ObjectReference",
    "OwnerReference",
    "ResourceFieldSelector",
    "RoleRef",
    "ScopeSelector",
    "ScopedResourceSelectorRequirement",
    "SecretKeySelector",
    "SecretReference",
    "Subject",
    "TopologySelectorTerm",
    "TypedLocalObjectReference",
];

/// Maps that are owned whole, by definition and field.
pub(crate) const ATOMIC_MAPS: &[(&str, &str)] = &[
    ("PodSpec", "nodeSelector"),
    ("ServiceSpec", "selector"),
    ("ReplicationControllerSpec", "selector"),
];

/// Defaults of fields that are list keys: without them an item could not be found again.
const KEY_DEFAULTS: &[(&str, &str, &str)] = &[("ContainerPort", "protocol", "TCP"), ("ServicePort", "protocol", "TCP")];

/// Adds what is known of a field.
pub(crate) fn amend(owner: &str, field: &str, schema: &mut Schema) {
    if let Some(fact) = LISTS.iter().find(|f| f.0 == owner && f.1 == field)
        && let Shape::List { list, patch, .. } = &mut schema.shape
    {
        *list = match fact.2 {
            [] => ListType::Set,
            keys => ListType::Map(keys.iter().map(|k| (*k).to_owned()).collect()),
        };
        *patch = PatchStrategy {
            merge: !fact.3.is_empty(),
            merge_key: (!matches!(fact.3, "" | "*")).then(|| fact.3.to_owned()),
            // Volumes and claims: a change of kind must not keep the fields of the old one.
            retain_keys: matches!((owner, field), ("PodSpec", "volumes" | "resourceClaims")),
        };
    }
    if ATOMIC_MAPS.contains(&(owner, field))
        && let Shape::Map { atomic, .. } = &mut schema.shape
    {
        *atomic = true;
    }
    if let Some((_, _, default)) = KEY_DEFAULTS.iter().find(|d| d.0 == owner && d.1 == field) {
        schema.default = Some((*default).into());
    }
}
