//! The cache of one informer: objects by key, indexes, and who is told of changes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use meta::Object;
use tokio::sync::{broadcast, watch};

/// Changes kept for a subscriber that is behind; one further behind looks at everything again.
const BACKLOG: usize = 4096;

/// Values under which an object is found.
pub type Index = fn(&Object) -> Vec<String>;

/// What happened to an object. Both `None` means: look at everything again.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Before; `None` when it is new.
    pub old: Option<Arc<Object>>,
    /// Now; `None` when it is gone.
    pub new: Option<Arc<Object>>,
}

impl Change {
    /// The object, whichever state there is.
    pub fn object(&self) -> Option<&Arc<Object>> {
        self.new.as_ref().or(self.old.as_ref())
    }
}

/// Objects of one resource, as the API has them now.
pub struct Informer {
    state: RwLock<State>,
    changes: broadcast::Sender<Change>,
    /// Revision that the cache has seen; 0 until the first list is complete.
    revision: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Arc<Object>>,
    /// Owner's uid to keys.
    owned: HashMap<String, BTreeSet<String>>,
    indexes: HashMap<&'static str, (Index, HashMap<String, BTreeSet<String>>)>,
}

impl Informer {
    pub(crate) fn new() -> Self {
        Informer {
            state: RwLock::default(),
            changes: broadcast::channel(BACKLOG).0,
            revision: watch::channel(0).0,
        }
    }

    /// An object by namespace (empty when cluster-scoped) and name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.read().objects.get(&key(namespace, name)).cloned()
    }

    /// All objects of a namespace, or all when it is empty, in order.
    pub fn list(&self, namespace: &str) -> Vec<Arc<Object>> {
        let state = self.read();
        if namespace.is_empty() {
            return state.objects.values().cloned().collect();
        }
        let prefix = format!("{namespace}/");
        let from = (Bound::Included(prefix.as_str()), Bound::Unbounded);
        let range = state.objects.range::<str, _>(from);
        range
            .take_while(|(k, _)| k.starts_with(&prefix))
            .map(|(_, o)| o.clone())
            .collect()
    }

    /// The objects that name an owner by uid, in order; those that nobody controls for "".
    pub fn owned(&self, uid: &str) -> Vec<Arc<Object>> {
        let state = self.read();
        collect(&state, state.owned.get(uid))
    }

    /// Adds an index; objects that are there already are put into it.
    pub fn add_index(&self, name: &'static str, index: Index) {
        let mut state = self.write();
        let mut entries: HashMap<String, BTreeSet<String>> = HashMap::new();
        for (key, object) in &state.objects {
            for value in index(object) {
                entries.entry(value).or_default().insert(key.clone());
            }
        }
        state.indexes.entry(name).or_insert((index, entries));
    }

    /// The objects under a value of an index, in order; none when there is no such index.
    pub fn indexed(&self, name: &str, value: &str) -> Vec<Arc<Object>> {
        let state = self.read();
        collect(
            &state,
            state.indexes.get(name).and_then(|(_, entries)| entries.get(value)),
        )
    }

    /// The revision up to which the cache is complete; 0 before the first list.
    pub fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    /// Waits until the first list is complete.
    pub async fn synced(&self) {
        self.reached(1).await;
    }

    /// Waits until the cache has seen a revision.
    pub async fn reached(&self, revision: u64) {
        let mut seen = self.revision.subscribe();
        // The sender lives in `self`, so this cannot end early.
        let _ = seen.wait_for(|r| *r >= revision).await;
    }

    /// All that changes from now on.
    pub fn subscribe(&self) -> Subscription {
        Subscription(self.changes.subscribe())
    }

    /// Takes in an object that is there; an older version than the one known is left out.
    pub(crate) fn put(&self, object: Arc<Object>) {
        let old = {
            let mut state = self.write();
            let key = object.key();
            let old = state.objects.get(&key).cloned();
            let stale = old
                .as_ref()
                .is_some_and(|o| o.uid() == object.uid() && o.resource_version() >= object.resource_version());
            if stale && object.resource_version() != 0 {
                return;
            }
            if let Some(old) = &old {
                state.unlink(&key, old);
            }
            state.link(&key, &object);
            state.objects.insert(key, object.clone());
            old
        };
        self.tell(Change { old, new: Some(object) });
    }

    /// Takes in that an object is gone.
    pub(crate) fn remove(&self, key: &str) {
        let old = {
            let mut state = self.write();
            let old = state.objects.remove(key);
            if let Some(old) = &old {
                state.unlink(key, old);
            }
            old
        };
        if old.is_some() {
            self.tell(Change { old, new: None });
        }
    }

    /// Everything but these keys is gone: the end of a new list.
    pub(crate) fn retain(&self, keys: &BTreeSet<String>) {
        let gone: Vec<String> = self
            .read()
            .objects
            .keys()
            .filter(|k| !keys.contains(*k))
            .cloned()
            .collect();
        gone.iter().for_each(|k| self.remove(k));
    }

    /// The cache is complete up to a revision.
    pub(crate) fn advance(&self, revision: u64) {
        self.revision.send_if_modified(|seen| {
            let newer = revision > *seen;
            if newer {
                *seen = revision;
            }
            newer
        });
    }

    fn tell(&self, change: Change) {
        // Nobody listening is fine.
        let _ = self.changes.send(change);
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn link(&mut self, key: &str, object: &Object) {
        for owner in owners(object) {
            self.owned.entry(owner.to_owned()).or_default().insert(key.to_owned());
        }
        for (index, entries) in self.indexes.values_mut() {
            for value in index(object) {
                entries.entry(value).or_default().insert(key.to_owned());
            }
        }
    }

    fn unlink(&mut self, key: &str, object: &Object) {
        for owner in owners(object) {
            take(&mut self.owned, owner, key);
        }
        for (index, entries) in self.indexes.values_mut() {
            for value in index(object) {
                take(entries, &value, key);
            }
        }
    }
}

/// The uids of an object's owners; "" when nobody controls it.
fn owners(object: &Object) -> impl Iterator<Item = &str> {
    let nobody = object.controller().is_none().then_some("");
    let named = object.header().owner_references.iter().map(|o| o.uid.as_str());
    named.chain(nobody)
}

fn take(entries: &mut HashMap<String, BTreeSet<String>>, value: &str, key: &str) {
    if let Some(keys) = entries.get_mut(value) {
        keys.remove(key);
        if keys.is_empty() {
            entries.remove(value);
        }
    }
}

fn collect(state: &State, keys: Option<&BTreeSet<String>>) -> Vec<Arc<Object>> {
    keys.into_iter()
        .flatten()
        .filter_map(|k| state.objects.get(k).cloned())
        .collect()
}

fn key(namespace: &str, name: &str) -> String {
    if namespace.is_empty() {
        name.to_owned()
    } else {
        format!("{namespace}/{name}")
    }
}

/// Changes as they come.
pub struct Subscription(broadcast::Receiver<Change>);

impl Subscription {
    /// The next change; an empty one when some were missed. `None` when the informer has ended.
    pub async fn next(&mut self) -> Option<Change> {
        match self.0.recv().await {
            Ok(change) => Some(change),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Change::default()),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(namespace: &str, name: &str, owner: &str, revision: u64) -> Arc<Object> {
        let owners = json!([{"apiVersion": "v1", "kind": "X", "name": "o", "uid": owner}]);
        let value = json!({"metadata": {"namespace": namespace, "name": name, "uid": name,
            "resourceVersion": revision.to_string(), "ownerReferences": owners}});
        Arc::new(Object::from_value(value).unwrap())
    }

    #[tokio::test]
    async fn indexes_follow_changes_and_old_versions_are_left_out() {
        let informer = Informer::new();
        let mut changes = informer.subscribe();
        informer.put(object("a", "x", "o1", 5));
        informer.put(object("b", "y", "o1", 6));
        informer.add_index("name", |o| vec![o.name().to_owned()]);
        assert_eq!(informer.owned("o1").len(), 2);
        assert_eq!(informer.list("a").len(), 1);
        informer.put(object("a", "x", "o2", 7));
        informer.put(object("a", "x", "o1", 6));
        assert_eq!(informer.owned("o2").len(), 1);
        assert_eq!(informer.indexed("name", "x").len(), 1);
        informer.retain(&BTreeSet::from(["b/y".to_owned()]));
        assert!(informer.get("a", "x").is_none() && informer.owned("o2").is_empty());
        let mut seen = Vec::new();
        for _ in 0..4 {
            let c = changes.next().await.unwrap();
            seen.push((c.old.is_some(), c.new.is_some()));
        }
        assert_eq!(seen, [(false, true), (false, true), (true, true), (true, false)]);
    }

    #[tokio::test]
    async fn a_slow_subscriber_is_told_to_look_again() {
        let informer = Informer::new();
        let mut changes = informer.subscribe();
        for i in 0..(BACKLOG as u64 + 10) {
            informer.put(object("a", "x", "o", i + 1));
        }
        let first = changes.next().await.unwrap();
        assert!(first.object().is_none());
        assert!(changes.next().await.unwrap().object().is_some());
    }

    #[tokio::test]
    async fn revisions_are_waited_for() {
        let informer = Arc::new(Informer::new());
        let waiting = tokio::spawn({
            let informer = informer.clone();
            async move { informer.reached(9).await }
        });
        informer.advance(3);
        informer.advance(9);
        tokio::time::timeout(std::time::Duration::from_secs(5), waiting)
            .await
            .unwrap()
            .unwrap();
    }
}
