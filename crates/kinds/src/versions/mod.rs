//! Second versions of stored kinds: `events.k8s.io/v1` Event and `autoscaling/v1`
//! HorizontalPodAutoscaler. Objects are stored in the form of [`Second::stored`];
//! these are the names under which another form is served, and the way there and back.

mod autoscalers;
mod events;

use std::sync::{Arc, OnceLock};

use meta::Gvr;
use serde_json::Value;

use crate::Kind;
use crate::resources::{AUTOSCALERS, EVENTS};

/// A form in which objects are served, but not stored.
pub struct Second {
    /// Names, schema and columns of the form. Its strategy judges objects of this form.
    pub kind: Arc<Kind>,
    /// The resource that stores the objects.
    pub stored: Gvr,
    /// From the stored form; `apiVersion` included.
    pub from_stored: fn(Value) -> Value,
    /// To the stored form; `apiVersion` included.
    pub to_stored: fn(Value) -> Value,
}

/// All of them.
pub fn all() -> &'static [Second] {
    static ALL: OnceLock<Vec<Second>> = OnceLock::new();
    ALL.get_or_init(|| {
        vec![
            Second {
                kind: Arc::new(events::kind().into()),
                stored: EVENTS,
                from_stored: events::from_core,
                to_stored: events::to_core,
            },
            Second {
                kind: Arc::new(autoscalers::kind().into()),
                stored: AUTOSCALERS,
                from_stored: autoscalers::from_v2,
                to_stored: autoscalers::to_v2,
            },
        ]
    })
}

/// Moves a field, and drops what stands for an absent one.
fn rename(object: &mut Value, from: &str, to: &str) {
    if let Value::Object(map) = object
        && let Some(value) = map.remove(from)
        && !value.is_null()
    {
        map.insert(to.to_owned(), value);
    }
}
