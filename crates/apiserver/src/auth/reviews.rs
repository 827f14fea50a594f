//! Reviews: questions about identity and permission, answered and not stored.
//! Must answer exactly as a request would be treated.

use meta::Status;
use serde_json::{Value, json};

use super::access::{Access, Decision};
use crate::core::Core;
use crate::identity::User;
use crate::registry::{Call, Target};

impl Core {
    /// Answers a review that was "created".
    pub(crate) fn answer_review(&self, call: &Call, target: Target<'_>, mut review: Value) -> Result<Value, Status> {
        let status = match &*target.resource.kind.kind {
            "TokenReview" => self.review_token(&review["spec"]),
            "SelfSubjectReview" => json!({"userInfo": user_info(&call.user)}),
            "SelfSubjectAccessReview" => self.review_access(&call.user, &review["spec"], None)?,
            "SubjectAccessReview" => self.review_access(&subject(&review["spec"])?, &review["spec"], None)?,
            "LocalSubjectAccessReview" => {
                self.review_access(&subject(&review["spec"])?, &review["spec"], Some(target.namespace))?
            }
            "SelfSubjectRulesReview" => self.review_rules(call, &review["spec"])?,
            _ => return Err(Status::method_not_allowed("", &target.resource.kind.plural, "create")),
        };
        review["status"] = status;
        if !review["metadata"].is_object() {
            review["metadata"] = json!({});
        }
        review["metadata"]["creationTimestamp"] = Value::Null;
        Ok(review)
    }

    fn review_token(&self, spec: &Value) -> Value {
        let token = spec["token"].as_str().unwrap_or_default();
        let audiences: Vec<String> = spec["audiences"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        let fixed = if audiences.is_empty() {
            self.tokens.find(token)
        } else {
            None
        };
        let found = match fixed {
            Some(user) => Some(((*user).clone(), vec![self.config.audience.clone()])),
            None => self.verify_service_token(token, &audiences),
        };
        match found {
            Some((user, audiences)) => {
                json!({"authenticated": true, "user": user_info(&user), "audiences": audiences})
            }
            None => json!({"authenticated": false, "user": {}, "error": "invalid bearer token"}),
        }
    }

    fn review_access(&self, user: &User, spec: &Value, within: Option<&str>) -> Result<Value, Status> {
        let text = |v: &Value, f: &str| v[f].as_str().unwrap_or_default().to_owned();
        let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
        if resource.is_object() == path.is_object() {
            return Err(Status::bad_request(
                "exactly one of resourceAttributes or nonResourceAttributes must be specified",
            ));
        }
        let namespace = text(resource, "namespace");
        if within.is_some_and(|w| w != namespace) {
            return Err(Status::bad_request(
                "spec.resourceAttributes.namespace: must match metadata.namespace",
            ));
        }
        let (verb, group, plural, sub, name, url) = if resource.is_object() {
            let r = |f| text(resource, f);
            (
                r("verb"),
                r("group"),
                r("resource"),
                r("subresource"),
                r("name"),
                String::new(),
            )
        } else {
            let none = String::new;
            (text(path, "verb"), none(), none(), none(), none(), text(path, "path"))
        };
        let access = Access {
            verb: &verb,
            group: &group,
            resource: &plural,
            subresource: &sub,
            namespace: &namespace,
            name: &name,
            path: &url,
            on_node: "",
        };
        Ok(match self.decide(user, &access) {
            Decision::Allow(reason) if reason.is_empty() => json!({"allowed": true}),
            Decision::Allow(reason) => json!({"allowed": true, "reason": reason}),
            Decision::NoOpinion => json!({"allowed": false}),
        })
    }

    fn review_rules(&self, call: &Call, spec: &Value) -> Result<Value, Status> {
        let namespace = spec["namespace"].as_str().unwrap_or_default();
        if namespace.is_empty() {
            return Err(Status::bad_request("no namespace on request"));
        }
        let (mut resources, mut paths) = (Vec::new(), Vec::new());
        if call.user.in_group(crate::identity::MASTERS) {
            resources.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
            paths.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
        }
        for rule in self.rbac.rules_of(self, &call.user, namespace) {
            if let Some(urls) = rule.non_resource_urls.filter(|u| !u.is_empty()) {
                paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": urls}));
                continue;
            }
            let mut entry = json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
            if let Some(names) = rule.resource_names.filter(|n| !n.is_empty()) {
                entry["resourceNames"] = json!(names);
            }
            resources.push(entry);
        }
        Ok(json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false}))
    }
}

fn subject(spec: &Value) -> Result<User, Status> {
    let list = |v: &Value| -> Vec<String> {
        v.as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let user = User {
        name: spec["user"].as_str().unwrap_or_default().to_owned(),
        uid: spec["uid"].as_str().unwrap_or_default().to_owned(),
        groups: list(&spec["groups"]),
        extra: spec["extra"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(k, v)| (k.clone(), list(v)))
            .collect(),
    };
    if user.name.is_empty() && user.groups.is_empty() {
        return Err(Status::bad_request("at least one of user or group must be specified"));
    }
    Ok(user)
}

fn user_info(user: &User) -> Value {
    let mut out = json!({"username": user.name});
    if !user.uid.is_empty() {
        out["uid"] = user.uid.as_str().into();
    }
    if !user.groups.is_empty() {
        out["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        out["extra"] = json!(user.extra);
    }
    out
}
