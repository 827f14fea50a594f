//! The life of custom resources: a loop that follows CustomResourceDefinitions,
//! serves what they define, says in their status what came of it, and clears
//! away the objects of a definition that goes.
//!
//! Must not judge a definition's content: the kind's own validation did.

mod names;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kinds::crd::{CLEANUP, is_true};
use kinds::custom::Definition;
use meta::{Object, Status, time};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tracing::{debug, warn};

use self::names::Names;
use crate::cache::{Begin, Registration, Selection, Verb};
use crate::core::Core;
use crate::identity::User;
use crate::projection::{Convert, Projection, Rename};
use crate::registry::{Call, Change, DeleteRequest, Target};
use crate::resource::Resource;

const GROUP: &str = "apiextensions.k8s.io";
const PLURAL: &str = "customresourcedefinitions";
/// Pause before a definition is tried again that could not be acted upon.
const AGAIN: Duration = Duration::from_secs(1);

/// What the loop knows.
#[derive(Default)]
struct Known {
    /// All definitions.
    all: BTreeMap<String, Arc<Object>>,
    /// Which generation of each is served.
    served: BTreeMap<String, i64>,
}

impl Core {
    /// Serves what was defined before this start. Called before anything is served at all.
    pub(crate) async fn restore_definitions(&self) {
        let Some(definitions) = self.catalog.find(GROUP, PLURAL) else {
            return;
        };
        for (_, item) in &definitions.cache.snapshot().0 {
            let value = item.object.to_value();
            if is_true(&value, "Established") {
                self.serve(&value).await;
            }
        }
    }

    /// Follows the definitions until the server ends.
    pub(crate) async fn follow_definitions(self: Arc<Self>) {
        let Some(definitions) = self.catalog.find(GROUP, PLURAL).cloned() else {
            return;
        };
        let mut known = Known::default();
        while !self.stop.is_cancelled() {
            let applied = self.progress.applied();
            let subscription = definitions
                .cache
                .subscribe(&Selection::default(), Begin::State, applied);
            let Ok(mut subscription) = subscription else {
                return;
            };
            known.all.clear();
            let initial = subscription.initial.take().unwrap_or_default();
            known.all.extend(
                (&initial)
                    .into_iter()
                    .map(|(k, item)| (k.to_string(), item.object.clone())),
            );
            let mut due: Vec<String> = known.all.keys().cloned().collect();
            loop {
                let mut failed = Vec::new();
                for name in due.drain(..) {
                    if let Err(status) = self.settle(&name, &mut known).await {
                        debug!(definition = name, error = status.message, "tried again");
                        failed.push(name);
                    }
                }
                let next = match subscription.replay.pop_front() {
                    Some(next) => Some(next),
                    None => tokio::select! {
                        next = subscription.live.recv() => next,
                        () = tokio::time::sleep(AGAIN), if !failed.is_empty() => {
                            due = failed;
                            continue;
                        }
                        () = self.stop.cancelled() => return,
                    },
                };
                let Some((event, verb)) = next else { break };
                let object = event.object(verb);
                if verb == Verb::Deleted {
                    known.all.remove(object.name());
                    known.served.remove(object.name());
                    self.withdraw(&object.to_value()).await;
                    // Names that it held are free.
                    let value = object.to_value();
                    due.extend(
                        known
                            .all
                            .values()
                            .filter(|o| group_of(o) == value["spec"]["group"])
                            .map(|o| o.name().to_owned()),
                    );
                } else {
                    known.all.insert(object.name().to_owned(), object.clone());
                    due.push(object.name().to_owned());
                }
                due.extend(failed);
            }
        }
    }

    /// Brings one definition to where it should be.
    async fn settle(&self, name: &str, known: &mut Known) -> Result<(), Status> {
        let Some(object) = known.all.get(name).cloned() else {
            return Ok(());
        };
        let crd = object.to_value();
        if object.is_deleting() {
            return self.clear_away(name, &crd).await;
        }
        let names = self.judge_names(&crd, known);
        let accepted = names.problem.is_none();
        let generation = object.header().generation;
        if (accepted || is_true(&crd, "Established")) && known.served.get(name) != Some(&generation) {
            self.serve(&crd).await;
            known.served.insert(name.to_owned(), generation);
        }
        self.say(name, &|crd, now| {
            set_condition(crd, "NamesAccepted", names.condition(), now);
            let established = match (accepted, is_true(crd, "Established")) {
                (_, true) => None,
                (true, false) => Some(("True", "InitialNamesAccepted", "the initial names have been accepted")),
                (false, false) => Some(("False", "NotAccepted", "not all names are accepted")),
            };
            if let Some(established) = established {
                set_condition(crd, "Established", established, now);
            }
            crd["status"]["acceptedNames"] = names.accepted.clone();
        })
        .await
    }

    fn judge_names(&self, crd: &Value, known: &Known) -> Names {
        let own = crd["metadata"]["name"].as_str().unwrap_or_default();
        let group = &crd["spec"]["group"];
        let others = known.all.values().filter(|o| o.name() != own && group_of(o) == *group);
        let mut taken: Vec<Value> = others
            .map(|o| o.to_value()["status"]["acceptedNames"].clone())
            .collect();
        let built_in = self
            .catalog
            .all()
            .into_iter()
            .filter(|r| !r.kind.custom && *group == *r.kind.group);
        taken.extend(built_in.map(|r| {
            let kind = &r.kind;
            json!({"plural": kind.plural, "singular": kind.singular, "kind": kind.kind, "listKind": kind.list_kind, "shortNames": kind.short_names})
        }));
        Names::judge(crd, &taken)
    }

    /// Puts a definition's versions into the catalog.
    async fn serve(&self, crd: &Value) {
        let definition = match Definition::read(crd) {
            Ok(definition) => definition,
            Err(error) => {
                let name = crd["metadata"]["name"].as_str().unwrap_or_default();
                warn!(definition = name, %error, "a definition cannot be served");
                return;
            }
        };
        let (group, plural) = (definition.group.clone(), definition.plural.clone());
        let resources = self.resources(definition, crd);
        self.register(group, plural, resources).await;
    }

    /// The resources of a definition. What is cached already stays so.
    fn resources(&self, definition: Definition, crd: &Value) -> Vec<Arc<Resource>> {
        let mut stored = Resource::new(definition.storage.clone());
        stored.served = definition
            .served
            .iter()
            .any(|k| k.version == definition.storage.version);
        let known = self.catalog.find_custom(&definition.group, &definition.plural);
        if let Some(known) = known.filter(|k| k.kind.version == stored.kind.version) {
            stored.cache = known.cache.clone();
        }
        let stored = Arc::new(stored);
        let convert = self.conversion(crd);
        let projected = definition
            .served
            .iter()
            .filter(|k| k.version != definition.storage.version);
        let projected = projected.map(|kind| {
            let mut resource = Resource::new(kind.clone());
            resource.prefix.clone_from(&stored.prefix);
            resource.projection = Some(Projection::new(stored.clone(), convert.clone()));
            Arc::new(resource)
        });
        let mut all: Vec<Arc<Resource>> = projected.collect();
        all.push(stored);
        all
    }

    fn conversion(&self, _crd: &Value) -> Arc<dyn Convert> {
        Arc::new(Rename)
    }

    async fn register(&self, group: String, plural: String, resources: Vec<Arc<Resource>>) {
        let (done, told) = oneshot::channel();
        let name = (group, plural);
        let registration = Registration { name, resources, done };
        // Without a feeder the server is ending.
        if self.register.send(registration).is_err() {
            return;
        }
        if let Ok(Err(error)) = told.await {
            warn!(%error, "read the objects of a definition");
        }
    }

    async fn withdraw(&self, crd: &Value) {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let (group, plural) = (text(&crd["spec"]["group"]), text(&crd["spec"]["names"]["plural"]));
        self.register(group, plural, Vec::new()).await;
    }

    /// Deletes the objects of a definition that is going, and then lets it go.
    async fn clear_away(&self, name: &str, crd: &Value) -> Result<(), Status> {
        let finalizers = crd["metadata"]["finalizers"].as_array();
        if !finalizers.is_some_and(|f| f.iter().any(|f| f == CLEANUP)) {
            return Ok(());
        }
        let begun = (
            "True",
            "InstanceDeletionInProgress",
            "CustomResource deletion is in progress",
        );
        self.say(name, &|crd, now| set_condition(crd, "Terminating", begun, now))
            .await?;
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let (group, plural) = (text(&crd["spec"]["group"]), text(&crd["spec"]["names"]["plural"]));
        if let Some(resource) = self.catalog.find_custom(&group, &plural) {
            let call = master();
            let all = Target::of(&resource, "", "");
            let request = DeleteRequest::default();
            self.delete_collection(&call, all, &Selection::default(), &request)
                .await?;
            let left = resource.cache.snapshot().0.len();
            if left > 0 {
                // Held by finalizers: looked at again after a while.
                return Err(Status::conflict(
                    &group,
                    &plural,
                    name,
                    format!("{left} objects are held by finalizers"),
                ));
            }
        }
        let done = ("False", "InstanceDeletionCompleted", "removed all instances");
        self.say(name, &|crd, now| {
            set_condition(crd, "Terminating", done, now);
        })
        .await?;
        self.write(name, "", &|crd, _| {
            if let Some(finalizers) = crd["metadata"]["finalizers"].as_array_mut() {
                finalizers.retain(|f| f != CLEANUP);
            }
        })
        .await
    }

    async fn say(&self, name: &str, edit: &(dyn Fn(&mut Value, &str) + Sync)) -> Result<(), Status> {
        self.write(name, "status", edit).await
    }

    async fn write(&self, name: &str, part: &str, edit: &(dyn Fn(&mut Value, &str) + Sync)) -> Result<(), Status> {
        let definitions = self.catalog.find(GROUP, PLURAL).ok_or_else(Status::no_such_path)?;
        let call = master();
        let now = time::rfc3339(Timestamp::now());
        let wanted = |old: &Arc<Object>| {
            let mut value = old.to_value();
            edit(&mut value, &now);
            Ok(Change { value, managed: None })
        };
        let written = self.change(&call, Target::of(definitions, "", name).sub(part), &wanted);
        match written.await {
            Err(status) if !status.is_not_found() => Err(status),
            _ => Ok(()),
        }
    }
}

fn group_of(crd: &Object) -> Value {
    crd.to_value()["spec"]["group"].clone()
}

fn master() -> Call {
    let mut call = Call::new(Arc::new(User::master("system:apiserver")));
    call.field_manager = "kube-apiserver".into();
    call
}

/// Sets a condition: type, then status, reason and message. Its time changes with its status.
fn set_condition(crd: &mut Value, kind: &str, (status, reason, message): (&str, &str, &str), now: &str) {
    if !crd["status"]["conditions"].is_array() {
        crd["status"]["conditions"] = json!([]);
    }
    let Some(conditions) = crd["status"]["conditions"].as_array_mut() else {
        return;
    };
    let mut fresh =
        json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now});
    match conditions.iter_mut().find(|c| c["type"] == kind) {
        Some(old) => {
            if old["status"] == status {
                fresh["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = fresh;
        }
        None => conditions.push(fresh),
    }
}
