//! The encoded object: its JSON bytes are the primary form, its header is
//! parsed once, and a typed view is decoded at most once and shared.
//!
//! Must not know any kind. Must not re-encode what it was given.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Gvk;

/// An object as it is stored, cached, listed and watched.
///
/// `raw` is the object's JSON without `metadata.managedFields`, which travels
/// beside it so that readers who do not ask for it never pay for it.
pub struct Object {
    raw: Bytes,
    managed_fields: Option<Bytes>,
    header: Header,
    view: OnceLock<Arc<dyn Any + Send + Sync>>,
}

/// What every reader needs of an object without decoding the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`; empty when cluster-scoped.
    pub namespace: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion` as a number; 0 when absent.
    pub resource_version: u64,
    /// `metadata.generation`; 0 when absent.
    pub generation: i64,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// `metadata.ownerReferences`.
    pub owner_references: Vec<OwnerReference>,
    /// `metadata.finalizers`.
    pub finalizers: Vec<String>,
    /// `metadata.creationTimestamp`, RFC 3339.
    pub creation_timestamp: Option<String>,
    /// `metadata.deletionTimestamp`, RFC 3339; set while the object is being deleted.
    pub deletion_timestamp: Option<String>,
}

/// `metadata.ownerReferences[*]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference {
    /// API version of the owner.
    pub api_version: String,
    /// Kind of the owner.
    pub kind: String,
    /// Name of the owner, in the same namespace or cluster-scoped.
    pub name: String,
    /// UID of the owner: what actually identifies it.
    pub uid: String,
    /// Whether this owner is the managing controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<bool>,
    /// Whether foreground deletion of the owner waits for this object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_owner_deletion: Option<bool>,
}

/// Why bytes are not an object, or not the view that was asked for.
#[derive(Debug, thiserror::Error)]
#[error("decode object")]
pub struct DecodeError(#[from] serde_json::Error);

impl Object {
    /// An object from its JSON without managed fields.
    pub fn from_json(raw: impl Into<Bytes>) -> Result<Self, DecodeError> {
        Self::from_parts(raw.into(), None)
    }

    /// An object from its JSON and, apart, the JSON array of its managed fields.
    pub fn from_parts(raw: Bytes, managed_fields: Option<Bytes>) -> Result<Self, DecodeError> {
        // Derived decoders take an array for a struct; an object must be an object.
        if raw.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
            return Err(DecodeError(serde::de::Error::custom("expected a JSON object")));
        }
        let wire: WireObject = serde_json::from_slice(&raw)?;
        Ok(Object {
            raw,
            managed_fields,
            header: wire.into_header(),
            view: OnceLock::new(),
        })
    }

    /// An object from a decoded value; `metadata.managedFields` is split off.
    pub fn from_value(mut value: Value) -> Result<Self, DecodeError> {
        let managed = value
            .get_mut("metadata")
            .and_then(Value::as_object_mut)
            .and_then(|m| m.remove("managedFields"))
            .filter(|m| !m.is_null());
        let managed = match managed {
            Some(m) => Some(Bytes::from(serde_json::to_vec(&m)?)),
            None => None,
        };
        Self::from_parts(serde_json::to_vec(&value)?.into(), managed)
    }

    /// The object's JSON without managed fields.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The JSON array of `metadata.managedFields`, if there is one.
    pub fn managed_fields(&self) -> Option<&Bytes> {
        self.managed_fields.as_ref()
    }

    /// The parsed header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        &self.header.name
    }

    /// `metadata.namespace`; empty when cluster-scoped.
    pub fn namespace(&self) -> &str {
        &self.header.namespace
    }

    /// `metadata.uid`.
    pub fn uid(&self) -> &str {
        &self.header.uid
    }

    /// `metadata.resourceVersion`; 0 when absent.
    pub fn resource_version(&self) -> u64 {
        self.header.resource_version
    }

    /// `metadata.labels`.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.header.labels
    }

    /// `metadata.annotations`.
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        &self.header.annotations
    }

    /// Whether `metadata.deletionTimestamp` is set.
    pub fn is_deleting(&self) -> bool {
        self.header.deletion_timestamp.is_some()
    }

    /// `namespace/name`, or `name` when cluster-scoped: the key of queues and caches.
    pub fn key(&self) -> String {
        if self.header.namespace.is_empty() {
            self.header.name.clone()
        } else {
            format!("{}/{}", self.header.namespace, self.header.name)
        }
    }

    /// Group, version and kind.
    pub fn gvk(&self) -> Gvk {
        Gvk::parse(&self.header.api_version, &self.header.kind)
    }

    /// The owner reference with `controller: true`.
    pub fn controller(&self) -> Option<&OwnerReference> {
        self.header.owner_references.iter().find(|o| o.controller == Some(true))
    }

    /// A typed view, decoded at the first call and shared by all later ones.
    ///
    /// One type per object should be used throughout the process: a second type
    /// is decoded at every call.
    pub fn view<T: DeserializeOwned + Send + Sync + 'static>(&self) -> Result<Arc<T>, DecodeError> {
        if let Some(seen) = self.view.get()
            && let Ok(view) = seen.clone().downcast::<T>()
        {
            return Ok(view);
        }
        let view: Arc<T> = Arc::new(serde_json::from_slice(&self.raw)?);
        // A race decodes twice and keeps the first: both are equal.
        let _ = self.view.set(view.clone());
        Ok(view)
    }

    /// The object as a fresh mutable value, without managed fields.
    pub fn to_value(&self) -> Value {
        // `raw` was parsed when the object was made, so it is valid JSON.
        serde_json::from_slice(&self.raw).unwrap_or(Value::Null)
    }

    /// The object as a fresh mutable value, managed fields included.
    pub fn to_full_value(&self) -> Value {
        let mut value = self.to_value();
        if let Some(managed) = &self.managed_fields
            && let Ok(managed) = serde_json::from_slice(managed)
            && let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut)
        {
            meta.insert("managedFields".into(), managed);
        }
        value
    }
}

impl Clone for Object {
    fn clone(&self) -> Self {
        Object {
            raw: self.raw.clone(),
            managed_fields: self.managed_fields.clone(),
            header: self.header.clone(),
            view: self.view.clone(),
        }
    }
}

impl fmt::Debug for Object {
    /// Prints identity only: the content may be a Secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object")
            .field("kind", &self.header.kind)
            .field("key", &self.key())
            .field("resource_version", &self.header.resource_version)
            .finish()
    }
}

impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct WireObject {
    api_version: String,
    kind: String,
    #[serde(deserialize_with = "null_is_default")]
    metadata: WireMeta,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct WireMeta {
    #[serde(deserialize_with = "null_is_default")]
    name: String,
    #[serde(deserialize_with = "null_is_default")]
    namespace: String,
    #[serde(deserialize_with = "null_is_default")]
    uid: String,
    #[serde(deserialize_with = "null_is_default")]
    resource_version: String,
    #[serde(deserialize_with = "null_is_default")]
    generation: i64,
    #[serde(deserialize_with = "null_is_default")]
    labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_default")]
    annotations: BTreeMap<String, String>,
    #[serde(deserialize_with = "null_is_default")]
    owner_references: Vec<OwnerReference>,
    #[serde(deserialize_with = "null_is_default")]
    finalizers: Vec<String>,
    creation_timestamp: Option<String>,
    deletion_timestamp: Option<String>,
}

fn null_is_default<'de, D, T>(d: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

impl WireObject {
    fn into_header(self) -> Header {
        let m = self.metadata;
        Header {
            api_version: self.api_version,
            kind: self.kind,
            name: m.name,
            namespace: m.namespace,
            uid: m.uid,
            resource_version: m.resource_version.parse().unwrap_or(0),
            generation: m.generation,
            labels: m.labels,
            annotations: m.annotations,
            owner_references: m.owner_references,
            finalizers: m.finalizers,
            creation_timestamp: m.creation_timestamp,
            deletion_timestamp: m.deletion_timestamp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn header_is_parsed_and_managed_fields_travel_apart() {
        let value = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {
                "name": "web", "namespace": "shop", "resourceVersion": "42",
                "labels": {"a": "b"}, "annotations": null,
                "ownerReferences": [{"apiVersion": "v1", "kind": "X", "name": "o", "uid": "u", "controller": true}],
                "managedFields": [{"manager": "kubectl"}],
            },
            "spec": {"replicas": 3},
        });
        let object = Object::from_value(value.clone()).unwrap();
        assert_eq!(object.key(), "shop/web");
        assert_eq!(object.resource_version(), 42);
        assert_eq!(object.controller().unwrap().name, "o");
        assert!(!object.raw().windows(13).any(|w| w == b"managedFields"));
        assert_eq!(
            object.to_full_value()["metadata"]["managedFields"][0]["manager"],
            "kubectl"
        );
    }

    #[test]
    fn a_view_is_decoded_once() {
        let object = Object::from_json(r#"{"kind":"X","metadata":{"name":"n"}}"#).unwrap();
        let first = object.view::<Value>().unwrap();
        let second = object.view::<Value>().unwrap();
        assert!(Arc::ptr_eq(&first, &second));
    }

    #[test]
    fn junk_is_an_error() {
        for junk in ["", "[]", "3", r#"{"metadata":3}"#, "{"] {
            assert!(Object::from_json(junk.as_bytes().to_vec()).is_err(), "{junk}");
        }
    }
}
