//! One look at a container. Must not count: it says how it went this time.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use runtime::RuntimeError;
use tokio::net::TcpStream;

use super::web::HttpCheck;
use super::{Target, grpc};

/// Most bytes of a command's output or an answer's body that are looked at.
pub(super) const OUTPUT: usize = 10 << 10;

/// How a look went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As it should be.
    Success,
    /// Not as it should be.
    Failure(String),
    /// It could not be looked at.
    Error(String),
}

/// What a probe does.
pub(super) enum Handler {
    Http(HttpCheck),
    Tcp {
        host: String,
        port: u16,
    },
    Exec(Vec<String>),
    Grpc {
        address: SocketAddr,
        service: String,
    },
    /// The probe cannot be carried out as it is written.
    Wrong(String),
}

impl Handler {
    pub(super) fn of(probe: &Probe, container: &Container, target: &Target) -> Handler {
        let ip = target.pod_ip.unwrap_or(target.host_network_ip);
        let host = |given: &Option<String>| match given {
            Some(host) if !host.is_empty() => host.clone(),
            _ => ip.to_string(),
        };
        if let Some(exec) = &probe.exec {
            let env = static_env(container);
            let command = exec.command.iter().flatten();
            return Handler::Exec(command.map(|word| expand(word, &env)).collect());
        }
        if let Some(http) = &probe.http_get {
            return match port(&http.port, target) {
                Ok(port) => Handler::Http(HttpCheck::new(http, host(&http.host), port)),
                Err(why) => Handler::Wrong(why),
            };
        }
        if let Some(tcp) = &probe.tcp_socket {
            return match port(&tcp.port, target) {
                Ok(port) => Handler::Tcp {
                    host: host(&tcp.host),
                    port,
                },
                Err(why) => Handler::Wrong(why),
            };
        }
        if let Some(grpc) = &probe.grpc {
            return match port(&IntOrString::Int(grpc.port), target) {
                Ok(port) => Handler::Grpc {
                    address: SocketAddr::new(ip, port),
                    service: grpc.service.clone().unwrap_or_default(),
                },
                Err(why) => Handler::Wrong(why),
            };
        }
        Handler::Wrong(format!("missing probe handler for container {}", container.name))
    }

    pub(super) async fn check(&self, target: &Target, timeout: Duration) -> Verdict {
        match self {
            Handler::Http(check) => check.run(timeout).await,
            Handler::Tcp { host, port } => tcp(host, *port, timeout).await,
            Handler::Exec(command) => exec(target, command, timeout).await,
            Handler::Grpc { address, service } => grpc::check(*address, service, timeout).await,
            Handler::Wrong(why) => Verdict::Error(why.clone()),
        }
    }
}

async fn tcp(host: &str, port: u16, timeout: Duration) -> Verdict {
    let address = join(host, port);
    match tokio::time::timeout(timeout, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Verdict::Success,
        Ok(Err(e)) => Verdict::Failure(dial_error(&address, &e)),
        Err(_) => Verdict::Failure(format!("dial tcp {address}: i/o timeout")),
    }
}

async fn exec(target: &Target, command: &[String], timeout: Duration) -> Verdict {
    let run = target.runtime.exec_sync(&target.container_id, command, timeout);
    let late = || {
        let line = command.join(" ");
        Verdict::Failure(format!(
            "command timed out: {line:?} timed out after {}s",
            timeout.as_secs()
        ))
    };
    // A runtime that does not keep its own limit must not hold up the probe for ever.
    match tokio::time::timeout(timeout + Duration::from_secs(1), run).await {
        Ok(Ok(output)) if output.exit_code == 0 => Verdict::Success,
        Ok(Ok(output)) => {
            let mut text = output.stdout;
            text.extend_from_slice(&output.stderr);
            text.truncate(OUTPUT);
            Verdict::Failure(String::from_utf8_lossy(&text).into_owned())
        }
        Ok(Err(RuntimeError::Timeout(_))) | Err(_) => late(),
        Ok(Err(e)) => Verdict::Error(e.to_string()),
    }
}

fn port(wanted: &IntOrString, target: &Target) -> Result<u16, String> {
    let found = match wanted {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => {
            let named = target.ports.iter().find(|(n, _)| n == name).map(|(_, port)| *port);
            named.or_else(|| name.parse().ok())
        }
    };
    found.filter(|p| *p > 0).ok_or_else(|| match wanted {
        IntOrString::Int(number) => format!("invalid port number: {number}"),
        IntOrString::String(name) => format!("couldn't find port: {name}"),
    })
}

/// `host:port`, with brackets where needed.
pub(super) fn join(host: &str, port: u16) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
        _ => format!("{host}:{port}"),
    }
}

/// Why a connection was not made, in the words that events of other nodes have.
pub(super) fn dial_error(address: &str, e: &std::io::Error) -> String {
    use std::io::ErrorKind;
    let why = match e.kind() {
        ErrorKind::ConnectionRefused => "connect: connection refused",
        ErrorKind::HostUnreachable => "connect: no route to host",
        ErrorKind::NetworkUnreachable => "connect: network is unreachable",
        ErrorKind::ConnectionReset => "connect: connection reset by peer",
        ErrorKind::TimedOut => "i/o timeout",
        _ => return format!("dial tcp {address}: {e}"),
    };
    format!("dial tcp {address}: {why}")
}

/// The variables of the container that have their value in the spec.
fn static_env(container: &Container) -> BTreeMap<&str, String> {
    let mut env = BTreeMap::new();
    for variable in container.env.iter().flatten() {
        if let Some(value) = &variable.value {
            let value = expand(value, &env);
            env.insert(variable.name.as_str(), value);
        }
    }
    env
}

/// Replaces `$(NAME)`; `$$` is a dollar sign, and unknown names stay as they are.
fn expand(text: &str, env: &BTreeMap<&str, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        if let Some(after) = tail.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let name = tail.strip_prefix('(').and_then(|t| t.split_once(')'));
        match name {
            Some((name, after)) => {
                match env.get(name) {
                    Some(value) => out.push_str(value),
                    None => out.push_str(&format!("$({name})")),
                }
                rest = after;
            }
            None => {
                out.push('$');
                rest = tail;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_expanded_once() {
        let env = BTreeMap::from([("A", "1".to_owned()), ("B", "$(A)".to_owned())]);
        assert_eq!(expand("x$(A)y$$(A)z$(C)$", &env), "x1y$(A)z$(C)$");
        assert_eq!(expand("$(B)", &env), "$(A)");
        assert_eq!(expand("$(", &env), "$(");
    }

    #[test]
    fn addresses_are_written_with_brackets_where_needed() {
        assert_eq!(join("10.0.0.1", 80), "10.0.0.1:80");
        assert_eq!(join("fd00::1", 80), "[fd00::1]:80");
    }
}
