//! The resources that our own parts read and write, by name.
//!
//! Must not list what only users handle: the registry ([`crate::all`]) is complete, this is not.

use meta::Gvr;

/// `pods`.
pub const PODS: Gvr = Gvr::of("", "v1", "pods");
/// `nodes`.
pub const NODES: Gvr = Gvr::of("", "v1", "nodes");
/// `services`.
pub const SERVICES: Gvr = Gvr::of("", "v1", "services");
/// `endpoints`.
pub const ENDPOINTS: Gvr = Gvr::of("", "v1", "endpoints");
/// `endpointslices.discovery.k8s.io`.
pub const ENDPOINT_SLICES: Gvr = Gvr::of("discovery.k8s.io", "v1", "endpointslices");
/// `configmaps`.
pub const CONFIG_MAPS: Gvr = Gvr::of("", "v1", "configmaps");
/// `secrets`.
pub const SECRETS: Gvr = Gvr::of("", "v1", "secrets");
/// `namespaces`.
pub const NAMESPACES: Gvr = Gvr::of("", "v1", "namespaces");
/// `serviceaccounts`.
pub const SERVICE_ACCOUNTS: Gvr = Gvr::of("", "v1", "serviceaccounts");
/// `events`.
pub const EVENTS: Gvr = Gvr::of("", "v1", "events");
/// `persistentvolumeclaims`.
pub const CLAIMS: Gvr = Gvr::of("", "v1", "persistentvolumeclaims");
/// `persistentvolumes`.
pub const VOLUMES: Gvr = Gvr::of("", "v1", "persistentvolumes");
/// `storageclasses.storage.k8s.io`.
pub const STORAGE_CLASSES: Gvr = Gvr::of("storage.k8s.io", "v1", "storageclasses");
/// `deployments.apps`.
pub const DEPLOYMENTS: Gvr = Gvr::of("apps", "v1", "deployments");
/// `replicasets.apps`.
pub const REPLICA_SETS: Gvr = Gvr::of("apps", "v1", "replicasets");
/// `statefulsets.apps`.
pub const STATEFUL_SETS: Gvr = Gvr::of("apps", "v1", "statefulsets");
/// `daemonsets.apps`.
pub const DAEMON_SETS: Gvr = Gvr::of("apps", "v1", "daemonsets");
/// `controllerrevisions.apps`.
pub const CONTROLLER_REVISIONS: Gvr = Gvr::of("apps", "v1", "controllerrevisions");
/// `jobs.batch`.
pub const JOBS: Gvr = Gvr::of("batch", "v1", "jobs");
/// `cronjobs.batch`.
pub const CRON_JOBS: Gvr = Gvr::of("batch", "v1", "cronjobs");
/// `leases.coordination.k8s.io`.
pub const LEASES: Gvr = Gvr::of("coordination.k8s.io", "v1", "leases");
/// `certificatesigningrequests`.
pub const CERTIFICATE_REQUESTS: Gvr = Gvr::of("certificates.k8s.io", "v1", "certificatesigningrequests");
/// `clusterroles.rbac.authorization.k8s.io`.
pub const CLUSTER_ROLES: Gvr = Gvr::of("rbac.authorization.k8s.io", "v1", "clusterroles");
/// `poddisruptionbudgets.policy`.
pub const DISRUPTION_BUDGETS: Gvr = Gvr::of("policy", "v1", "poddisruptionbudgets");
/// `priorityclasses.scheduling.k8s.io`.
pub const PRIORITY_CLASSES: Gvr = Gvr::of("scheduling.k8s.io", "v1", "priorityclasses");
/// `replicationcontrollers`.
pub const REPLICATION_CONTROLLERS: Gvr = Gvr::of("", "v1", "replicationcontrollers");
/// `resourcequotas`.
pub const RESOURCE_QUOTAS: Gvr = Gvr::of("", "v1", "resourcequotas");
/// `horizontalpodautoscalers.autoscaling`.
pub const AUTOSCALERS: Gvr = Gvr::of("autoscaling", "v2", "horizontalpodautoscalers");
/// `virtualmachines.kubevirt.io`.
pub const MACHINES: Gvr = Gvr::of("kubevirt.io", "v1", "virtualmachines");
/// `virtualmachineinstances.kubevirt.io`.
pub const MACHINE_INSTANCES: Gvr = Gvr::of("kubevirt.io", "v1", "virtualmachineinstances");
/// CustomResourceDefinitions.
pub const DEFINITIONS: Gvr = Gvr::of("apiextensions.k8s.io", "v1", "customresourcedefinitions");
