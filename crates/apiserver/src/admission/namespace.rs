//! NamespaceLifecycle: nothing is made in a namespace that is not there or is
//! going away; the namespaces that every cluster has stay.

use async_trait::async_trait;
use meta::{Cause, Status};
use serde_json::json;

use super::{Admission, Attributes, Operation};
use crate::core::Core;

pub(super) struct NamespaceLifecycle;

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

#[async_trait]
impl Admission for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        match a.operation {
            Operation::Create => a.kind().namespaced() || a.is("", "Namespace"),
            Operation::Update | Operation::Delete => a.is("", "Namespace"),
            Operation::Connect => false,
        }
    }

    async fn admit(&self, core: &Core, a: &mut Attributes<'_>) -> Result<(), Status> {
        if a.is("", "Namespace") {
            if a.operation == Operation::Delete {
                if IMMORTAL.contains(&a.target.name) {
                    return Err(a.target.forbidden("this namespace may not be deleted"));
                }
            } else {
                a.object["metadata"]["labels"]["kubernetes.io/metadata.name"] = a.target.name.into();
            }
            return Ok(());
        }
        let namespace = a.target.namespace;
        let Some(namespaces) = core.catalog.find("", "namespaces") else {
            return Ok(());
        };
        let Some(item) = namespaces.cache.get(namespace) else {
            return Err(Status::not_found("", "namespaces", namespace));
        };
        if item.object.is_deleting() {
            let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
            let mut status = a.target.forbidden(why);
            status.causes.push(Cause {
                reason: "NamespaceTerminating".into(),
                message: format!("namespace {namespace} is being terminated"),
                field: "metadata.namespace".into(),
            });
            return Err(status);
        }
        Ok(())
    }
}

/// DefaultStorageClass: a claim that names no class gets the default one.
pub(super) struct DefaultStorageClass;

const IS_DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";

#[async_trait]
impl Admission for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        a.creates("", "PersistentVolumeClaim")
    }

    async fn admit(&self, core: &Core, a: &mut Attributes<'_>) -> Result<(), Status> {
        // An empty name asks for no class at all.
        if a.object.pointer("/spec/storageClassName").is_some_and(|c| !c.is_null()) {
            return Ok(());
        }
        let Some(classes) = core.catalog.find("storage.k8s.io", "storageclasses") else {
            return Ok(());
        };
        let (snapshot, _) = classes.cache.snapshot();
        let defaults = (&snapshot).into_iter().map(|(_, item)| &item.object);
        let defaults = defaults.filter(|c| c.annotations().get(IS_DEFAULT).is_some_and(|v| v == "true"));
        // Of several, the newest; of equally new ones, the first by name.
        let newest = defaults.max_by(|x, y| {
            let key = |o: &meta::Object| o.header().creation_timestamp.clone();
            key(x).cmp(&key(y)).then_with(|| y.name().cmp(x.name()))
        });
        if let Some(class) = newest {
            a.object["spec"]["storageClassName"] = json!(class.name());
        }
        Ok(())
    }
}
