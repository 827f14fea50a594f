//! Changes that a subresource makes to parts which neither a main write nor a
//! status write may touch. Must only be given functions that touch those parts.

use std::sync::Arc;

use meta::{Object, Status};
use serde_json::Value;

use crate::core::Core;
use crate::machinery::{self, Manager};
use crate::registry::{Answer, Call, Draft, Target, Written, dry};

/// The new state, from the present object and its value.
pub(crate) type Rewrite<'a> = dyn Fn(&Arc<Object>, Value) -> Result<Value, Status> + Sync + 'a;

const TRIES: usize = 8;

impl Core {
    /// Replaces the object by a function of it, with field ownership but without admission
    /// and strategy; a race is tried again.
    pub(crate) async fn rewrite(
        &self,
        call: &Call,
        target: Target<'_>,
        wanted: &Rewrite<'_>,
    ) -> Result<Answer, Status> {
        let kind = &target.resource.kind;
        for _ in 0..TRIES {
            let old = self.current(target)?;
            let before = old.to_value();
            let value = wanted(&old, before.clone())?;
            if value == before {
                return Ok(old);
            }
            let live = Some((&before, old.managed_fields()));
            let managed = machinery::track(kind, live, &value, None, &Manager::of(call, target.subresource));
            let draft = Draft { value, managed };
            if call.dry_run {
                return dry(draft);
            }
            match self.commit_update(target, old.resource_version(), &draft).await? {
                Written::Done(object) => return Ok(object),
                Written::Lost => {}
            }
        }
        Err(target.modified())
    }
}
