//! How the pods of a DaemonSet are brought to a new template: by deleting old ones, or by
//! making new ones beside them.
//!
//! Must not touch pods that are up to date.

use std::sync::Arc;

use meta::Object;

use super::{Member, Set, Work};
use crate::common::{is_terminal, scaled};

impl Set<'_> {
    /// `maxSurge` and `maxUnavailable` in pods; never both 0.
    pub(super) fn limits(&self) -> (usize, usize) {
        let rolling = &self.value["spec"]["updateStrategy"]["rollingUpdate"];
        let desired = self.nodes.values().filter(|f| f.should_run).count();
        let desired = i32::try_from(desired).unwrap_or(i32::MAX);
        let count = |field: &str| {
            let value = Some(&rolling[field]).filter(|v| !v.is_null());
            usize::try_from(scaled(value, desired, true)).unwrap_or(0)
        };
        let surge = count("maxSurge");
        let unavailable = if rolling["maxUnavailable"].is_null() && surge == 0 {
            1
        } else {
            count("maxUnavailable")
        };
        if surge == 0 {
            (0, unavailable.max(1))
        } else {
            (surge, unavailable)
        }
    }

    /// Decides which old pods go, and which nodes get a second pod.
    pub(super) fn roll(&self, work: &mut Work) {
        match self.limits() {
            (0, unavailable) => self.replace(work, unavailable),
            (surge, _) => self.surge(work, surge),
        }
    }

    /// The old and the new pod of each node that should have one.
    fn pairs(&self) -> impl Iterator<Item = (&str, Option<&Member>, Option<&Member>)> {
        let nodes = self.nodes.iter().filter(|(_, f)| f.should_run);
        nodes.map(|(name, _)| {
            let pods = self.members.get(name).map_or(&[][..], Vec::as_slice);
            let running = || pods.iter().filter(|m| !is_terminal(&m.pod));
            (
                name.as_str(),
                running().find(|m| !m.current),
                running().find(|m| m.current),
            )
        })
    }

    fn replace(&self, work: &mut Work, limit: usize) {
        let mut down = 0;
        let (mut broken, mut candidates): (Vec<Arc<Object>>, Vec<Arc<Object>>) = (Vec::new(), Vec::new());
        for (_, old, new) in self.pairs() {
            match (old, new) {
                (None, None) => down += 1,
                (_, Some(new)) => down += usize::from(!new.available),
                (Some(old), None) if old.object.is_deleting() => down += 1,
                (Some(old), None) if !old.available => {
                    down += 1;
                    broken.push(old.object.clone());
                }
                (Some(old), None) => candidates.push(old.object.clone()),
            }
        }
        // Those that are down already cost nothing.
        work.delete.extend(broken);
        work.delete
            .extend(candidates.into_iter().take(limit.saturating_sub(down)));
    }

    fn surge(&self, work: &mut Work, limit: usize) {
        let mut surging = 0;
        let (mut broken, mut candidates) = (Vec::new(), Vec::new());
        for (node, old, new) in self.pairs() {
            match (old, new) {
                (Some(old), Some(new)) if new.available => {
                    if !old.object.is_deleting() {
                        work.delete.push(old.object.clone());
                    }
                }
                (Some(_), Some(_)) => surging += 1,
                (Some(old), None) if !old.available || old.object.is_deleting() => broken.push(node.to_owned()),
                (Some(_), None) => candidates.push(node.to_owned()),
                (None, _) => {}
            }
        }
        work.create.extend(broken);
        work.create
            .extend(candidates.into_iter().take(limit.saturating_sub(surging)));
    }
}
