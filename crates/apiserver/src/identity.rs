//! Who calls. Must not judge what they may do.

use std::collections::BTreeMap;

/// The group that may do everything, whatever RBAC says.
pub const MASTERS: &str = "system:masters";
/// The group of everybody who proved an identity.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of everybody else.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The user of requests without credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// Prefix of service accounts' user names.
pub const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// An authenticated user (`authentication.k8s.io` `UserInfo`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Unique name.
    pub name: String,
    /// Survives a renaming; may be empty.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Anything else that an authenticator knows.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A user in groups; `system:authenticated` is added.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        groups.push(AUTHENTICATED.to_owned());
        User {
            name: name.to_owned(),
            groups,
            ..User::default()
        }
    }

    /// May do everything.
    pub fn master(name: &str) -> Self {
        User::new(name, &[MASTERS])
    }

    /// A service account.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        let groups = ["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")];
        User::new(&format!("{SERVICE_ACCOUNT}{namespace}:{name}"), &groups)
    }

    /// Somebody without credentials.
    pub fn anonymous() -> Self {
        User {
            name: ANONYMOUS.to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            ..User::default()
        }
    }

    /// Whether the user is in a group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// Namespace and name, if this is a service account.
    pub fn as_service_account(&self) -> Option<(&str, &str)> {
        self.name.strip_prefix(SERVICE_ACCOUNT)?.split_once(':')
    }

    /// The node's name, if this is a node.
    pub fn as_node(&self) -> Option<&str> {
        let node = self.name.strip_prefix("system:node:")?;
        self.in_group("system:nodes").then_some(node)
    }
}
