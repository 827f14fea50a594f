//! The configuration file: YAML whose keys are the names of the flags. It is
//! turned into flags that stand before those of the command line, so that clap
//! checks both with the same words and the command line wins.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_yaml_ng::Value;

/// Read when it exists and `--config` is not given.
const DEFAULT_FILE: &str = "/etc/allmend/config.yaml";

/// Inserts the file's settings behind the verb `server` or `agent`.
pub fn expand(args: Vec<OsString>) -> Result<Vec<OsString>> {
    if !matches!(args.get(1).and_then(|a| a.to_str()), Some("server" | "agent")) {
        return Ok(args);
    }
    let Some(file) = chosen(&args) else {
        return Ok(args);
    };
    let text = std::fs::read_to_string(&file).with_context(|| format!("read configuration {}", file.display()))?;
    let given: Vec<String> = args[2..]
        .iter()
        .filter_map(|a| a.to_str()?.strip_prefix("--"))
        .map(|a| a.split_once('=').map_or(a, |(k, _)| k).to_owned())
        .collect();
    let flags = flags(&file, &text, &given)?;
    let mut out = args[..2].to_vec();
    out.extend(flags.into_iter().map(OsString::from));
    out.extend_from_slice(&args[2..]);
    Ok(out)
}

fn chosen(args: &[OsString]) -> Option<PathBuf> {
    let mut iter = args.iter().skip(2);
    while let Some(a) = iter.next() {
        let a = a.to_string_lossy();
        if a == "--config" || a == "-c" {
            return iter.next().map(PathBuf::from);
        }
        if let Some(path) = a.strip_prefix("--config=") {
            return Some(PathBuf::from(path));
        }
    }
    if let Some(path) = std::env::var_os("ALLMEND_CONFIG_FILE") {
        return Some(path.into());
    }
    let default = Path::new(DEFAULT_FILE);
    default.exists().then(|| default.to_owned())
}

/// The settings as flags; those in `given` are left to the command line.
fn flags(file: &Path, text: &str, given: &[String]) -> Result<Vec<String>> {
    let value: Value =
        serde_yaml_ng::from_str(text).with_context(|| format!("configuration {} is not valid YAML", file.display()))?;
    let map = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Mapping(map) => map,
        _ => bail!(
            "configuration {} must be a mapping of flag names to values",
            file.display()
        ),
    };
    let mut out = Vec::new();
    for (key, value) in map {
        let key = key
            .as_str()
            .with_context(|| format!("configuration {}: every key must be the name of a flag", file.display()))?
            .to_owned();
        if key == "config" {
            bail!(
                "configuration {}: a configuration file cannot name another",
                file.display()
            );
        }
        if given.contains(&key) {
            continue;
        }
        let items = match value {
            Value::Sequence(items) => items,
            one => vec![one],
        };
        for item in items {
            match item {
                Value::Bool(true) => out.push(format!("--{key}")),
                Value::Bool(false) | Value::Null => {}
                Value::String(s) => out.push(format!("--{key}={s}")),
                Value::Number(n) => out.push(format!("--{key}={n}")),
                _ => bail!(
                    "configuration {}: {key} must be a value or a list of values",
                    file.display()
                ),
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, given: &[&str]) -> Result<Vec<String>> {
        let given: Vec<String> = given.iter().map(|g| (*g).to_owned()).collect();
        flags(Path::new("config.yaml"), text, &given)
    }

    #[test]
    fn settings_become_flags_and_the_command_line_wins() {
        let text = "node-label: [a=b, c=d]\ndisable-agent: true\nhttps-listen-port: 7443\ntoken: s";
        assert_eq!(
            of(text, &["token"]).unwrap(),
            [
                "--node-label=a=b",
                "--node-label=c=d",
                "--disable-agent",
                "--https-listen-port=7443"
            ]
        );
        assert!(of("", &[]).unwrap().is_empty());
    }

    #[test]
    fn junk_is_named() {
        for (text, word) in [
            ("- a", "mapping"),
            ("a: {b: c}", "must be a value"),
            ("a: [", "YAML"),
            ("config: x", "another"),
        ] {
            let error = format!("{:#}", of(text, &[]).unwrap_err());
            assert!(error.contains("config.yaml") && error.contains(word), "{error}");
        }
    }
}
