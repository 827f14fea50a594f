//! The engine that serves every kind: read, create, update, patch, delete.
//! The order of a write is fixed: decode, prepare, admit, prune, default,
//! validate, admit, own fields, encode, commit, cache.
//!
//! Must not know HTTP; must not know a kind by name where its strategy could say it.

mod commit;
mod create;
mod delete;
mod list;
mod metadata;
mod patch;
mod scale;
mod update;

pub(crate) use commit::{Written, store_status};
pub(crate) use create::dry;
pub use delete::{DeleteRequest, Deleted};
pub(crate) use list::parse_revision;
pub use list::{ListQuery, Listed};
pub(crate) use metadata::suffix;
pub use patch::PatchRequest;
pub use update::Change;

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;
use meta::{Object, Status};
use serde_json::Value;

use crate::identity::User;
use crate::resource::Resource;

/// What to do with unknown and duplicate fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Drop them.
    Ignore,
    /// Drop them and warn.
    #[default]
    Warn,
    /// Refuse the request.
    Strict,
}

/// One call, as far as the engine cares.
#[derive(Debug)]
pub struct Call {
    /// Who calls.
    pub user: Arc<User>,
    /// When.
    pub now: Timestamp,
    /// Do everything but commit.
    pub dry_run: bool,
    /// Who owns the fields that are written.
    pub field_manager: String,
    /// Apply takes fields from other managers.
    pub force: bool,
    /// About unknown fields.
    pub field_validation: FieldValidation,
    warnings: Mutex<Vec<String>>,
}

impl Call {
    /// A call with default options.
    pub fn new(user: Arc<User>) -> Self {
        Call {
            user,
            now: Timestamp::now(),
            dry_run: false,
            field_manager: String::new(),
            force: false,
            field_validation: FieldValidation::Warn,
            warnings: Mutex::new(Vec::new()),
        }
    }

    /// Adds a warning for the client, once.
    pub fn warn(&self, warning: impl Into<String>) {
        let warning = warning.into();
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    /// The warnings so far.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a call is about.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// The resource.
    pub resource: &'a Arc<Resource>,
    /// Empty when cluster-scoped.
    pub namespace: &'a str,
    /// Empty for the collection.
    pub name: &'a str,
    /// Empty for the main resource.
    pub subresource: &'a str,
}

impl<'a> Target<'a> {
    /// An object of a resource.
    pub fn of(resource: &'a Arc<Resource>, namespace: &'a str, name: &'a str) -> Self {
        Target {
            resource,
            namespace,
            name,
            subresource: "",
        }
    }

    /// The same with a subresource.
    pub fn sub(self, subresource: &'a str) -> Self {
        Target { subresource, ..self }
    }

    /// 404 for the target.
    pub fn not_found(&self) -> Status {
        self.resource.not_found(self.name)
    }

    /// 409 for a stale write.
    pub fn modified(&self) -> Status {
        Status::modified(&self.resource.kind.group, &self.resource.kind.plural, self.name)
    }

    /// 409 for a precondition.
    pub fn conflict(&self, why: impl std::fmt::Display) -> Status {
        Status::conflict(&self.resource.kind.group, &self.resource.kind.plural, self.name, why)
    }

    /// 403.
    pub fn forbidden(&self, why: impl std::fmt::Display) -> Status {
        Status::forbidden(&self.resource.kind.group, &self.resource.kind.plural, self.name, why)
    }
}

/// A decoded body: the value, and what to say about fields that were given twice.
#[derive(Debug, Default)]
pub struct Input {
    /// The object.
    pub value: Value,
    /// Warnings, or the errors of strict validation.
    pub problems: Vec<String>,
}

impl std::convert::From<Value> for Input {
    fn from(value: Value) -> Self {
        Input {
            value,
            problems: Vec::new(),
        }
    }
}

/// An object to be committed: its value without managed fields, and those.
pub(crate) struct Draft {
    pub value: Value,
    pub managed: Option<Bytes>,
}

/// A result that may be the caller's to print: a stored object, or one made up for the answer.
pub type Answer = Arc<Object>;
