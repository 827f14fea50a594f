//! Discovery: which groups, versions and resources are served, in the old form
//! (one document per version) and the aggregated one. Read off the catalog.

mod openapi;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::{CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::{Response, StatusCode};
use kinds::{Kind, Subresource, Text};
use meta::Status;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::core::Core;
use crate::resource::Catalog;
use crate::server::Body;
use crate::server::discovery_tools::{Admitted, accept, answer, gzip, header, json_answer, wants_gzip};
use crate::subresources::machines;

/// How long a built document is kept without being asked for.
const KEEP: Duration = Duration::from_secs(120);

/// Built documents.
#[derive(Default)]
pub struct Discovery {
    kept: Mutex<Vec<Kept>>,
    /// Of the catalog, as it was when they were built.
    generation: AtomicU64,
}

#[derive(Clone)]
struct Kept {
    path: String,
    /// Compressed: the plain form is some megabytes.
    gzip: bytes::Bytes,
    etag: String,
    used: Instant,
    /// Of the catalog when it was built.
    generation: u64,
}

impl Discovery {
    /// Nothing built yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets everything when what is served has changed.
    fn follow(&self, generation: u64) {
        if self.generation.swap(generation, Ordering::AcqRel) != generation {
            self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    /// Answers a path below `/api`, `/apis`, `/openapi`, or `/`.
    pub(crate) fn answer(&self, core: &Core, path: &str, admitted: &Admitted) -> Result<Response<Body>, Status> {
        let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        let catalog = &core.catalog;
        self.follow(catalog.generation());
        let aggregated = accept(admitted).contains("as=APIGroupDiscoveryList");
        match parts.as_slice() {
            [] => Ok(json_answer(200, &roots(catalog))),
            ["api"] if aggregated => self.aggregate(catalog, admitted, true),
            ["apis"] if aggregated => self.aggregate(catalog, admitted, false),
            ["api"] => Ok(json_answer(
                200,
                &json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
            )),
            ["apis"] => {
                let groups: Vec<Value> = group_names(catalog).iter().map(|g| group(catalog, g)).collect();
                Ok(answer(
                    admitted,
                    &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}),
                ))
            }
            ["apis", g] if group_names(catalog).iter().any(|n| n == g) => {
                let mut group = group(catalog, g);
                group["kind"] = "APIGroup".into();
                group["apiVersion"] = "v1".into();
                Ok(answer(admitted, &group))
            }
            ["apis", g @ "subresources.kubevirt.io"] => Ok(answer(admitted, &machine_group(g))),
            ["apis", g @ "subresources.kubevirt.io", v] if machines::VERSIONS.contains(v) => {
                Ok(answer(admitted, &machine_parts(g, v)))
            }
            ["api", version] => Ok(answer(admitted, &resources(catalog, "", version)?)),
            ["apis", g, version] => Ok(answer(admitted, &resources(catalog, g, version)?)),
            ["openapi", "v2"] => self.openapi_v2(core, admitted),
            ["openapi", "v3"] => {
                let index = self.v3_index(core);
                Ok(json_answer(200, &index))
            }
            ["openapi", "v3", rest @ ..] => {
                let gv = match rest {
                    ["api", version] => ("", *version),
                    ["apis", g, version] => (*g, *version),
                    _ => return Err(Status::no_such_path()),
                };
                if !catalog.group_versions().iter().any(|(g, v)| (&**g, &**v) == gv) {
                    return Err(Status::no_such_path());
                }
                self.document(admitted, path, || openapi::v3(core, gv.0, gv.1))
            }
            _ => Err(Status::no_such_path()),
        }
    }

    fn aggregate(&self, catalog: &Catalog, admitted: &Admitted, core: bool) -> Result<Response<Body>, Status> {
        let path = if core { "/api aggregated" } else { "/apis aggregated" };
        let mut response = self.document(admitted, path, || aggregated(catalog, core))?;
        let kind = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let v2 = accept(admitted).contains("v=v2;")
            || accept(admitted).contains("v=v2,")
            || !accept(admitted).contains("v=v2beta1");
        if !v2 {
            return Err(Status::new(
                406,
                meta::Reason::NotAcceptable,
                "apidiscovery.k8s.io/v2 only",
            ));
        }
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        Ok(response)
    }

    /// The document of version 2, as JSON or in the messages that older clients ask for.
    fn openapi_v2(&self, core: &Core, admitted: &Admitted) -> Result<Response<Body>, Status> {
        if !openapi::wants_protobuf(accept(admitted)) {
            return self.document(admitted, "/openapi/v2", || openapi::v2(core));
        }
        let build = || openapi::v2_protobuf(core);
        let mut response = self.bytes(admitted, "/openapi/v2 protobuf", build)?;
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(openapi::PROTOBUF));
        Ok(response)
    }

    fn v3_index(&self, core: &Core) -> Value {
        let mut paths = serde_json::Map::new();
        for (group, version) in core.catalog.group_versions() {
            let path = if group.is_empty() {
                format!("api/{version}")
            } else {
                format!("apis/{group}/{version}")
            };
            // The content changes with the program and with the kinds, so their names are enough.
            let kinds = kinds_of(&core.catalog, &group, &version);
            let names: Vec<&str> = kinds.iter().map(|k| &*k.kind).collect();
            let custom = kinds.iter().any(|k| k.custom).then(|| core.catalog.generation());
            let hash = hash(format!("{}{names:?}{custom:?}", core.config.git_version).as_bytes());
            let url = format!("/openapi/v3/{path}?hash={hash}");
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
        json!({"paths": paths})
    }

    /// A large document: built at the first request, kept compressed for a while.
    fn document(
        &self,
        admitted: &Admitted,
        path: &str,
        build: impl FnOnce() -> Value,
    ) -> Result<Response<Body>, Status> {
        self.bytes(admitted, path, || build().to_string().into_bytes())
    }

    fn bytes(
        &self,
        admitted: &Admitted,
        path: &str,
        build: impl FnOnce() -> Vec<u8>,
    ) -> Result<Response<Body>, Status> {
        let kept = self.kept(path, build);
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        headers.insert(VARY, HeaderValue::from_static("Accept"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Ok(etag) = HeaderValue::from_str(&format!("\"{}\"", kept.etag)) {
            headers.insert(ETAG, etag);
        }
        let asked = header(admitted.request.headers(), IF_NONE_MATCH);
        if asked.trim_matches('"') == kept.etag {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(response);
        }
        if wants_gzip(admitted.request.headers()) {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            *response.body_mut() = Body::from(kept.gzip.clone());
            return Ok(response);
        }
        let mut plain = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&kept.gzip[..]), &mut plain)
            .map_err(Status::internal)?;
        *response.body_mut() = Body::from(plain);
        Ok(response)
    }

    fn kept(&self, path: &str, build: impl FnOnce() -> Vec<u8>) -> Arc<Kept> {
        let generation = self.generation.load(Ordering::Acquire);
        {
            let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(kept) = all.iter_mut().find(|k| k.path == path && k.generation == generation) {
                kept.used = Instant::now();
                return Arc::new(kept.clone());
            }
        }
        let plain = build();
        let kept = Kept {
            path: path.to_owned(),
            etag: hash(&plain),
            gzip: gzip(&plain).into(),
            used: Instant::now(),
            generation,
        };
        self.kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(kept.clone());
        Arc::new(kept)
    }

    /// Drops documents that nobody asked for lately.
    pub(crate) fn forget(&self) {
        self.kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|k| k.used.elapsed() < KEEP);
    }
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02X}")).collect()
}

fn roots(catalog: &Catalog) -> Value {
    let mut paths = vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned()];
    for (group, version) in catalog.group_versions() {
        if !group.is_empty() {
            paths.push(format!("/apis/{group}"));
            paths.push(format!("/apis/{group}/{version}"));
        }
    }
    for path in [
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/version",
    ] {
        paths.push(path.to_owned());
    }
    json!({"paths": paths})
}

fn kinds_of(catalog: &Catalog, group: &str, version: &str) -> Vec<Arc<Kind>> {
    let all = catalog.all().into_iter().map(|r| r.kind.clone());
    all.filter(|k| k.group == group && k.version == version).collect()
}

fn group_names(catalog: &Catalog) -> Vec<Text> {
    let mut names: Vec<Text> = Vec::new();
    for (group, _) in catalog.group_versions() {
        if !group.is_empty() && !names.contains(&group) {
            names.push(group);
        }
    }
    names
}

fn group(catalog: &Catalog, name: &str) -> Value {
    let versions: Vec<Value> = catalog
        .group_versions()
        .into_iter()
        .filter(|(g, _)| *g == name)
        .map(|(g, v)| json!({"groupVersion": format!("{g}/{v}"), "version": v}))
        .collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions[0]})
}

fn resources(catalog: &Catalog, group: &str, version: &str) -> Result<Value, Status> {
    let mut list = Vec::new();
    for kind in &kinds_of(catalog, group, version) {
        let mut entry = json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced(),
            "kind": kind.kind, "verbs": kind.verbs,
            "storageVersionHash": &hash(kind.gvk().to_string().as_bytes())[..12],
        });
        if !kind.short_names.is_empty() {
            entry["shortNames"] = json!(kind.short_names);
        }
        if !kind.categories.is_empty() {
            entry["categories"] = json!(kind.categories);
        }
        list.push(entry);
        for s in &kind.subresources {
            let (name, gvk, verbs) = subresource(kind, s);
            let mut entry = json!({
                "name": format!("{}/{name}", kind.plural), "singularName": "",
                "namespaced": kind.namespaced(), "kind": gvk.2, "verbs": verbs,
            });
            if (gvk.0, gvk.1) != (&*kind.group, &*kind.version) {
                entry["group"] = gvk.0.into();
                entry["version"] = gvk.1.into();
            }
            list.push(entry);
        }
    }
    if list.is_empty() {
        return Err(Status::no_such_path());
    }
    let gv = meta::Gvr::named(group, version, "").api_version();
    Ok(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": gv, "resources": list}))
}

/// The versions of that group.
fn machine_group(name: &str) -> Value {
    let versions = machines::VERSIONS.map(|v| json!({"groupVersion": format!("{name}/{v}"), "version": v}));
    json!({"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": versions, "preferredVersion": versions[0]})
}

/// KubeVirt's group of subresources has no kinds of its own.
fn machine_parts(group: &str, version: &str) -> Value {
    let entry = |plural: &str, part: &str, verb: &str| json!({"name": format!("{plural}/{part}"), "singularName": "", "namespaced": true, "kind": "", "verbs": [verb]});
    let on_machine = machines::ACTIONS.iter().map(|a| entry("virtualmachines", a, "update"));
    let on_node = machines::ON_NODE
        .iter()
        .map(|a| entry("virtualmachineinstances", a, "get"));
    let list: Vec<Value> = on_machine.chain(on_node).collect();
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{group}/{version}"), "resources": list})
}

/// Name, group-version-kind of the body, and verbs of a subresource.
pub(crate) fn subresource<'k>(
    kind: &'k Kind,
    s: &Subresource,
) -> (&'static str, (&'k str, &'k str, &'k str), &'static [&'static str]) {
    const WRITE: &[&str] = &["get", "patch", "update"];
    match s {
        Subresource::Status => ("status", (&*kind.group, &*kind.version, &*kind.kind), WRITE),
        Subresource::Scale(_) => ("scale", ("autoscaling", "v1", "Scale"), WRITE),
        Subresource::Custom(name, body, verbs) => {
            let (group, version) = match *body {
                "Eviction" => ("policy", "v1"),
                "TokenRequest" => ("authentication.k8s.io", "v1"),
                _ => (&*kind.group, &*kind.version),
            };
            (name, (group, version, body), verbs)
        }
    }
}

fn aggregated(catalog: &Catalog, core: bool) -> Value {
    let names = if core {
        vec![Text::Borrowed("")]
    } else {
        group_names(catalog)
    };
    let items: Vec<Value> = names
        .into_iter()
        .map(|name| {
            let versions: Vec<Value> = catalog
                .group_versions()
                .into_iter()
                .filter(|(g, _)| *g == name)
                .map(|(g, v)| {
                    let resources: Vec<Value> = kinds_of(catalog, &g, &v).iter().map(|k| aggregated_kind(k)).collect();
                    json!({"version": v, "freshness": "Current", "resources": resources})
                })
                .collect();
            let mut metadata = json!({"creationTimestamp": null});
            if !name.is_empty() {
                metadata["name"] = name.into();
            }
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_kind(kind: &Kind) -> Value {
    let response =
        |(group, version, kind): (&str, &str, &str)| json!({"group": group, "version": version, "kind": kind});
    let mut entry = json!({
        "resource": kind.plural, "singularResource": kind.singular,
        "scope": if kind.namespaced() { "Namespaced" } else { "Cluster" },
        "responseKind": response((&*kind.group, &*kind.version, &*kind.kind)), "verbs": kind.verbs,
    });
    if !kind.short_names.is_empty() {
        entry["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        entry["categories"] = json!(kind.categories);
    }
    let subs: Vec<Value> = kind
        .subresources
        .iter()
        .map(|s| {
            let (name, gvk, verbs) = subresource(kind, s);
            json!({"subresource": name, "responseKind": response(gvk), "verbs": verbs})
        })
        .collect();
    if !subs.is_empty() {
        entry["subresources"] = subs.into();
    }
    entry
}
