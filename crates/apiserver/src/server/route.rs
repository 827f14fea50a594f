//! From method, path and query to what a request wants: `RequestInfo` in
//! upstream's words. Must not know which resources exist.

use std::collections::HashMap;

use http::Method;
use meta::Status;

/// Query parameters, decoded; the first of several with the same name counts, `all` has them all.
#[derive(Clone, Debug, Default)]
pub struct Query {
    first: HashMap<String, String>,
}

impl Query {
    /// Reads a query string.
    pub fn parse(text: Option<&str>) -> Self {
        let mut first = HashMap::new();
        for (key, value) in form_urlencoded::parse(text.unwrap_or_default().as_bytes()) {
            first.entry(key.into_owned()).or_insert_with(|| value.into_owned());
        }
        Query { first }
    }

    /// A parameter; empty when absent.
    pub fn get(&self, key: &str) -> &str {
        self.first.get(key).map_or("", String::as_str)
    }

    /// A boolean parameter, as Go reads them.
    pub fn flag(&self, key: &str) -> bool {
        matches!(self.get(key), "1" | "t" | "T" | "true" | "TRUE" | "True")
    }
}

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// A resource, an object or a subresource.
    Resource(ResourcePath),
    /// Anything else.
    Other,
}

/// The parts of a resource's path, percent-decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourcePath {
    /// API group; empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Empty for none.
    pub namespace: String,
    /// Plural.
    pub resource: String,
    /// Empty for the collection.
    pub name: String,
    /// Empty for the main resource.
    pub subresource: String,
    /// What follows a subresource: the path of a proxied request.
    pub rest: String,
}

/// Splits a path. `Err` is a path that no server should guess about.
pub fn parse(path: &str) -> Result<Route, Status> {
    let trimmed = path.strip_prefix('/').unwrap_or(path);
    let mut parts = Vec::new();
    for part in trimmed.split('/') {
        let decoded = decode(part)?;
        if decoded == "." || decoded == ".." {
            return Err(Status::bad_request("the path must not contain dot segments"));
        }
        parts.push(decoded);
    }
    if parts.last().is_some_and(String::is_empty) {
        parts.pop();
    }
    if parts.iter().any(String::is_empty) {
        return Err(Status::no_such_path());
    }
    let (group, version, rest) = match parts.first().map(String::as_str) {
        Some("api") if parts.len() > 2 => (String::new(), parts[1].clone(), &parts[2..]),
        Some("apis") if parts.len() > 3 => (parts[1].clone(), parts[2].clone(), &parts[3..]),
        _ => return Ok(Route::Other),
    };
    let mut out = ResourcePath {
        group,
        version,
        ..ResourcePath::default()
    };
    let rest = match rest {
        // `namespaces/x/pods`, but not `namespaces/x/status` or `.../finalize`.
        [first, namespace, resource, ..]
            if first == "namespaces" && !(rest.len() == 3 && matches!(resource.as_str(), "status" | "finalize")) =>
        {
            out.namespace = namespace.clone();
            &rest[2..]
        }
        rest => rest,
    };
    let mut rest = rest.iter().cloned();
    out.resource = rest.next().unwrap_or_default();
    out.name = rest.next().unwrap_or_default();
    out.subresource = rest.next().unwrap_or_default();
    out.rest = rest.collect::<Vec<_>>().join("/");
    let core_namespaces = out.resource == "namespaces" && out.group.is_empty();
    if core_namespaces && !out.name.is_empty() {
        out.namespace = out.name.clone();
    }
    if out.resource.is_empty() || (out.name.is_empty() && !out.subresource.is_empty()) {
        return Err(Status::no_such_path());
    }
    Ok(Route::Resource(out))
}

fn decode(part: &str) -> Result<String, Status> {
    if !part.contains('%') {
        return Ok(part.to_owned());
    }
    let bad = || Status::bad_request("the path contains an invalid escape");
    let mut out = Vec::with_capacity(part.len());
    let mut bytes = part.bytes();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
        let (high, low) = (
            digit(bytes.next()).ok_or_else(bad)?,
            digit(bytes.next()).ok_or_else(bad)?,
        );
        out.push(u8::try_from(high * 16 + low).map_err(|_| bad())?);
    }
    let text = String::from_utf8(out).map_err(|_| bad())?;
    if text.contains(['/', '\0']) {
        return Err(bad());
    }
    Ok(text)
}

/// The API verb of a request on a resource.
pub fn verb(method: &Method, path: &ResourcePath, query: &Query) -> &'static str {
    let named = !path.name.is_empty();
    match *method {
        Method::GET | Method::HEAD if query.flag("watch") && path.subresource.is_empty() => "watch",
        Method::GET | Method::HEAD if named => "get",
        Method::GET | Method::HEAD => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if named => "delete",
        Method::DELETE => "deletecollection",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> ResourcePath {
        match parse(text) {
            Ok(Route::Resource(path)) => path,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn paths_name_resources() {
        let p = path("/api/v1/namespaces/shop/pods/web-1/log");
        assert_eq!((p.namespace.as_str(), p.resource.as_str()), ("shop", "pods"));
        assert_eq!((p.name.as_str(), p.subresource.as_str()), ("web-1", "log"));
        let p = path("/apis/apps/v1/deployments");
        assert_eq!(
            (p.group.as_str(), p.version.as_str(), p.resource.as_str()),
            ("apps", "v1", "deployments")
        );
        let p = path("/api/v1/namespaces/shop");
        assert_eq!(
            (p.resource.as_str(), p.name.as_str(), p.namespace.as_str()),
            ("namespaces", "shop", "shop")
        );
        let p = path("/api/v1/namespaces/shop/finalize");
        assert_eq!(
            (p.resource.as_str(), p.name.as_str(), p.subresource.as_str()),
            ("namespaces", "shop", "finalize")
        );
        let p = path("/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode");
        assert_eq!(p.name, "system:node");
        let p = path("/api/v1/nodes/n/proxy/a/b");
        assert_eq!((p.subresource.as_str(), p.rest.as_str()), ("proxy", "a/b"));
    }

    #[test]
    fn other_paths_are_no_resources() {
        for text in [
            "/",
            "/api",
            "/api/v1",
            "/apis/apps/v1",
            "/healthz",
            "/openapi/v3/apis/apps/v1",
        ] {
            assert_eq!(parse(text), Ok(Route::Other), "{text}");
        }
    }

    #[test]
    fn tricks_are_refused() {
        for text in [
            "/api/v1/namespaces/a/pods/%2e%2e",
            "/api/v1/pods/a%2fb",
            "/api/v1/pods/%zz",
            "/api/v1/a/../b",
            "/api/v1/pods/%00",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
