//! What writers may not do although they may write: nodes beyond their own
//! objects (NodeRestriction), and anybody beyond their own permissions
//! (RBAC escalation).

use async_trait::async_trait;
use k8s_openapi::api::rbac::v1::PolicyRule;
use meta::Status;

use super::{Admission, Attributes, Operation};
use crate::auth::{Access, not_covered, rules_of_role};
use crate::core::Core;
use crate::identity::MASTERS;

mod node;

pub(super) use node::NodeRestriction;

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
