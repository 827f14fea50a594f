//! The authorizer as expressions see it: a callback of the caller's. What an answer
//! costs is fixed; how it is found is not known here.

use std::sync::Arc;

/// Whom a check is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Subject {
    /// The user of the request.
    #[default]
    Requester,
    /// A service account: namespace and name.
    ServiceAccount(Arc<str>, Arc<str>),
}

/// A question about a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceCheck {
    /// API group.
    pub group: String,
    /// Plural name.
    pub resource: String,
    /// Subresource, or nothing.
    pub subresource: String,
    /// Namespace, or nothing.
    pub namespace: String,
    /// Name, or nothing.
    pub name: String,
    /// Field selector, not parsed.
    pub field_selector: String,
    /// Label selector, not parsed.
    pub label_selector: String,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question<'q> {
    /// May this path be requested?
    Path(&'q str),
    /// May this resource be used?
    Resource(&'q ResourceCheck),
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What went wrong while finding out.
    pub error: Option<String>,
}

/// Answers checks.
pub trait Authorizer: Send + Sync {
    /// Whether the subject may do `verb` there.
    fn authorize(&self, subject: &Subject, verb: &str, question: Question<'_>) -> Decision;
}

impl std::fmt::Debug for dyn Authorizer + '_ {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authorizer")
    }
}
