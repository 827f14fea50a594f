//! The form of every control loop: a [`View`] of the declared inputs, a
//! [`Plan`] as a pure function of (clock, key, view), and [`Action`]s that
//! leave no choice open.
//!
//! Must not do I/O, read a clock or keep state between plans.

mod action;
mod world;

pub use action::{Action, EventKind, Plan};
pub use world::World;

use std::sync::Arc;

use jiff::Timestamp;
use meta::{Gvr, Object};

/// What a plan may look at: the objects of the declared inputs, as the caches have them.
///
/// `namespace` is empty for cluster-scoped objects, and for lists across namespaces.
pub trait View: Send + Sync {
    /// One object.
    fn get(&self, gvr: &Gvr, namespace: &str, name: &str) -> Option<Arc<Object>>;

    /// The objects of a namespace, in order.
    fn list(&self, gvr: &Gvr, namespace: &str) -> Vec<Arc<Object>>;

    /// The objects that name an owner by uid, in order; those that nobody controls for "".
    fn owned(&self, gvr: &Gvr, owner_uid: &str) -> Vec<Arc<Object>>;
}

/// What is planned: namespace (empty when cluster-scoped) and name of the primary object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Namespace; empty when cluster-scoped.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// From its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Key {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// Of an object.
    pub fn of(object: &Object) -> Self {
        Key::new(object.namespace(), object.name())
    }
}

/// A resource that a controller looks at, and whom its changes concern.
#[derive(Clone)]
pub struct Input {
    /// The resource.
    pub gvr: Gvr,
    /// The keys to plan again when this object changes (its old and its new state are both asked).
    pub keys: fn(&Object, &dyn View) -> Vec<Key>,
}

impl Input {
    /// The primary resource: an object concerns itself.
    pub fn primary(gvr: Gvr) -> Self {
        Input {
            gvr,
            keys: |o, _| vec![Key::of(o)],
        }
    }

    /// A resource that is only looked at.
    pub fn silent(gvr: Gvr) -> Self {
        Input {
            gvr,
            keys: |_, _| Vec::new(),
        }
    }
}

/// A control loop.
pub trait Controller: Send + Sync {
    /// Name in metrics, events and identities, such as `deployment-controller`.
    fn name(&self) -> &'static str;

    /// Everything that [`Controller::plan`] looks at.
    fn inputs(&self) -> Vec<Input>;

    /// What to do now. Must not fail: bad input becomes a condition or an event. Planning
    /// again after the plan was carried out must give an empty plan.
    fn plan(&self, now: Timestamp, key: &Key, view: &dyn View) -> Plan;
}

/// The owner that controls an object, as a key in the object's namespace, if it is of a kind.
pub fn controller_key(object: &Object, kind: &str) -> Vec<Key> {
    object
        .controller()
        .filter(|o| o.kind == kind)
        .map(|o| Key::new(object.namespace(), &o.name))
        .into_iter()
        .collect()
}
