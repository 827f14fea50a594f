//! A pod that is deleted stops when nobody is led to it any more, and not later.
//! Must not touch real rules.

use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use kinds::resources::ENDPOINT_SLICES;
use runtime::ServiceRules;
use serde_json::json;
use tokio::sync::Notify;

use crate::{World, main_container, phase};

/// Rules that follow when the test says so.
#[derive(Default)]
pub struct Rules {
    asked: Mutex<Vec<Option<IpAddr>>>,
    follow: Notify,
}

#[async_trait]
impl ServiceRules for Rules {
    async fn withdrawn(&self, pod: Option<IpAddr>) {
        let follow = self.follow.notified();
        self.asked.lock().unwrap().push(pod);
        follow.await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_stops_when_the_rules_have_left_it() {
    let world = World::new().await;
    let slice = |name: &str, ready: bool| {
        let target = json!({"kind": "Pod", "namespace": "shop", "name": name, "uid": format!("uid-of-{name}")});
        let endpoint = json!({"addresses": ["127.0.0.1"], "targetRef": target, "conditions": {"ready": ready}});
        world.api.put(
            &ENDPOINT_SLICES,
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": name, "namespace": "shop"}, "endpoints": [endpoint]}),
        );
    };
    let asked = |w: &World| w.rules.asked.lock().unwrap().clone();
    for (name, host, ip) in [("own", false, Some([127, 0, 0, 1].into())), ("shared", true, None)] {
        let mut spec = main_container("web:1");
        spec["terminationGracePeriodSeconds"] = 30.into();
        spec["hostNetwork"] = host.into();
        world.pod(name, spec);
        world.until("running", |w| phase(w, name) == "Running").await;
        slice(name, true);
        // A pod that the node knows as no endpoint of anything is not waited for.
        let slices = world.informers.as_ref().unwrap().of(&ENDPOINT_SLICES);
        world
            .until("the endpoint is known", |_| slices.get("shop", name).is_some())
            .await;
        world.fake.forget_journal();
        world.rules.asked.lock().unwrap().clear();
        world.delete(name, 30).await;
        world
            .until("killing", |w| w.events("Killing").iter().any(|m| m.contains("a")))
            .await;
        slice(name, false);
        world.until("the rules are asked", |w| asked(w) == [ip]).await;
        assert!(!world.fake.journal().contains(&"stop a".to_owned()));
        let begun = Instant::now();
        world.rules.follow.notify_waiters();
        world.until("gone", |w| w.see(name).is_null()).await;
        assert!(begun.elapsed() < Duration::from_secs(2), "nothing else is waited for");
    }
}
