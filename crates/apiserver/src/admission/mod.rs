//! Admission: what may change or refuse a write after it was authorised.
//! Plug-ins run in a fixed order, mutating ones before defaults and validation.
//!
//! Must not commit anything on behalf of the request.

mod certificates;
mod limits;
mod namespace;
mod pod;
mod restrict;
mod service;

pub use service::Reserved;

use std::any::Any;

use async_trait::async_trait;
use kinds::Kind;
use meta::Status;
use serde_json::Value;

use crate::core::Core;
use crate::registry::{Call, Target};

/// What a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Creates an object.
    Create,
    /// Changes one.
    Update,
    /// Deletes one.
    Delete,
    /// Opens a connection (`exec` and the like).
    Connect,
}

/// A write, as plug-ins see it.
pub struct Attributes<'a> {
    /// Who, when, how.
    pub call: &'a Call,
    /// Which object.
    pub target: Target<'a>,
    /// What is done.
    pub operation: Operation,
    /// The new state; null for deletions.
    pub object: Value,
    /// The state before; `None` for creations.
    pub old: Option<&'a Value>,
    /// Reservations, given back when the write is over.
    pub held: Vec<Box<dyn Any + Send>>,
}

impl Attributes<'_> {
    /// The kind of the object.
    pub fn kind(&self) -> &Kind {
        &self.target.resource.kind
    }

    /// Whether this creates an object of a kind.
    pub fn creates(&self, group: &str, kind: &str) -> bool {
        self.operation == Operation::Create && self.is(group, kind)
    }

    /// Whether this is about the main resource of a kind.
    pub fn is(&self, group: &str, kind: &str) -> bool {
        self.target.subresource.is_empty() && self.kind().group == group && self.kind().kind == kind
    }
}

/// A plug-in.
#[async_trait]
pub trait Admission: Send + Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// Whether this plug-in cares. Asked before either of the others is called.
    fn handles(&self, attributes: &Attributes<'_>) -> bool;

    /// May change `attributes.object`. Called before defaults and validation.
    async fn admit(&self, _core: &Core, _attributes: &mut Attributes<'_>) -> Result<(), Status> {
        Ok(())
    }

    /// Must not change anything. Called after validation.
    async fn validate(&self, _core: &Core, _attributes: &mut Attributes<'_>) -> Result<(), Status> {
        Ok(())
    }
}

/// The built-in plug-ins, in upstream's order.
pub fn built_in() -> Vec<Box<dyn Admission>> {
    vec![
        Box::new(namespace::NamespaceLifecycle),
        Box::new(limits::LimitRanger),
        Box::new(pod::ServiceAccount),
        Box::new(restrict::NodeRestriction),
        Box::new(pod::Priority),
        Box::new(pod::DefaultTolerationSeconds),
        Box::new(namespace::DefaultStorageClass),
        Box::new(service::ServiceAddresses),
        Box::new(certificates::Certificates),
        Box::new(restrict::Escalation),
        Box::new(limits::ResourceQuota),
    ]
}

impl Core {
    /// Runs the mutating plug-ins.
    pub(crate) async fn admit(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        for plugin in &self.admission {
            if plugin.handles(attributes) {
                plugin.admit(self, attributes).await?;
            }
        }
        Ok(())
    }

    /// Runs the validating plug-ins.
    pub(crate) async fn validate_admission(&self, attributes: &mut Attributes<'_>) -> Result<(), Status> {
        for plugin in &self.admission {
            if plugin.handles(attributes) {
                plugin.validate(self, attributes).await?;
            }
        }
        Ok(())
    }
}
