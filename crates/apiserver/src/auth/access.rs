//! What a request wants to do, and the answer: the one place where a request
//! is authorised. Must not read bodies.

use meta::Status;

use crate::core::Core;
use crate::identity::{MASTERS, User};

/// What a request wants to do, as authorisers see it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Access<'a> {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection` or another.
    pub verb: &'a str,
    /// API group.
    pub group: &'a str,
    /// Resource; empty for a path that is none.
    pub resource: &'a str,
    /// Subresource; may be empty.
    pub subresource: &'a str,
    /// Namespace; may be empty.
    pub namespace: &'a str,
    /// Name; may be empty.
    pub name: &'a str,
    /// The node on which a field selector holds a list or watch of pods; may be empty.
    pub on_node: &'a str,
    /// Path of a request that is for no resource.
    pub path: &'a str,
}

/// What an authoriser says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes, and why.
    Allow(String),
    /// Nobody allowed it.
    NoOpinion,
}

impl Decision {
    /// Whether it is a yes.
    pub fn allows(&self) -> bool {
        matches!(self, Decision::Allow(_))
    }
}

impl Access<'_> {
    /// `pods/log`.
    pub fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    /// 403 in upstream's words.
    pub fn refusal(&self, user: &User) -> Status {
        let (name, verb) = (&user.name, self.verb);
        if self.resource.is_empty() {
            return Status::forbidden(
                "",
                "",
                "",
                format!("User \"{name}\" cannot {verb} path \"{}\"", self.path),
            );
        }
        let scope = if self.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace \"{}\"", self.namespace)
        };
        let why = format!(
            "User \"{name}\" cannot {verb} resource \"{}\" in API group \"{}\" {scope}",
            self.full_resource(),
            self.group
        );
        Status::forbidden(self.group, self.resource, self.name, why)
    }
}

impl Core {
    /// What the authorisers say, in order.
    pub fn decide(&self, user: &User, access: &Access<'_>) -> Decision {
        if user.in_group(MASTERS) {
            return Decision::Allow(String::new());
        }
        if let Some(node) = user.as_node()
            && self.node_may(node, access)
        {
            return Decision::Allow("node authorizer".into());
        }
        self.rbac.decide(self, user, access)
    }

    /// Whether a user may do something to a resource of the cluster, whatever its name.
    pub fn allows(&self, user: &User, verb: &str, group: &str, resource: &str, subresource: &str) -> bool {
        let access = Access {
            verb,
            group,
            resource,
            subresource,
            ..Access::default()
        };
        self.decide(user, &access).allows()
    }

    /// Refuses what nobody allowed.
    pub fn authorise(&self, user: &User, access: &Access<'_>) -> Result<(), Status> {
        match self.decide(user, access) {
            Decision::Allow(_) => Ok(()),
            Decision::NoOpinion => Err(access.refusal(user)),
        }
    }
}
