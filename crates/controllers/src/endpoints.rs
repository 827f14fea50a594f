//! EndpointSlices: where the pods behind a Service are, and whether they take
//! new connections (KEP-752, KEP-1672).

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kinds::resources::{ENDPOINT_SLICES, NODES, PODS, SERVICES};
use meta::Object;
use reconcile::{Controller, Input, Key, Plan, View};
use serde_json::{Value, json};

use crate::common::{base_name, fresh_name, is_ready, is_terminal, owner_reference};

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Endpoints of one slice, as upstream's default.
const PER_SLICE: usize = 100;

/// See the module.
pub struct EndpointSliceController;

impl Controller for EndpointSliceController {
    fn name(&self) -> &'static str {
        "endpointslice-controller"
    }

    fn inputs(&self) -> Vec<Input> {
        let pods = Input {
            gvr: PODS,
            keys: |pod, view| {
                let services = view.list(&SERVICES, pod.namespace());
                services
                    .iter()
                    .filter(|s| selects(s, pod))
                    .map(|s| Key::of(s))
                    .collect()
            },
        };
        let slices = Input {
            gvr: ENDPOINT_SLICES,
            keys: |slice, _| {
                let service = slice.labels().get(SERVICE_NAME);
                service.map(|s| Key::new(slice.namespace(), s)).into_iter().collect()
            },
        };
        vec![Input::primary(SERVICES), pods, slices, Input::silent(NODES)]
    }

    fn plan(&self, now: Timestamp, key: &Key, view: &dyn View) -> Plan {
        let mut plan = Plan::nothing();
        let ours = |s: &Arc<Object>| {
            s.labels().get(SERVICE_NAME) == Some(&key.name)
                && s.labels().get(MANAGED_BY).map(String::as_str) == Some(MANAGER)
                && !s.is_deleting()
        };
        let slices: Vec<_> = view
            .list(&ENDPOINT_SLICES, &key.namespace)
            .into_iter()
            .filter(ours)
            .collect();
        let Some(object) = view.get(&SERVICES, &key.namespace, &key.name) else {
            slices.iter().for_each(|s| plan.delete(&ENDPOINT_SLICES, s));
            return plan;
        };
        let Ok(service) = object.view::<Service>() else {
            return plan;
        };
        let selector = service
            .spec
            .as_ref()
            .and_then(|s| s.selector.clone())
            .unwrap_or_default();
        let external = service.spec.as_ref().and_then(|s| s.type_.as_deref()) == Some("ExternalName");
        if selector.is_empty() || external || object.is_deleting() {
            return plan;
        }
        let wanted = wanted(&object, &service, view);
        write(&mut plan, now, &object, slices, wanted);
        plan
    }
}

fn selects(service: &Object, pod: &Object) -> bool {
    let Ok(service) = service.view::<Service>() else {
        return false;
    };
    let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
    selector.is_some_and(|s| matches(s, pod))
}

fn matches(selector: &BTreeMap<String, String>, pod: &Object) -> bool {
    !selector.is_empty() && selector.iter().all(|(k, v)| pod.labels().get(k) == Some(v))
}

/// Endpoints by the ports that they have: a port may have another number in another pod.
fn wanted(object: &Object, service: &Service, view: &dyn View) -> Vec<(Value, Vec<Value>)> {
    let spec = service.spec.clone().unwrap_or_default();
    let selector = spec.selector.unwrap_or_default();
    let publish = spec.publish_not_ready_addresses.unwrap_or(false);
    let ports = spec.ports.unwrap_or_default();
    let mut groups: BTreeMap<String, (Value, Vec<Value>)> = BTreeMap::new();
    for pod_object in view.list(&PODS, object.namespace()) {
        if !matches(&selector, &pod_object) {
            continue;
        }
        let Ok(pod) = pod_object.view::<Pod>() else { continue };
        let address = pod
            .status
            .as_ref()
            .and_then(|s| s.pod_ip.clone())
            .filter(|ip| !ip.is_empty());
        let Some(address) = address.filter(|a| a.contains('.') && !is_terminal(&pod)) else {
            continue;
        };
        let ports = port_values(&ports, &pod);
        let endpoint = endpoint(object, &pod_object, &pod, &address, publish, view);
        let group = groups.entry(ports.to_string()).or_insert_with(|| (ports, Vec::new()));
        group.1.push(endpoint);
    }
    groups.into_values().collect()
}

fn endpoint(service: &Object, object: &Object, pod: &Pod, address: &str, publish: bool, view: &dyn View) -> Value {
    let serving = publish || is_ready(pod);
    let terminating = object.is_deleting();
    let mut out = json!({
        "addresses": [address],
        "conditions": {"ready": publish || (serving && !terminating), "serving": serving, "terminating": terminating},
        "targetRef": {"kind": "Pod", "namespace": object.namespace(), "name": object.name(), "uid": object.uid()},
    });
    let spec = pod.spec.as_ref();
    if let Some(node) = spec.and_then(|s| s.node_name.as_deref()) {
        out["nodeName"] = node.into();
        let zone = view.get(&NODES, "", node);
        if let Some(zone) = zone
            .as_ref()
            .and_then(|n| n.labels().get("topology.kubernetes.io/zone"))
        {
            out["zone"] = zone.as_str().into();
        }
    }
    if let Some(name) = spec.and_then(|s| s.hostname.as_deref())
        && spec.and_then(|s| s.subdomain.as_deref()) == Some(service.name())
    {
        out["hostname"] = name.into();
    }
    out
}

fn port_values(ports: &[ServicePort], pod: &Pod) -> Value {
    let mut out = Vec::new();
    for p in ports {
        let protocol = p.protocol.as_deref().unwrap_or("TCP");
        let number = match &p.target_port {
            None => Some(p.port),
            Some(IntOrString::Int(0)) => Some(p.port),
            Some(IntOrString::Int(n)) => Some(*n),
            Some(IntOrString::String(name)) => named_port(pod, name, protocol),
        };
        let Some(number) = number else { continue };
        let mut value = json!({"name": p.name.clone().unwrap_or_default(), "protocol": protocol, "port": number});
        if let Some(app) = &p.app_protocol {
            value["appProtocol"] = app.as_str().into();
        }
        out.push(value);
    }
    Value::Array(out)
}

/// The number of a container port by name.
fn named_port(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten());
    let mut ports = ports.filter(|p| p.protocol.as_deref().unwrap_or("TCP") == protocol);
    ports
        .find(|p| p.name.as_deref() == Some(name))
        .map(|p| p.container_port)
}

/// Slices that stay keep their endpoints; what is new goes where there is room.
fn write(
    plan: &mut Plan,
    now: Timestamp,
    service: &Arc<Object>,
    slices: Vec<Arc<Object>>,
    wanted: Vec<(Value, Vec<Value>)>,
) {
    let mut left: Vec<(Arc<Object>, Value)> = slices.into_iter().map(|s| (s.clone(), s.to_value())).collect();
    let mut made = 0;
    for (ports, endpoints) in wanted {
        let mut missing: BTreeMap<String, Value> = endpoints.into_iter().map(|e| (identity(&e), e)).collect();
        let mut kept: Vec<(Arc<Object>, Value, Vec<Value>)> = Vec::new();
        left.retain(|(object, value)| {
            if !same_ports(&value["ports"], &ports) {
                return true;
            }
            let old = value["endpoints"].as_array().into_iter().flatten();
            let still = old.filter_map(|e| missing.remove(&identity(e))).collect();
            kept.push((object.clone(), value.clone(), still));
            false
        });
        let mut rest: Vec<Value> = missing.into_values().collect();
        for (_, _, endpoints) in &mut kept {
            let room = PER_SLICE.saturating_sub(endpoints.len()).min(rest.len());
            endpoints.extend(rest.drain(..room));
        }
        for (object, value, endpoints) in kept {
            if endpoints.is_empty() {
                plan.delete(&ENDPOINT_SLICES, &object);
            } else {
                update(plan, service, &object, &value, &ports, endpoints);
            }
        }
        for chunk in rest.chunks(PER_SLICE) {
            let slice = new_slice(service, now, made, &ports, chunk);
            plan.create(&ENDPOINT_SLICES, service.namespace(), slice);
            made += 1;
        }
    }
    for (object, _) in left {
        plan.delete(&ENDPOINT_SLICES, &object);
    }
}

fn same_ports(a: &Value, b: &Value) -> bool {
    a == b || (a.is_null() && b.as_array().is_some_and(Vec::is_empty))
}

/// Who an endpoint is, whatever its state.
fn identity(endpoint: &Value) -> String {
    format!("{} {}", endpoint["targetRef"]["uid"], endpoint["addresses"][0])
}

fn slice_labels(service: &Object) -> Value {
    let mut labels = json!({});
    for (k, v) in service.labels() {
        labels[k] = v.as_str().into();
    }
    labels[SERVICE_NAME] = service.name().into();
    labels[MANAGED_BY] = MANAGER.into();
    let headless = service.view::<Service>().is_ok_and(|s| {
        let ip = s.spec.as_ref().and_then(|s| s.cluster_ip.clone());
        ip.as_deref() == Some("None")
    });
    if headless {
        labels[HEADLESS] = "".into();
    }
    labels
}

fn new_slice(service: &Object, now: Timestamp, index: usize, ports: &Value, endpoints: &[Value]) -> Value {
    let prefix = format!("{}-", base_name(service.name()));
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": fresh_name(&prefix, service.uid(), now, index), "generateName": prefix,
            "labels": slice_labels(service), "ownerReferences": [owner_reference(service)]},
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
    })
}

fn update(plan: &mut Plan, service: &Object, object: &Object, value: &Value, ports: &Value, endpoints: Vec<Value>) {
    let labels = slice_labels(service);
    let old = &value["metadata"]["labels"];
    let mut patch = json!({});
    if old != &labels {
        let mut changed = labels.clone();
        for name in old.as_object().into_iter().flatten().map(|(k, _)| k) {
            if labels[name].is_null() {
                changed[name] = Value::Null;
            }
        }
        patch["metadata"]["labels"] = changed;
    }
    if value["endpoints"] != json!(endpoints) {
        patch["endpoints"] = endpoints.into();
    }
    if patch != json!({}) {
        if !same_ports(&value["ports"], ports) {
            patch["ports"] = ports.clone();
        }
        plan.patch(&ENDPOINT_SLICES, object, patch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reconcile::World;

    fn now() -> Timestamp {
        "2026-01-01T00:10:00Z".parse().unwrap()
    }

    fn service() -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"clusterIP": "10.43.0.9", "selector": {"app": "web"},
                "ports": [{"port": 80, "targetPort": "http", "protocol": "TCP"}]}})
    }

    fn pod(name: &str, ip: &str, ready: bool) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop", "labels": {"app": "web"}},
            "spec": {"nodeName": "n", "containers": [{"name": "a", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready",
                "status": if ready { "True" } else { "False" }}]}})
    }

    fn slices(world: &World) -> Vec<Value> {
        world
            .list(&ENDPOINT_SLICES, "shop")
            .iter()
            .map(|s| s.to_value())
            .collect()
    }

    #[test]
    fn endpoints_follow_pods() {
        let mut world = World::default();
        world.put(&SERVICES, service());
        world.put(&PODS, pod("a", "10.42.0.2", true));
        world.put(&PODS, pod("b", "10.42.0.3", false));
        world.put(&PODS, pod("none", "", true));
        assert!(world.settle(now(), &EndpointSliceController, 3));
        let [slice] = slices(&world).try_into().unwrap();
        assert_eq!(slice["ports"], json!([{"name": "", "protocol": "TCP", "port": 8080}]));
        let ready: Vec<_> = slice["endpoints"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| &e["conditions"]["ready"])
            .collect();
        assert_eq!(ready, [&json!(true), &json!(false)]);
        world.change(
            &PODS,
            "shop",
            "a",
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
        );
        assert!(world.settle(now(), &EndpointSliceController, 3));
        let conditions = slices(&world)[0]["endpoints"][0]["conditions"].clone();
        assert_eq!(
            conditions,
            json!({"ready": false, "serving": true, "terminating": true})
        );
        world.remove(&PODS, "shop", "a");
        world.remove(&PODS, "shop", "b");
        assert!(world.settle(now(), &EndpointSliceController, 3));
        assert!(slices(&world).is_empty());
    }

    #[test]
    fn slices_hold_a_hundred_and_stay_as_they_are() {
        let mut world = World::default();
        world.put(&SERVICES, service());
        for i in 0..250 {
            world.put(&PODS, pod(&format!("p{i:03}"), &format!("10.42.1.{i}"), true));
        }
        assert!(world.settle(now(), &EndpointSliceController, 3));
        let sizes = |w: &World| -> Vec<usize> {
            let mut s: Vec<_> = slices(w)
                .iter()
                .map(|s| s["endpoints"].as_array().unwrap().len())
                .collect();
            s.sort_unstable();
            s
        };
        assert_eq!(sizes(&world), [50, 100, 100]);
        world.remove(&PODS, "shop", "p000");
        let plan = world.step(now(), &EndpointSliceController, &Key::new("shop", "web"));
        assert_eq!(plan.actions.len(), 1, "one slice is written");
        world.remove(&SERVICES, "shop", "web");
        world.step(now(), &EndpointSliceController, &Key::new("shop", "web"));
        assert!(slices(&world).is_empty());
    }
}
