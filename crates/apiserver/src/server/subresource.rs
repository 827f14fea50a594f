//! Requests on subresources with handlers of their own: what the engine does,
//! and what is passed on. Must not decide: it finds the handler.

use http::Response;
use meta::Status;
use serde_json::Value;

use super::dispatch::Admitted;
use super::handle::{accepted, not_allowed};
use super::proxy::Destination;
use super::{Body, Frontend, intake, respond};
use crate::registry::Target;

impl Frontend {
    /// A subresource with a handler of its own.
    pub(super) async fn subresource(
        &self,
        admitted: Admitted,
        target: Target<'_>,
        verb: &str,
        rest: &str,
    ) -> Result<Response<Body>, Status> {
        match (&*target.resource.kind.plural, target.subresource) {
            ("pods", "log" | "exec" | "attach" | "portforward") => self.pod_stream(admitted, target).await,
            ("nodes", "proxy") => {
                let path = with_query(&format!("/{rest}"), admitted.request.uri().query());
                let to = self.on_node(target.name, path)?;
                self.pass_on(admitted.request, to).await
            }
            ("pods" | "services", "proxy") => {
                let to = self.workload(target, rest, admitted.request.uri().query())?;
                self.pass_on(admitted.request, to).await
            }
            _ if verb == "get" => {
                let object = self.core.current(target)?;
                self.object(200, accepted(&admitted, target, false)?, target, &object)
            }
            _ => self.write_subresource(admitted, target, verb).await,
        }
    }

    async fn write_subresource(
        &self,
        admitted: Admitted,
        target: Target<'_>,
        verb: &str,
    ) -> Result<Response<Body>, Status> {
        let accepted = accepted(&admitted, target, false)?;
        let (call, headers, body) = self.take(&admitted.user, &admitted.query, admitted.request).await?;
        let mut response = match verb {
            "create" => {
                let answer = self
                    .core
                    .post_subresource(&call, target, intake::object(&headers, &body)?)
                    .await?;
                respond::value(201, accepted.media, &answer)
            }
            "update" => {
                let object = self
                    .core
                    .put_subresource(&call, target, intake::object(&headers, &body)?)
                    .await?;
                self.object(200, accepted, target, &object)?
            }
            "patch" => {
                let object = self
                    .core
                    .patch_subresource(&call, target, intake::patch(&headers, &body, false)?)
                    .await?;
                self.object(200, accepted, target, &object)?
            }
            _ => return Err(not_allowed(target.resource, verb)),
        };
        respond::warn(&mut response, &call.warnings());
        Ok(response)
    }

    /// Logs, exec, attach and port-forward, on the paths of the kubelet's API.
    async fn pod_stream(&self, admitted: Admitted, target: Target<'_>) -> Result<Response<Body>, Status> {
        let pod = self.core.current(target)?.to_value();
        let node = pod
            .pointer("/spec/nodeName")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let is_log = target.subresource == "log";
        let container = match target.subresource {
            "portforward" => String::new(),
            _ => container(&pod, target.name, admitted.query.get("container"))?,
        };
        if node.is_empty() {
            // Nothing has been logged yet; anything else needs a running pod.
            return if is_log {
                Ok(respond::text(200, ""))
            } else {
                Err(Status::bad_request(format!(
                    "pod {} does not have a host assigned",
                    target.name
                )))
            };
        }
        let (namespace, name) = (target.namespace, target.name);
        let path = match target.subresource {
            "log" => format!("/containerLogs/{namespace}/{name}/{container}"),
            "portforward" => format!("/portForward/{namespace}/{name}"),
            other => format!("/{other}/{namespace}/{name}/{container}"),
        };
        let query = kubelet_query(admitted.request.uri().query(), is_log);
        let to = self.on_node(node, with_query(&path, Some(&query)))?;
        self.pass_on(admitted.request, to).await
    }

    /// `pods/proxy` and `services/proxy`: `[scheme:]name[:port]`.
    fn workload(&self, target: Target<'_>, rest: &str, query: Option<&str>) -> Result<Destination, Status> {
        let parts: Vec<&str> = target.name.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => {
                return Err(Status::bad_request(format!(
                    "invalid service request {:?}",
                    target.name
                )));
            }
        };
        let object = self.core.current(Target { name, ..target })?.to_value();
        let (host, port) = if target.resource.kind.plural == "pods" {
            let ip = object
                .pointer("/status/podIP")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let first = object
                .pointer("/spec/containers/0/ports/0/containerPort")
                .and_then(Value::as_u64);
            let port = if port.is_empty() {
                first.unwrap_or(80).to_string()
            } else {
                port.to_owned()
            };
            (ip.to_owned(), port)
        } else {
            let ip = object
                .pointer("/spec/clusterIP")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let ports = object.pointer("/spec/ports").and_then(Value::as_array);
            let (mut ports, number) = (ports.into_iter().flatten(), port.parse::<u64>().ok());
            let found = ports.find(|p| port.is_empty() || p["name"] == port || p["port"].as_u64() == number);
            let port = found.and_then(|p| p["port"].as_u64());
            let missing = || Status::unavailable(format!("no endpoints available for service {name:?}"));
            (ip.to_owned(), port.ok_or_else(missing)?.to_string())
        };
        let unreachable = || Status::unavailable(format!("{name:?} has no address or port to connect to"));
        // The object names the address; it must not lead back into this host.
        let ip: std::net::IpAddr = host.parse().map_err(|_| unreachable())?;
        if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
            return Err(Status::bad_request("address not allowed"));
        }
        let port = port.parse().map_err(|_| unreachable())?;
        Ok(Destination {
            address: (host.clone(), port),
            tls: (scheme == "https").then_some(host),
            path: with_query(&format!("/{rest}"), query),
        })
    }
}

pub(super) fn with_query(path: &str, query: Option<&str>) -> String {
    match query {
        Some(query) if !query.is_empty() => format!("{path}?{query}"),
        _ => path.to_owned(),
    }
}

/// The kubelet names the streams of exec differently.
fn kubelet_query(query: Option<&str>, is_log: bool) -> String {
    let mut out = form_urlencoded::Serializer::new(String::new());
    for (key, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        if key == "container" {
            continue;
        }
        if is_log || matches!(&*key, "command" | "ports" | "port") {
            out.append_pair(&key, &value);
            continue;
        }
        let on = matches!(&*value, "1" | "t" | "true" | "TRUE" | "True");
        let name = match &*key {
            "stdin" => "input",
            "stdout" => "output",
            "stderr" => "error",
            "tty" => "tty",
            _ => continue,
        };
        if on {
            out.append_pair(name, "1");
        }
    }
    out.finish()
}

/// The container that is meant: the named one, or the only one.
fn container(pod: &Value, name: &str, wanted: &str) -> Result<String, Status> {
    let names = |list: &str| -> Vec<&str> {
        let containers = pod.pointer(&format!("/spec/{list}")).and_then(Value::as_array);
        containers
            .into_iter()
            .flatten()
            .filter_map(|c| c["name"].as_str())
            .collect()
    };
    let (main, init, debug) = (
        names("containers"),
        names("initContainers"),
        names("ephemeralContainers"),
    );
    if wanted.is_empty() {
        return match main.as_slice() {
            [only] => Ok((*only).to_owned()),
            many => {
                let mut message = format!(
                    "a container name must be specified for pod {name}, choose one of: [{}]",
                    many.join(" ")
                );
                if !init.is_empty() {
                    message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                }
                Err(Status::bad_request(message))
            }
        };
    }
    if main.iter().chain(&init).chain(&debug).any(|c| *c == wanted) {
        return Ok(wanted.to_owned());
    }
    Err(Status::bad_request(format!(
        "container {wanted} is not valid for pod {name}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn exec_speaks_the_kubelets_language() {
        let query = kubelet_query(
            Some("container=c&command=sh&command=-c%20x&stdin=true&stdout=true&tty=false"),
            false,
        );
        assert_eq!(query, "command=sh&command=-c+x&input=1&output=1");
        assert_eq!(
            kubelet_query(Some("follow=true&tailLines=5"), true),
            "follow=true&tailLines=5"
        );
    }

    #[test]
    fn the_container_is_the_named_or_the_only_one() {
        let pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}});
        assert_eq!(container(&pod, "p", "i").unwrap(), "i");
        assert!(
            container(&pod, "p", "")
                .unwrap_err()
                .message
                .ends_with("[a b] or one of the init containers: [i]")
        );
        assert!(container(&pod, "p", "x").is_err());
    }
}
