//! Aggregated ClusterRoles: the rules of all roles that their selectors match.

use jiff::Timestamp;
use kinds::resources::CLUSTER_ROLES;
use meta::Object;
use meta::selector::LabelSelector;
use reconcile::{Controller, Input, Key, Plan, View};
use serde_json::{Value, json};

/// See the module.
pub struct RoleAggregator;

impl Controller for RoleAggregator {
    fn name(&self) -> &'static str {
        "clusterrole-aggregation-controller"
    }

    fn inputs(&self) -> Vec<Input> {
        vec![Input {
            gvr: CLUSTER_ROLES,
            keys: |_, view| {
                let roles = view.list(&CLUSTER_ROLES, "");
                roles
                    .iter()
                    .filter(|r| aggregates(&r.to_value()))
                    .map(|r| Key::of(r))
                    .collect()
            },
        }]
    }

    fn plan(&self, _now: Timestamp, key: &Key, view: &dyn View) -> Plan {
        let mut plan = Plan::nothing();
        let Some(role) = view.get(&CLUSTER_ROLES, "", &key.name) else {
            return plan;
        };
        let value = role.to_value();
        if !aggregates(&value) || role.is_deleting() {
            return plan;
        }
        let selectors = value["aggregationRule"]["clusterRoleSelectors"].as_array();
        let selectors: Vec<_> = selectors
            .into_iter()
            .flatten()
            .filter_map(|s| LabelSelector::from_object(s).ok())
            .collect();
        let chosen =
            |r: &&std::sync::Arc<Object>| r.name() != role.name() && selectors.iter().any(|s| s.matches(r.labels()));
        let mut rules: Vec<Value> = Vec::new();
        for other in view.list(&CLUSTER_ROLES, "").iter().filter(chosen) {
            for rule in other.to_value()["rules"].as_array().into_iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
        let present = value["rules"].as_array().cloned().unwrap_or_default();
        if present != rules {
            plan.patch(&CLUSTER_ROLES, &role, json!({"rules": rules}));
        }
        plan
    }
}

fn aggregates(role: &Value) -> bool {
    !role["aggregationRule"].is_null()
}

#[cfg(test)]
mod tests {
    use super::*;
    use reconcile::World;

    #[test]
    fn rules_of_matching_roles_are_gathered() {
        let mut world = World::default();
        let role = |name: &str, label: &str, verb: &str| {
            json!({"apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole", "metadata": {"name": name, "labels": {"to": label}}, "rules": [{"verbs": [verb]}]})
        };
        world.put(&CLUSTER_ROLES, role("a", "edit", "get"));
        world.put(&CLUSTER_ROLES, role("b", "view", "list"));
        world.put(&CLUSTER_ROLES, json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": "sum"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "edit"}}]}}));
        assert!(world.settle(Timestamp::UNIX_EPOCH, &RoleAggregator, 3));
        assert_eq!(
            world.get(&CLUSTER_ROLES, "", "sum").unwrap().to_value()["rules"],
            json!([{"verbs": ["get"]}])
        );
    }
}
