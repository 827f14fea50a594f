//! RBAC over the caches: bindings indexed by subject, rules read from the
//! cached roles. Must not grant anything that no binding grants.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use meta::Object;

use super::access::{Access, Decision};
use crate::core::Core;
use crate::identity::{SERVICE_ACCOUNT, User};
use crate::resource::{Resource, object_key};

const GROUP: &str = "rbac.authorization.k8s.io";

/// The evaluator.
#[derive(Default)]
pub struct Rbac {
    index: RwLock<Arc<Index>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stamp {
    cluster: u64,
    namespaced: u64,
}

#[derive(Default)]
struct Index {
    stamp: Option<Stamp>,
    cluster: HashMap<Who, Vec<Grant>>,
    namespaced: HashMap<(String, Who), Vec<Grant>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    User(String),
    Group(String),
}

#[derive(Clone)]
struct Grant {
    /// Kind and name of the binding, for the reason.
    binding: String,
    role_kind: String,
    role: String,
}

impl Rbac {
    /// Whether a binding grants the access.
    pub(crate) fn decide(&self, core: &Core, user: &User, access: &Access<'_>) -> Decision {
        let index = self.fresh(core);
        let mut reason = None;
        self.visit(core, &index, user, access.namespace, &mut |rules, grant, _| {
            if rules.iter().any(|r| allows(r, access)) {
                let role = format!("{} {:?}", grant.role_kind, grant.role);
                reason = Some(format!(
                    "RBAC: allowed by {} of {role} to {:?}",
                    grant.binding, user.name
                ));
            }
            reason.is_some()
        });
        reason.map_or(Decision::NoOpinion, Decision::Allow)
    }

    /// All rules that hold for a user in a namespace.
    pub(crate) fn rules_of(&self, core: &Core, user: &User, namespace: &str) -> Vec<PolicyRule> {
        let index = self.fresh(core);
        let mut out = Vec::new();
        self.visit(core, &index, user, namespace, &mut |rules, _, _| {
            out.extend_from_slice(rules);
            false
        });
        out
    }

    /// Calls `see` for each role that applies until it returns true.
    fn visit(
        &self,
        core: &Core,
        index: &Index,
        user: &User,
        namespace: &str,
        see: &mut dyn FnMut(&[PolicyRule], &Grant, &str) -> bool,
    ) {
        let who = std::iter::once(Who::User(user.name.clone()));
        let who: Vec<Who> = who.chain(user.groups.iter().cloned().map(Who::Group)).collect();
        for w in &who {
            for grant in index.cluster.get(w).into_iter().flatten() {
                if with_rules(core, grant, "", |rules| see(rules, grant, "")) {
                    return;
                }
            }
        }
        if namespace.is_empty() {
            return;
        }
        for w in who {
            let key = (namespace.to_owned(), w);
            for grant in index.namespaced.get(&key).into_iter().flatten() {
                if with_rules(core, grant, namespace, |rules| see(rules, grant, namespace)) {
                    return;
                }
            }
        }
    }

    fn fresh(&self, core: &Core) -> Arc<Index> {
        let (cluster, namespaced) = (bindings(core, "clusterrolebindings"), bindings(core, "rolebindings"));
        let stamp = Stamp {
            cluster: cluster.map_or(0, |r| r.cache.revision()),
            namespaced: namespaced.map_or(0, |r| r.cache.revision()),
        };
        {
            let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
            if index.stamp == Some(stamp) {
                return index.clone();
            }
        }
        // Read after the stamp: newer contents under an older stamp are rebuilt at the next call.
        let index = Arc::new(Index::build(stamp, cluster, namespaced));
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = index.clone();
        index
    }
}

fn bindings<'c>(core: &'c Core, plural: &str) -> Option<&'c Arc<Resource>> {
    core.catalog.find(GROUP, plural)
}

/// The rules of a role by reference; empty when it does not exist.
pub(crate) fn rules_of_role(core: &Core, kind: &str, name: &str, namespace: &str) -> Option<Vec<PolicyRule>> {
    let mut out = None;
    let grant = Grant {
        binding: String::new(),
        role_kind: kind.to_owned(),
        role: name.to_owned(),
    };
    with_rules(core, &grant, namespace, |rules| {
        out = Some(rules.to_vec());
        true
    });
    out
}

fn with_rules(core: &Core, grant: &Grant, namespace: &str, see: impl FnOnce(&[PolicyRule]) -> bool) -> bool {
    let object = |plural: &str, namespace: &str| -> Option<Arc<Object>> {
        let resource = core.catalog.find(GROUP, plural)?;
        Some(resource.cache.get(&object_key(namespace, &grant.role))?.object.clone())
    };
    if grant.role_kind == "ClusterRole" {
        let role = object("clusterroles", "").and_then(|o| o.view::<ClusterRole>().ok());
        return role.is_some_and(|r| see(r.rules.as_deref().unwrap_or_default()));
    }
    let role = object("roles", namespace).and_then(|o| o.view::<Role>().ok());
    role.is_some_and(|r| see(r.rules.as_deref().unwrap_or_default()))
}

impl Index {
    fn build(stamp: Stamp, cluster: Option<&Arc<Resource>>, namespaced: Option<&Arc<Resource>>) -> Self {
        let mut out = Index {
            stamp: Some(stamp),
            ..Index::default()
        };
        for (_, item) in &cluster.map(|r| r.cache.snapshot().0).unwrap_or_default() {
            let Ok(binding) = item.object.view::<ClusterRoleBinding>() else {
                continue;
            };
            let grant = grant("ClusterRoleBinding", &item.object, &binding.role_ref);
            for who in binding.subjects.iter().flatten().filter_map(|s| who(s, "")) {
                out.cluster.entry(who).or_default().push(grant.clone());
            }
        }
        for (_, item) in &namespaced.map(|r| r.cache.snapshot().0).unwrap_or_default() {
            let Ok(binding) = item.object.view::<RoleBinding>() else {
                continue;
            };
            let namespace = item.object.namespace();
            let grant = grant("RoleBinding", &item.object, &binding.role_ref);
            for who in binding.subjects.iter().flatten().filter_map(|s| who(s, namespace)) {
                let key = (namespace.to_owned(), who);
                out.namespaced.entry(key).or_default().push(grant.clone());
            }
        }
        out
    }
}

fn grant(kind: &str, binding: &Object, role: &RoleRef) -> Grant {
    Grant {
        binding: format!("{kind} {:?}", binding.key()),
        role_kind: role.kind.clone(),
        role: role.name.clone(),
    }
}

fn who(subject: &Subject, namespace: &str) -> Option<Who> {
    match subject.kind.as_str() {
        "User" => Some(Who::User(subject.name.clone())),
        "Group" => Some(Who::Group(subject.name.clone())),
        "ServiceAccount" => {
            let namespace = subject.namespace.as_deref().unwrap_or(namespace);
            Some(Who::User(format!("{SERVICE_ACCOUNT}{namespace}:{}", subject.name)))
        }
        _ => None,
    }
}

/// Whether a rule covers the access.
pub(crate) fn allows(rule: &PolicyRule, access: &Access<'_>) -> bool {
    if !has(&rule.verbs, access.verb) {
        return false;
    }
    if access.resource.is_empty() {
        let urls = rule.non_resource_urls.as_deref().unwrap_or_default();
        return urls.iter().any(|u| match u.strip_suffix('*') {
            Some(prefix) => access.path.starts_with(prefix),
            None => u == access.path,
        });
    }
    let names = rule.resource_names.as_deref().unwrap_or_default();
    has(rule.api_groups.as_deref().unwrap_or_default(), access.group)
        && covers_resource(rule.resources.as_deref().unwrap_or_default(), access)
        && (names.is_empty() || (!access.name.is_empty() && names.iter().any(|n| n == access.name)))
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|x| x == "*" || x == wanted)
}

fn covers_resource(list: &[String], access: &Access<'_>) -> bool {
    list.iter().any(|r| match r.split_once('/') {
        _ if r == "*" => true,
        None => access.subresource.is_empty() && r == access.resource,
        Some(("*", sub)) => sub == access.subresource,
        Some((resource, sub)) => resource == access.resource && sub == access.subresource,
    })
}

/// The parts of `wanted` that `owned` does not cover, one verb, group and resource at a time.
pub(crate) fn not_covered(owned: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    wanted
        .iter()
        .flat_map(pieces)
        .filter(|piece| !owned.iter().any(|o| covers(o, piece)))
        .collect()
}

fn pieces(rule: &PolicyRule) -> Vec<PolicyRule> {
    let mut out = Vec::new();
    let list = |l: &Option<Vec<String>>| l.clone().unwrap_or_default();
    for verb in &rule.verbs {
        for group in list(&rule.api_groups) {
            for resource in list(&rule.resources) {
                let piece = |name: Option<String>| PolicyRule {
                    verbs: vec![verb.clone()],
                    api_groups: Some(vec![group.clone()]),
                    resources: Some(vec![resource.clone()]),
                    resource_names: name.map(|n| vec![n]),
                    non_resource_urls: None,
                };
                match list(&rule.resource_names).as_slice() {
                    [] => out.push(piece(None)),
                    names => out.extend(names.iter().cloned().map(|n| piece(Some(n)))),
                }
            }
        }
        for url in list(&rule.non_resource_urls) {
            out.push(PolicyRule {
                verbs: vec![verb.clone()],
                non_resource_urls: Some(vec![url]),
                ..PolicyRule::default()
            });
        }
    }
    out
}

fn covers(owner: &PolicyRule, piece: &PolicyRule) -> bool {
    let first = |l: &Option<Vec<String>>| l.as_ref().and_then(|l| l.first()).cloned().unwrap_or_default();
    let owned = |l: &Option<Vec<String>>| l.clone().unwrap_or_default();
    let verb = piece.verbs.first().cloned().unwrap_or_default();
    if !has(&owner.verbs, &verb) {
        return false;
    }
    if let Some(urls) = &piece.non_resource_urls {
        let url = urls.first().cloned().unwrap_or_default();
        return owned(&owner.non_resource_urls)
            .iter()
            .any(|u| *u == url || u.strip_suffix('*').is_some_and(|prefix| url.starts_with(prefix)));
    }
    let resource = first(&piece.resources);
    let covered = owned(&owner.resources).iter().any(|r| {
        r == "*"
            || *r == resource
            || matches!((r.strip_prefix("*/"), resource.split_once('/')), (Some(a), Some((_, b))) if a == b)
    });
    let names = owned(&owner.resource_names);
    let name = first(&piece.resource_names);
    has(&owned(&owner.api_groups), &first(&piece.api_groups))
        && covered
        && (names.is_empty() || (!name.is_empty() && names.contains(&name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(groups: &[&str], resources: &[&str], names: &[&str], verbs: &[&str]) -> PolicyRule {
        let list = |l: &[&str]| -> Vec<String> { l.iter().map(|s| (*s).to_owned()).collect() };
        PolicyRule {
            api_groups: Some(list(groups)),
            resources: Some(list(resources)),
            resource_names: Some(list(names)),
            verbs: list(verbs),
            non_resource_urls: None,
        }
    }

    #[test]
    fn rules_cover_what_they_say() {
        let get = |resource, subresource, name| Access {
            verb: "get",
            resource,
            subresource,
            name,
            namespace: "a",
            ..Access::default()
        };
        for (rule, access, want) in [
            (rule(&[""], &["pods"], &[], &["get"]), get("pods", "", "x"), true),
            (rule(&[""], &["pods"], &[], &["get"]), get("pods", "log", "x"), false),
            (rule(&[""], &["pods/log"], &[], &["get"]), get("pods", "log", "x"), true),
            (rule(&[""], &["*/log"], &[], &["get"]), get("pods", "log", "x"), true),
            (rule(&["*"], &["*"], &[], &["*"]), get("pods", "log", "x"), true),
            (rule(&[""], &["pods"], &["y"], &["get"]), get("pods", "", "x"), false),
            (rule(&[""], &["pods"], &["y"], &["get"]), get("pods", "", ""), false),
            (rule(&["apps"], &["pods"], &[], &["get"]), get("pods", "", "x"), false),
            (rule(&[""], &["pods"], &[], &["list"]), get("pods", "", "x"), false),
        ] {
            assert_eq!(allows(&rule, &access), want, "{rule:?} {access:?}");
        }
    }

    #[test]
    fn escalation_is_found_piece_by_piece() {
        let owned = [rule(&["", "apps"], &["pods", "deployments"], &[], &["get", "list"])];
        let ok = [rule(&["apps"], &["deployments"], &["web"], &["get"])];
        assert!(not_covered(&owned, &ok).is_empty());
        let more = [rule(&[""], &["pods", "secrets"], &[], &["get", "delete"])];
        let missing = not_covered(&owned, &more);
        assert_eq!(missing.len(), 3, "{missing:?}");
        let all = [rule(&["*"], &["*"], &[], &["*"])];
        assert_eq!(not_covered(&owned, &all).len(), 1);
    }
}
