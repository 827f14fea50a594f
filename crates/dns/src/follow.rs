//! Keeps the records in step with Services and EndpointSlices.

use std::sync::{Arc, PoisonError, RwLock};

use informer::{Change, Informer, Informers};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kinds::resources::{ENDPOINT_SLICES, SERVICES};
use meta::Object;
use tokio_util::sync::CancellationToken;

use crate::Records;

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const INDEX: &str = "service";

/// Follows until `stop`.
pub(crate) async fn follow(records: Arc<RwLock<Records>>, informers: Arc<Informers>, stop: CancellationToken) {
    let (services, slices) = (informers.of(&SERVICES), informers.of(&ENDPOINT_SLICES));
    slices.add_index(INDEX, |slice| {
        key_of_slice(slice)
            .map(|(ns, n)| format!("{ns}/{n}"))
            .into_iter()
            .collect()
    });
    let (mut of_services, mut of_slices) = (services.subscribe(), slices.subscribe());
    services.synced().await;
    slices.synced().await;
    let follower = Follower {
        records,
        services,
        slices,
    };
    follower.take_all();
    loop {
        let (change, is_slice) = tokio::select! {
            change = of_services.next() => (change, false),
            change = of_slices.next() => (change, true),
            () = stop.cancelled() => return,
        };
        match change {
            None => return,
            Some(Change { old: None, new: None }) => follower.take_all(),
            Some(Change { old, new }) => {
                for object in [old, new].into_iter().flatten() {
                    let key = if is_slice {
                        key_of_slice(&object)
                    } else {
                        Some((object.namespace(), object.name()))
                    };
                    if let Some((namespace, name)) = key {
                        follower.take(namespace, name);
                    }
                }
            }
        }
    }
}

fn key_of_slice(slice: &Object) -> Option<(&str, &str)> {
    Some((slice.namespace(), slice.labels().get(SERVICE_NAME)?))
}

struct Follower {
    records: Arc<RwLock<Records>>,
    services: Arc<Informer>,
    slices: Arc<Informer>,
}

impl Follower {
    /// Everything anew, into a table of its own that then takes the place of the old one.
    fn take_all(&self) {
        let domain = self
            .records
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .domain()
            .to_owned();
        let mut fresh = Records::new(&domain);
        for service in self.services.list("") {
            self.put(&mut fresh, service.namespace(), service.name());
        }
        fresh.set_complete();
        *self.records.write().unwrap_or_else(PoisonError::into_inner) = fresh;
    }

    fn take(&self, namespace: &str, name: &str) {
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        self.put(&mut records, namespace, name);
    }

    fn put(&self, records: &mut Records, namespace: &str, name: &str) {
        let service = self
            .services
            .get(namespace, name)
            .and_then(|s| s.view::<Service>().ok());
        let Some(service) = service else {
            return records.remove(namespace, name);
        };
        let slices = self.slices.indexed(INDEX, &format!("{namespace}/{name}"));
        let slices: Vec<Arc<EndpointSlice>> = slices.iter().filter_map(|s| s.view().ok()).collect();
        let slices: Vec<&EndpointSlice> = slices.iter().map(AsRef::as_ref).collect();
        records.set(namespace, name, &service, &slices);
    }
}
