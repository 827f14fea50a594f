//! The plugin: a short-lived process that containerd starts.
//!
//! Must not keep state, and must not start an async runtime.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use host::link::Links;
use host::netns;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Address, Answer, Failure, Request, Verb, code};
use crate::book::Mapping;
use crate::plumb::INSIDE;

/// How long an agent that is being restarted is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(50);
/// Versions of the specification whose results can be printed.
const VERSIONS: [&str; 4] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0"];

/// What CNI passes in the environment.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `CNI_COMMAND`.
    pub command: String,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS`.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub interface: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Conf {
    cni_version: String,
    #[serde(rename = "type")]
    plugin: String,
    socket: PathBuf,
    runtime_config: RuntimeConfig,
    prev_result: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RuntimeConfig {
    port_mappings: Vec<Mapping>,
}

/// The program as a plugin: environment and standard input to standard output. Returns the exit code.
pub fn cni_main() -> i32 {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let environment = Environment {
        command: variable("CNI_COMMAND"),
        container_id: variable("CNI_CONTAINERID"),
        netns: variable("CNI_NETNS"),
        interface: variable("CNI_IFNAME"),
    };
    let mut input = String::new();
    let (output, exit) = match io::stdin().read_to_string(&mut input) {
        Ok(_) => run(&environment, &input),
        Err(error) => (print_failure("1.0.0", &fail(code::IO, &error)), 1),
    };
    if writeln!(io::stdout(), "{output}").is_err() {
        return 1;
    }
    exit
}

/// One call of the plugin: what it prints, and its exit code.
pub fn run(environment: &Environment, input: &str) -> (String, i32) {
    let conf: Result<Conf, Failure> = serde_json::from_str(input).map_err(|e| fail(code::DECODE, &e));
    let version = match &conf {
        Ok(conf) if !conf.cni_version.is_empty() => conf.cni_version.clone(),
        _ => "1.0.0".to_owned(),
    };
    match conf.and_then(|conf| carry_out(environment, &conf, &version)) {
        Ok(None) => (String::new(), 0),
        Ok(Some(result)) => (result.to_string(), 0),
        Err(failure) => (print_failure(&version, &failure), 1),
    }
}

fn carry_out(environment: &Environment, conf: &Conf, version: &str) -> Result<Option<Value>, Failure> {
    if environment.command == "VERSION" {
        return Ok(Some(json!({"cniVersion": version, "supportedVersions": VERSIONS})));
    }
    if !VERSIONS.contains(&version) {
        return Err(fail(
            code::INCOMPATIBLE_VERSION,
            &format!("version {version} is not one of {VERSIONS:?}"),
        ));
    }
    let verb = match environment.command.as_str() {
        "ADD" => Verb::Add,
        "DEL" => Verb::Del,
        "CHECK" => Verb::Check,
        other => {
            return Err(fail(
                code::INVALID_ENVIRONMENT,
                &format!("CNI_COMMAND {other:?} is not known"),
            ));
        }
    };
    check(environment, verb)?;
    if conf.plugin == "loopback" {
        return loopback(environment, conf, verb, version);
    }
    if environment.interface != INSIDE {
        let message = format!("CNI_IFNAME {:?}: only {INSIDE} is supported", environment.interface);
        return Err(fail(code::INVALID_ENVIRONMENT, &message));
    }
    if conf.socket.as_os_str().is_empty() {
        return Err(fail(code::INVALID_CONFIGURATION, &"socket is missing"));
    }
    let request = Request {
        command: verb,
        container_id: environment.container_id.clone(),
        netns: environment.netns.clone().into(),
        port_mappings: conf.runtime_config.port_mappings.clone(),
    };
    let answer = ask(&conf.socket, &request)?;
    match (answer.error, answer.address) {
        (Some(failure), _) => Err(failure),
        (None, Some(address)) if verb == Verb::Add => Ok(Some(result(&address, environment, version))),
        (None, None) if verb == Verb::Add => Err(fail(code::DECODE, &"the agent's answer has no address")),
        (None, _) => Ok(None),
    }
}

fn check(environment: &Environment, verb: Verb) -> Result<(), Failure> {
    let missing = |name: &str| Err(fail(code::INVALID_ENVIRONMENT, &format!("{name} is missing")));
    if environment.container_id.is_empty() {
        return missing("CNI_CONTAINERID");
    }
    if environment.interface.is_empty() {
        return missing("CNI_IFNAME");
    }
    // A namespace that is gone already has no path.
    if environment.netns.is_empty() && verb != Verb::Del {
        return missing("CNI_NETNS");
    }
    Ok(())
}

/// Asks the agent. Until it answers nothing has been promised, and everything can be asked twice.
fn ask(socket: &Path, request: &Request) -> Result<Answer, Failure> {
    let until = Instant::now() + PATIENCE;
    loop {
        let error = match attempt(socket, request) {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        if Instant::now() >= until || error.kind() == io::ErrorKind::InvalidData {
            let message = format!("the network agent does not answer on {}: {error}", socket.display());
            return Err(fail(code::TRY_AGAIN, &message));
        }
        std::thread::sleep(BETWEEN_ATTEMPTS);
    }
}

fn attempt(socket: &Path, request: &Request) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    let mut bytes = serde_json::to_vec(request)?;
    bytes.push(b'\n');
    stream.write_all(&bytes)?;
    let mut line = String::new();
    if BufReader::new(stream).read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_str(&line).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

fn result(address: &Address, environment: &Environment, version: &str) -> Value {
    json!({
        "cniVersion": version,
        "interfaces": [
            {"name": address.host_link},
            {"name": environment.interface, "mac": address.mac, "sandbox": environment.netns},
        ],
        "ips": [with_family(version, json!({
            "address": format!("{}/32", address.address),
            "gateway": address.gateway,
            "interface": 1,
        }))],
        "routes": [{"dst": "0.0.0.0/0", "gw": address.gateway}],
        "dns": {},
    })
}

/// containerd has every sandbox's loopback link brought up by a plugin of this name.
fn loopback(environment: &Environment, conf: &Conf, verb: Verb, version: &str) -> Result<Option<Value>, Failure> {
    if verb != Verb::Add {
        return Ok(None);
    }
    let up = std::fs::File::open(&environment.netns).and_then(|namespace| {
        netns::inside(&namespace, || {
            let mut links = Links::open()?;
            let lo = links.get("lo")?.ok_or(io::ErrorKind::NotFound)?;
            links.up(lo.index)
        })
    });
    up.map_err(|e| fail(code::IO, &format!("bring lo up in {}: {e}", environment.netns)))?;
    if let Some(previous) = &conf.prev_result {
        return Ok(Some(previous.clone()));
    }
    Ok(Some(json!({
        "cniVersion": version,
        "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": environment.netns}],
        "ips": [with_family(version, json!({"address": "127.0.0.1/8", "interface": 0}))],
        "dns": {},
    })))
}

/// Before 1.0 an address said which family it is of.
fn with_family(version: &str, mut ip: Value) -> Value {
    if version.starts_with("0.") {
        ip["version"] = "4".into();
    }
    ip
}

fn fail(code: u32, message: &dyn ToString) -> Failure {
    let msg = message.to_string();
    Failure { code, msg }
}

fn print_failure(version: &str, failure: &Failure) -> String {
    json!({"cniVersion": version, "code": failure.code, "msg": failure.msg}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(command: &str, conf: &Value) -> (Value, i32) {
        let environment = Environment {
            command: command.into(),
            container_id: "a".into(),
            netns: "/nowhere".into(),
            interface: "eth0".into(),
        };
        let (output, exit) = run(&environment, &conf.to_string());
        (serde_json::from_str(&output).unwrap_or_default(), exit)
    }

    #[test]
    fn versions_are_told_and_checked() {
        let (output, exit) = call("VERSION", &json!({"cniVersion": "1.0.0"}));
        assert_eq!((exit, &output["supportedVersions"][3]), (0, &json!("1.0.0")));
        let (output, exit) = call("ADD", &json!({"cniVersion": "9.0.0"}));
        assert_eq!((exit, &output["code"]), (1, &json!(1)));
    }

    #[test]
    fn wrong_calls_have_the_codes_of_the_specification() {
        let conf = json!({"cniVersion": "1.0.0", "type": "allmend-cni"});
        assert_eq!(call("FROB", &conf).0["code"], 4);
        assert_eq!(call("ADD", &conf).0["code"], 7);
        assert_eq!(call("ADD", &json!("x")).0["code"], 6);
        let output = run(
            &Environment {
                command: "ADD".into(),
                ..Environment::default()
            },
            &conf.to_string(),
        );
        assert!(output.0.contains("CNI_CONTAINERID is missing"));
        let lo = json!({"cniVersion": "0.3.1", "type": "loopback"});
        assert_eq!(call("ADD", &lo).0["code"], 5);
        assert_eq!(call("DEL", &lo).1, 0);
    }
}
