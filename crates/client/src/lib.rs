//! One trait to speak to the API. Consumers cannot tell, and must not care,
//! whether the server is in their own process or behind HTTPS.
//!
//! Must not cache, retry or decide: that is the work of `informer` and `driver`.

mod http;
mod types;

pub use http::{ClientError, HttpClient};
pub use types::{
    Body, DeleteOptions, EventStream, ListOptions, ObjectList, PatchType, Preconditions, WatchEvent, WriteOptions,
};

use std::sync::Arc;

use async_trait::async_trait;
use meta::{Gvr, Object, Status};
use serde_json::Value;

/// The verbs of the API, on any resource.
///
/// `namespace` is empty for cluster-scoped resources, and for lists and watches
/// across all namespaces. `subresource` is empty, or such as `status`.
#[async_trait]
pub trait Client: Send + Sync {
    /// GET one object.
    async fn get(&self, gvr: &Gvr, namespace: &str, name: &str) -> Result<Arc<Object>, Status>;

    /// LIST.
    async fn list(&self, gvr: &Gvr, namespace: &str, options: &ListOptions) -> Result<ObjectList, Status>;

    /// WATCH. With `options.resource_version` empty and `send_initial_events` set, the
    /// stream begins with the present state as `Added` events, ended by a `Bookmark`.
    async fn watch(&self, gvr: &Gvr, namespace: &str, options: &ListOptions) -> Result<EventStream, Status>;

    /// POST, to the collection or to a subresource of `name` (`binding`, `eviction`, `token`).
    async fn create(
        &self,
        gvr: &Gvr,
        namespace: &str,
        target: (&str, &str),
        body: Body,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Status>;

    /// PUT an object or a subresource of it.
    async fn update(
        &self,
        gvr: &Gvr,
        namespace: &str,
        target: (&str, &str),
        body: Body,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Status>;

    /// PATCH an object or a subresource of it.
    async fn patch(
        &self,
        gvr: &Gvr,
        namespace: &str,
        target: (&str, &str),
        patch: PatchType,
        body: Body,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Status>;

    /// DELETE one object. Returns the object when it still exists (finalizers, grace period).
    async fn delete(
        &self,
        gvr: &Gvr,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Option<Arc<Object>>, Status>;
}

/// Shorthands over [`Client`] for the most frequent calls.
pub trait ClientExt: Client {
    /// Creates an object of the collection.
    fn create_object<'a>(
        &'a self,
        gvr: &'a Gvr,
        namespace: &'a str,
        object: &'a Value,
    ) -> impl Future<Output = Result<Arc<Object>, Status>> + Send + 'a {
        async move {
            let options = WriteOptions::default();
            self.create(gvr, namespace, ("", ""), Body::from_value(object), &options)
                .await
        }
    }

    /// Merge-patches an object (`subresource` empty) or a subresource such as `status`.
    fn merge_patch<'a>(
        &'a self,
        gvr: &'a Gvr,
        namespace: &'a str,
        name: &'a str,
        subresource: &'a str,
        patch: &'a Value,
    ) -> impl Future<Output = Result<Arc<Object>, Status>> + Send + 'a {
        async move {
            let (body, options) = (Body::from_value(patch), WriteOptions::default());
            self.patch(gvr, namespace, (name, subresource), PatchType::Merge, body, &options)
                .await
        }
    }
}

impl<C: Client + ?Sized> ClientExt for C {}
