//! What the derived schemas leave out: how lists are keyed, which structs and
//! maps are one unit, and defaults of key fields. Facts of the Kubernetes API
//! 1.36 (`x-kubernetes-*` extensions of its OpenAPI document).

use object::schema::{ListType, PatchStrategy, Schema, Shape};

/// Lists that are not owned and replaced whole: definition, field, list keys of apply
/// (`*` for a set, empty for atomic), merge key of strategic merge patch (`*` for a set,
/// empty for none). Lists that are not here are atomic and replaced by patches.
pub(crate) const LISTS: &[(&str, &str, &str, &str)] = &[
    ("APIServiceStatus", "conditions", "type", "type"),
    ("AllocatedDeviceStatus", "conditions", "type", ""),
    ("CSIDriverSpec", "volumeLifecycleModes", "*", ""),
    ("CSINodeSpec", "drivers", "name", "name"),
    ("CertificateSigningRequestStatus", "conditions", "type", ""),
    ("ComponentStatus", "conditions", "type", "type"),
    ("Container", "env", "name", "name"),
    ("Container", "ports", "containerPort,protocol", "containerPort"),
    ("Container", "volumeDevices", "devicePath", "devicePath"),
    ("Container", "volumeMounts", "mountPath", "mountPath"),
    ("ContainerRestartRuleOnExitCodes", "values", "*", ""),
    ("ContainerStatus", "allocatedResourcesStatus", "name", "name"),
    ("ContainerStatus", "volumeMounts", "mountPath", "mountPath"),
    ("CustomResourceDefinitionStatus", "conditions", "type", ""),
    ("DaemonSetStatus", "conditions", "type", "type"),
    ("DeploymentStatus", "conditions", "type", "type"),
    ("Endpoint", "addresses", "*", ""),
    ("EphemeralContainer", "env", "name", "name"),
    ("EphemeralContainer", "ports", "containerPort,protocol", "containerPort"),
    ("EphemeralContainer", "volumeDevices", "devicePath", "devicePath"),
    ("EphemeralContainer", "volumeMounts", "mountPath", "mountPath"),
    ("FlowSchemaStatus", "conditions", "type", "type"),
    ("HorizontalPodAutoscalerStatus", "conditions", "type", "type"),
    ("JobStatus", "conditions", "", "type"),
    ("MutatingAdmissionPolicySpec", "matchConditions", "name", "name"),
    ("MutatingWebhook", "matchConditions", "name", "name"),
    ("MutatingWebhookConfiguration", "webhooks", "name", "name"),
    ("NamespaceStatus", "conditions", "type", "type"),
    ("NodeSpec", "podCIDRs", "*", "*"),
    ("NodeStatus", "addresses", "type", "type"),
    ("NodeStatus", "conditions", "type", "type"),
    ("NonResourcePolicyRule", "nonResourceURLs", "*", ""),
    ("NonResourcePolicyRule", "verbs", "*", ""),
    ("ObjectMeta", "finalizers", "*", "*"),
    ("ObjectMeta", "ownerReferences", "uid", "uid"),
    ("PersistentVolumeClaimStatus", "conditions", "type", "type"),
    ("PodDisruptionBudgetStatus", "conditions", "type", "type"),
    ("PodFailurePolicyOnExitCodesRequirement", "values", "*", ""),
    ("PodSpec", "containers", "name", "name"),
    ("PodSpec", "ephemeralContainers", "name", "name"),
    ("PodSpec", "hostAliases", "ip", "ip"),
    ("PodSpec", "imagePullSecrets", "name", "name"),
    ("PodSpec", "initContainers", "name", "name"),
    ("PodSpec", "resourceClaims", "name", "name"),
    ("PodSpec", "schedulingGates", "name", "name"),
    (
        "PodSpec",
        "topologySpreadConstraints",
        "topologyKey,whenUnsatisfiable",
        "topologyKey",
    ),
    ("PodSpec", "volumes", "name", "name"),
    ("PodStatus", "conditions", "type", "type"),
    ("PodStatus", "hostIPs", "", "ip"),
    ("PodStatus", "podIPs", "ip", "ip"),
    ("PodStatus", "resourceClaimStatuses", "name", "name"),
    ("PriorityLevelConfigurationStatus", "conditions", "type", "type"),
    ("ReplicaSetStatus", "conditions", "type", "type"),
    ("ReplicationControllerStatus", "conditions", "type", "type"),
    ("ResourceClaimStatus", "devices", "driver,device,pool,shareID", ""),
    ("ResourceClaimStatus", "reservedFor", "uid", "uid"),
    ("ResourcePolicyRule", "apiGroups", "*", ""),
    ("ResourcePolicyRule", "namespaces", "*", ""),
    ("ResourcePolicyRule", "resources", "*", ""),
    ("ResourcePolicyRule", "verbs", "*", ""),
    ("ResourceRequirements", "claims", "name", ""),
    ("ResourceStatus", "resources", "resourceID", ""),
    ("ServiceAccount", "secrets", "name", "name"),
    ("ServiceCIDRStatus", "conditions", "type", "type"),
    ("ServiceSpec", "ports", "port,protocol", "port"),
    ("ServiceStatus", "conditions", "type", "type"),
    ("StatefulSetStatus", "conditions", "type", "type"),
    ("UncountedTerminatedPods", "failed", "*", ""),
    ("UncountedTerminatedPods", "succeeded", "*", ""),
    ("ValidatingAdmissionPolicyBindingSpec", "validationActions", "*", ""),
    ("ValidatingAdmissionPolicySpec", "matchConditions", "name", "name"),
    ("ValidatingAdmissionPolicySpec", "variables", "name", "name"),
    ("ValidatingAdmissionPolicyStatus", "conditions", "type", ""),
    ("ValidatingWebhook", "matchConditions", "name", "name"),
    ("ValidatingWebhookConfiguration", "webhooks", "name", "name"),
];

/// Structs that are owned whole.
pub(crate) const ATOMIC_STRUCTS: &[&str] = &[
    "ConfigMapKeySelector",
    "CrossVersionObjectReference",
    "EndpointAddress",
    "EndpointPort",
    "FileKeySelector",
    "LabelSelector",
    "LocalObjectReference",
    "MatchResources",
    "NamedRuleWithOperations",
    "NodeSelector",
    "NodeSelectorTerm",
    "ObjectFieldSelector",
    "ObjectReference",
    "OwnerReference",
    "ParamKind",
    "ParamRef",
    "ResourceFieldSelector",
    "RoleRef",
    "ScopeSelector",
    "SecretKeySelector",
    "SecretReference",
    "ServiceBackendPort",
    "Subject",
    "TopologySelectorTerm",
    "TypedLocalObjectReference",
    "Variable",
];

/// Maps that are owned whole, by definition and field.
pub(crate) const ATOMIC_MAPS: &[(&str, &str)] = &[
    ("PodSpec", "nodeSelector"),
    ("ReplicationControllerSpec", "selector"),
    ("Scheduling", "nodeSelector"),
    ("ServiceSpec", "selector"),
];

/// Defaults that stand in the schema itself. Those of list keys must: without them an item
/// could not be found again.
const DEFAULTS: &[(&str, &str, &str)] = &[
    ("ContainerPort", "protocol", "TCP"),
    ("DeviceToleration", "operator", "Equal"),
    ("GRPCAction", "service", ""),
    ("ServicePort", "protocol", "TCP"),
];

/// Lists and structs of which a patch must not keep the fields of an old variant.
const RETAIN_KEYS: &[(&str, &str)] = &[
    ("DeploymentSpec", "strategy"),
    ("PodSpec", "resourceClaims"),
    ("PodSpec", "volumes"),
    ("PodStatus", "resourceClaimStatuses"),
];

/// Adds what is known of a field.
pub(crate) fn amend(owner: &str, field: &str, schema: &mut Schema) {
    let retain = RETAIN_KEYS.contains(&(owner, field));
    if let Some((_, _, keys, merge)) = LISTS.iter().find(|f| f.0 == owner && f.1 == field)
        && let Shape::List { list, patch, .. } = &mut schema.shape
    {
        *list = match *keys {
            "" => ListType::Atomic,
            "*" => ListType::Set,
            keys => ListType::Map(keys.split(',').map(str::to_owned).collect()),
        };
        *patch = PatchStrategy {
            merge: !merge.is_empty(),
            merge_key: (!matches!(*merge, "" | "*")).then(|| (*merge).to_owned()),
            retain_keys: retain,
        };
    } else {
        schema.retain_keys |= retain;
    }
    if ATOMIC_MAPS.contains(&(owner, field))
        && let Shape::Map { atomic, .. } = &mut schema.shape
    {
        *atomic = true;
    }
    if let Some((_, _, default)) = DEFAULTS.iter().find(|d| d.0 == owner && d.1 == field) {
        schema.default = Some((*default).into());
    }
}
