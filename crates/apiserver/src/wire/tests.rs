//! The wire forms against each other and against types that others generate.

use k8s_pb::api as pb;
use object::schema::{Schema, Shape};
use proptest::prelude::*;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};

use super::table::{Count, Field, Special, Type, table};
use super::{cbor, encode, protobuf, uncbor};

/// Fields that the generated types do not know yet.
const NEWER: &[&str] = &[
    ".schedulingGroup",
    ".volumeStatus",
    ".shardInfo",
    ".preventPodSchedulingIfMissing",
    ".nodeAllocatableResourceClaimStatuses",
    ".nodeAllocatableResourceMappings",
    ".devices.attributes.",
    ".allocatedResourcesStatus.resources.message",
];

/// Objects as a typed program would write them.
pub(super) struct Maker {
    random: StdRng,
}

impl Maker {
    pub fn new(seed: u64) -> Self {
        Maker {
            random: StdRng::seed_from_u64(seed),
        }
    }

    pub fn object(&mut self, api_version: &str, kind: &str) -> Value {
        let message = table().of_kind(api_version, kind).unwrap();
        let mut object = self.message(message, 9);
        object["apiVersion"] = api_version.into();
        object["kind"] = kind.into();
        object
    }

    fn message(&mut self, index: usize, depth: usize) -> Value {
        let mut out = Map::new();
        for named in table().get(index).fields() {
            let rare = depth < 6 && self.random.random_bool(0.7);
            if depth == 0 || rare {
                continue;
            }
            let field = &named.field;
            let value = match field.count {
                Count::One => self.value(field, depth - 1),
                Count::Many => (0..self.random.random_range(1..3))
                    .map(|_| self.value(field, depth - 1))
                    .collect(),
                Count::Map => {
                    let keys = ["a", "b/c", "ü", ""].choose_multiple(&mut self.random, 2);
                    let keys: Vec<_> = keys.copied().collect();
                    let entries = keys.into_iter().map(|k| (k.to_owned(), self.value(field, depth - 1)));
                    Value::Object(entries.collect())
                }
            };
            out.insert(field.name.to_owned(), value);
        }
        Value::Object(out)
    }

    fn value(&mut self, field: &Field, depth: usize) -> Value {
        let zero = (field.pointer || field.shown || field.count != Count::One) && self.random.random_bool(0.2);
        match field.kind {
            Type::Text if zero => "".into(),
            Type::Text => (*["x", "long \"quoted\" text\n", "ünïcode ☃"]
                .choose(&mut self.random)
                .unwrap())
            .into(),
            Type::Bytes => (*["", "AAEC", "aGVsbG8=", "/+8="][usize::from(field.count == Count::One)..]
                .choose(&mut self.random)
                .unwrap())
            .into(),
            Type::Bool => (!zero).into(),
            Type::Int if zero => 0.into(),
            Type::Int => (*[1, -1, 300, 70_000].choose(&mut self.random).unwrap()).into(),
            Type::Double => 1.5.into(),
            Type::Message(index) => self.message(index, depth),
            Type::Special(special) => self.special(special, depth),
        }
    }

    fn special(&mut self, special: Special, depth: usize) -> Value {
        match special {
            Special::Time => "2026-03-04T05:06:07Z".into(),
            Special::MicroTime => "2026-03-04T05:06:07.000123Z".into(),
            Special::Quantity => "1500m".into(),
            Special::IntOrString if self.random.random() => "http".into(),
            Special::IntOrString => 8080.into(),
            Special::Json => json!({"f:a": {}, "n": [1, 2.5, null, "s"]}),
            Special::Texts => json!(["a", "b"]),
            Special::Duration => "1.5s".into(),
            Special::SchemaOrBool if self.random.random() => true.into(),
            Special::SchemaOrArray if self.random.random() => {
                json!([self.message(table().schema, depth), self.message(table().schema, depth)])
            }
            Special::SchemaOrTexts if self.random.random() => json!(["a", "b"]),
            _ => self.message(table().schema, depth),
        }
    }
}

pub(super) fn to_protobuf(value: &Value) -> Vec<u8> {
    let (version, kind) = (value["apiVersion"].as_str().unwrap(), value["kind"].as_str().unwrap());
    let index = table().of_kind(version, kind).unwrap();
    let mut out = Vec::new();
    encode::body(&mut out, version, kind, |out| {
        encode::message(out, index, value.to_string().as_bytes(), None)
    })
    .unwrap();
    out
}

/// Every served kind, with its version.
pub(super) fn kinds_served() -> Vec<(String, String)> {
    let all = kinds::all().iter().filter(|k| !k.group.contains("kubevirt"));
    let mut out: Vec<_> = all.map(|k| (k.gvr().api_version(), k.kind.to_string())).collect();
    for (version, kind) in [
        ("v1", "Status"),
        ("v1", "APIResourceList"),
        ("autoscaling/v1", "Scale"),
        ("v1", "PodList"),
        ("apps/v1", "DeploymentList"),
        ("policy/v1", "Eviction"),
        ("meta.k8s.io/v1", "PartialObjectMetadata"),
        ("meta.k8s.io/v1", "PartialObjectMetadataList"),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
        ("authentication.k8s.io/v1", "TokenRequest"),
    ] {
        out.push((version.to_owned(), kind.to_owned()));
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn json_to_protobuf_and_back_is_the_identity(seed: u64) {
        let mut maker = Maker::new(seed);
        for (version, kind) in kinds_served() {
            let object = maker.object(&version, &kind);
            let back = protobuf::decode(&to_protobuf(&object)).unwrap();
            prop_assert_eq!(&back, &object, "{}", kind);
        }
    }

    #[test]
    fn json_to_cbor_and_back_is_the_identity(seed: u64) {
        let mut maker = Maker::new(seed);
        for (version, kind) in kinds_served() {
            let object = maker.object(&version, &kind);
            let mut bytes = Vec::new();
            cbor::document(&mut bytes, object.to_string().as_bytes()).unwrap();
            prop_assert_eq!(&uncbor::decode(&bytes).unwrap(), &object, "{}", kind);
        }
    }

    #[test]
    fn generated_types_read_and_write_the_same(seed: u64) {
        let mut changes = Vec::new();
        for (version, kind, through) in all_generated() {
            let object = Maker::new(seed).object(version, kind);
            let bytes = to_protobuf(&object);
            let (head, message) = split(&bytes);
            let again = through(message).map_err(|e| TestCaseError::fail(format!("{kind}: {e}")))?;
            let mut body = head.to_vec();
            super::write::text(&mut body, 2, &again);
            differences(&object, &protobuf::decode(&body).unwrap(), kind, &mut changes);
        }
        prop_assert!(changes.is_empty(), "{changes:#?}");
    }
}

/// Paths at which two values differ.
fn differences(a: &Value, b: &Value, path: &str, out: &mut Vec<String>) {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            for (name, a) in a {
                differences(a, b.get(name).unwrap_or(&Value::Null), &format!("{path}.{name}"), out);
            }
            let more = b.keys().filter(|k| !a.contains_key(*k));
            out.extend(more.map(|k| format!("{path}.{k}: only after")));
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).for_each(|(a, b)| differences(a, b, path, out));
        }
        (_, Value::Null)
            if NEWER
                .iter()
                .any(|n| path.ends_with(n) || n.ends_with('.') && path.contains(n)) => {}
        (a, b) if a != b => out.push(format!("{path}: {a} became {b}")),
        _ => {}
    }
}

/// The envelope up to the message, and the message.
fn split(body: &[u8]) -> (&[u8], &[u8]) {
    let head = usize::from(body[5]) + 6;
    let rest = &body[head..];
    let unknown = k8s_pb::apimachinery::pkg::runtime::Unknown::decode(&body[4..]).unwrap();
    let raw = unknown.raw.unwrap();
    let at = rest.windows(raw.len()).position(|w| w == raw).unwrap();
    (&body[..head], &rest[at..at + raw.len()])
}

type Through = fn(&[u8]) -> Result<Vec<u8>, prost::DecodeError>;

fn through<T: prost::Message + Default>(bytes: &[u8]) -> Result<Vec<u8>, prost::DecodeError> {
    Ok(T::decode(bytes)?.encode_to_vec())
}

macro_rules! generated {
    ($($version:literal $($path:ident)::+ { $($kind:ident)* })*) => {{
        let mut out: Vec<(&str, &str, Through)> = Vec::new();
        $({
            use $($path)::+ as package;
            $(out.push(($version, stringify!($kind), through::<package::$kind>));)*
        })*
        out
    }};
}

fn all_generated() -> Vec<(&'static str, &'static str, Through)> {
    generated! {
    "v1" pb::core::v1 {
        ComponentStatus
        ConfigMap Secret Pod PodList Service ServiceAccount Namespace Node Event Endpoints PersistentVolume
        PersistentVolumeClaim ReplicationController LimitRange ResourceQuota PodTemplate Binding
    }
    "apps/v1" pb::apps::v1 { Deployment DeploymentList ReplicaSet StatefulSet DaemonSet ControllerRevision }
    "batch/v1" pb::batch::v1 { Job CronJob }
    "policy/v1" pb::policy::v1 { Eviction PodDisruptionBudget }
    "autoscaling/v1" pb::autoscaling::v1 { Scale }
    "autoscaling/v2" pb::autoscaling::v2 { HorizontalPodAutoscaler }
    "rbac.authorization.k8s.io/v1" pb::rbac::v1 { Role ClusterRole RoleBinding ClusterRoleBinding }
    "coordination.k8s.io/v1" pb::coordination::v1 { Lease }
    "discovery.k8s.io/v1" pb::discovery::v1 { EndpointSlice }
    "events.k8s.io/v1" pb::events::v1 { Event }
    "networking.k8s.io/v1" pb::networking::v1 { NetworkPolicy Ingress IngressClass IPAddress ServiceCIDR }
    "node.k8s.io/v1" pb::node::v1 { RuntimeClass }
    "scheduling.k8s.io/v1" pb::scheduling::v1 { PriorityClass }
    "storage.k8s.io/v1" pb::storage::v1 {
        StorageClass CSIDriver CSINode CSIStorageCapacity VolumeAttachment VolumeAttributesClass
    }
    "resource.k8s.io/v1" pb::resource::v1 { DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice }
    "certificates.k8s.io/v1" pb::certificates::v1 { CertificateSigningRequest }
    "admissionregistration.k8s.io/v1" pb::admissionregistration::v1 {
        ValidatingWebhookConfiguration MutatingWebhookConfiguration ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding
    }
    "authentication.k8s.io/v1" pb::authentication::v1 { TokenRequest TokenReview SelfSubjectReview }
    "authorization.k8s.io/v1" pb::authorization::v1 {
        SubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview LocalSubjectAccessReview
    }
    "apiregistration.k8s.io/v1" k8s_pb::kube_aggregator::pkg::apis::apiregistration::v1 { APIService }
    "flowcontrol.apiserver.k8s.io/v1" pb::flowcontrol::v1 { FlowSchema PriorityLevelConfiguration }
    "apiextensions.k8s.io/v1" k8s_pb::apiextensions_apiserver::pkg::apis::apiextensions::v1 {
        CustomResourceDefinition
    }
    "v1" k8s_pb::apimachinery::pkg::apis::meta::v1 {
        Status DeleteOptions PartialObjectMetadata PartialObjectMetadataList APIResourceList
    }
    }
}

#[test]
fn every_served_kind_is_held_against_its_generated_type() {
    let known = all_generated();
    let mut missing: Vec<_> = kinds_served();
    // Newer than the generated types.
    missing.retain(|(_, kind)| !kind.starts_with("MutatingAdmissionPolicy"));
    missing.retain(|(version, kind)| {
        !known
            .iter()
            .any(|(v, k, _)| (v == version || version.contains("meta")) && k == kind)
    });
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn nesting_is_bounded_both_ways() {
    let deep = |levels: usize| {
        let inner = (0..levels).fold(json!({"type": "object"}), |inner, _| json!({"not": inner}));
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "spec": {"group": "g", "scope": "Cluster", "names": {"plural": "p", "kind": "K"},
                "versions": [{"name": "v", "served": true, "storage": true, "schema": {"openAPIV3Schema": inner}}]},
            "metadata": {}, "status": {"acceptedNames": {"plural": "p", "kind": "K"}}})
    };
    let object = deep(110);
    assert_eq!(protobuf::decode(&to_protobuf(&object)).unwrap(), object);
    let message = table()
        .of_kind("apiextensions.k8s.io/v1", "CustomResourceDefinition")
        .unwrap();
    let text = deep(110)
        .to_string()
        .replacen("{\"type\":", &format!("{}{{\"type\":", "{\"not\":".repeat(100_000)), 1);
    assert!(encode::message(&mut Vec::new(), message, text.as_bytes(), None).is_err());
    assert!(cbor::document(&mut Vec::new(), text.as_bytes()).is_err());
    // `not` is field 28: a message in itself, without end.
    let mut endless = Vec::new();
    for _ in 0..200 {
        let mut outer = Vec::new();
        super::write::text(&mut outer, 28, &endless);
        endless = outer;
    }
    for (number, _) in [(1, "openAPIV3Schema"), (4, "schema"), (7, "versions"), (2, "spec")] {
        let mut outer = Vec::new();
        super::write::text(&mut outer, number, &endless);
        endless = outer;
    }
    let mut body = Vec::new();
    encode::envelope(
        &mut body,
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        endless.len(),
    );
    body.extend_from_slice(&endless);
    assert!(protobuf::decode(&body).unwrap_err().message.contains("nested too deep"));
    assert!(uncbor::decode(&[0x81; 100_000]).is_err());
}

/// What a schema names, a message has a field for.
fn check(schema: &Schema, message: usize, path: &str, depth: usize, missing: &mut Vec<String>) {
    let Shape::Object { fields, .. } = &schema.shape else {
        return;
    };
    for (name, inner) in fields {
        // A claim's template is an object by itself in JSON, and nowhere else.
        let own = depth == 0 || path.ends_with("volumeClaimTemplates");
        if own && matches!(name.as_str(), "apiVersion" | "kind") {
            continue;
        }
        let path = format!("{path}.{name}");
        let Some(named) = table().get(message).by_name(name) else {
            missing.push(path);
            continue;
        };
        let inner = match &inner.shape {
            Shape::List { items, .. } => items,
            Shape::Map { values, .. } => values,
            _ => inner,
        };
        match named.field.kind {
            Type::Message(index) if depth < 12 => check(inner, index, &path, depth + 1, missing),
            _ => {}
        }
    }
}

#[test]
fn every_field_of_a_schema_has_a_number() {
    let mut missing = Vec::new();
    for kind in kinds::all().iter().filter(|k| !k.group.contains("kubevirt")) {
        let message = table().of_kind(&kind.gvr().api_version(), &kind.kind).unwrap();
        check(kind.schema(), message, &kind.kind, 0, &mut missing);
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

proptest! {
    #[test]
    fn junk_is_refused_and_no_more(junk: Vec<u8>, at: prop::sample::Index, kind: prop::sample::Index) {
        let _ = protobuf::decode(&junk);
        let _ = uncbor::decode(&junk);
        let all = kinds_served();
        let (version, kind) = kind.get(&all);
        let mut body = to_protobuf(&Maker::new(1).object(version, kind));
        let at = at.index(body.len());
        body.splice(at..at, junk.iter().take(3).copied());
        let _ = protobuf::decode(&body);
        let mut out = Vec::new();
        let index = table().of_kind(version, kind).unwrap();
        let _ = encode::message(&mut out, index, &junk, None);
        let _ = cbor::document(&mut out, &junk);
    }
}
