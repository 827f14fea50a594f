//! The apps group: workloads made of a pod template.

mod daemonset;
mod deployment;
mod replicaset;
mod statefulset;

use k8s_openapi::api::apps::v1;

use crate::columns::{AGE, column};
use crate::plain::{Names, Row};
use crate::schemas::typed;
use crate::{Declared, ScalePaths, Text};

/// Kinds of the apps group.
pub(crate) fn kinds() -> Vec<Declared> {
    vec![
        deployment::kind(),
        replicaset::kind(),
        statefulset::kind(),
        daemonset::kind(),
        apps_kind("ControllerRevision", "controllerrevisions", "controllerrevision", &[]).with(
            typed::<v1::ControllerRevision>,
            const { &[column("Controller", "string"), column("Revision", "string"), AGE] },
            &Row(&["/metadata/ownerReferences/0/name", "/revision"]),
        ),
    ]
}

const fn apps_kind(
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short_names: &'static [&'static str],
) -> Names {
    Names {
        group: "apps",
        version: "v1",
        kind,
        plural,
        singular,
        short_names,
    }
}

/// Where `scale` of the workloads reads and writes.
const SCALE: ScalePaths = ScalePaths {
    spec_replicas: Text::Borrowed(".spec.replicas"),
    status_replicas: Text::Borrowed(".status.replicas"),
    selector: Text::Borrowed(".spec.selector"),
};
