//! What writers may not do although they may write: nodes beyond their own
//! objects (NodeRestriction), and anybody beyond their own permissions
//! (RBAC escalation).

use async_trait::async_trait;
use k8s_openapi::api::rbac::v1::PolicyRule;
use meta::Status;
use serde_json::Value;

use super::{Admission, Attributes, Operation};
use crate::auth::{Access, not_covered, rules_of_role};
use crate::core::Core;
use crate::identity::MASTERS;

pub(super) struct NodeRestriction;

#[async_trait]
impl Admission for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        a.call.user.as_node().is_some() && matches!(&*a.kind().kind, "Node" | "Pod" | "Lease")
    }

    async fn validate(&self, core: &Core, a: &mut Attributes<'_>) -> Result<(), Status> {
        let Some(node) = a.call.user.as_node() else {
            return Ok(());
        };
        let own = |name: &str| name == node;
        match (&*a.kind().kind, a.operation) {
            ("Node", _) if !own(a.target.name) => Err(a.target.forbidden(format!(
                "node \"{node}\" is not allowed to modify node \"{}\"",
                a.target.name
            ))),
            ("Pod", Operation::Create) => {
                let mirror = a
                    .object
                    .pointer("/metadata/annotations")
                    .is_some_and(|x| x.get("kubernetes.io/config.mirror").is_some());
                let on = a
                    .object
                    .pointer("/spec/nodeName")
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                if mirror && own(on) {
                    return Ok(());
                }
                Err(a.target.forbidden(format!("pod does not have \"kubernetes.io/config.mirror\" annotation, node \"{node}\" can only create mirror pods")))
            }
            ("Pod", _) if !core.pod_is_on(node, a.target.namespace, a.target.name) => Err(a.target.forbidden(format!(
                "node \"{node}\" can only update pods with spec.nodeName set to itself"
            ))),
            ("Lease", _) if a.target.namespace != "kube-node-lease" || !own(a.target.name) => Err(a
                .target
                .forbidden(format!("node \"{node}\" can only access its own lease"))),
            _ => Ok(()),
        }
    }
}

/// Nobody grants what they do not hold, unless allowed to `escalate` or `bind`.
pub(super) struct Escalation;

const GROUP: &str = "rbac.authorization.k8s.io";

#[async_trait]
impl Admission for Escalation {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        a.kind().group == GROUP
            && matches!(a.operation, Operation::Create | Operation::Update)
            && !a.call.user.in_group(MASTERS)
    }

    async fn validate(&self, core: &Core, a: &mut Attributes<'_>) -> Result<(), Status> {
        let (kind, namespace) = (a.kind(), a.target.namespace);
        let binds = matches!(&*kind.kind, "RoleBinding" | "ClusterRoleBinding");
        let role = &a.object["roleRef"];
        let (resource, name) = match (binds, role["kind"].as_str()) {
            (false, _) => (&*kind.plural, a.target.name),
            (true, Some("ClusterRole")) => ("clusterroles", role["name"].as_str().unwrap_or_default()),
            (true, _) => ("roles", role["name"].as_str().unwrap_or_default()),
        };
        let access = Access {
            verb: if binds { "bind" } else { "escalate" },
            group: GROUP,
            resource,
            namespace,
            name,
            ..Access::default()
        };
        if core.decide(&a.call.user, &access).allows() {
            return Ok(());
        }
        // A change of labels or of subjects that grants nothing new needs no check of the rules.
        let unchanged = |field: &str| a.old.is_some_and(|old| old.get(field) == a.object.get(field));
        if !binds && unchanged("rules") {
            return Ok(());
        }
        let wanted: Vec<PolicyRule> = if binds {
            let kind = role["kind"].as_str().unwrap_or_default();
            let missing = || Status::not_found(GROUP, resource, name);
            rules_of_role(core, kind, name, namespace).ok_or_else(missing)?
        } else {
            serde_json::from_value(a.object.get("rules").cloned().unwrap_or_default()).unwrap_or_default()
        };
        let owned = core.rbac.rules_of(core, &a.call.user, namespace);
        let missing = not_covered(&owned, &wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> = missing.iter().map(describe).collect();
        Err(a.target.forbidden(format!(
            "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
            a.call.user.name,
            a.call.user.groups,
            lines.join("\n")
        )))
    }
}

fn describe(rule: &PolicyRule) -> String {
    let mut parts = Vec::new();
    let lists = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("ResourceNames", &rule.resource_names),
        ("NonResourceURLs", &rule.non_resource_urls),
    ];
    for (name, list) in lists {
        if let Some(list) = list.as_ref().filter(|l| !l.is_empty()) {
            parts.push(format!("{name}:{list:?}"));
        }
    }
    parts.push(format!("Verbs:{:?}", rule.verbs));
    format!("{{{}}}", parts.join(", "))
}
