//! The configuration of encryption at rest: Kubernetes' `EncryptionConfiguration`, read from a
//! file or made at first start.
//!
//! Must not encrypt: it makes rules for the store.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use store::sealed::{Algorithm, Key, Provider, Rule, Rules};

/// What is encrypted unless a configuration says otherwise, and what encrypts it.
const DEFAULT: &str = "\
# Made at first start. Whoever has this file can read the Secrets in the store; without it nobody
# can. Keep a copy, but not beside copies of the store.
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - aesgcm:
      keys:
      - name: NAME
        secret: SECRET
  - identity: {}
";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Configuration {
    api_version: String,
    kind: String,
    resources: Vec<Resources>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resources {
    resources: Vec<String>,
    providers: Vec<ProviderConfig>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProviderConfig {
    aesgcm: Option<Keys>,
    secretbox: Option<Keys>,
    identity: Option<Empty>,
    aescbc: Option<serde_yaml_ng::Value>,
    kms: Option<serde_yaml_ng::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Empty {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    keys: Vec<KeyConfig>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyConfig {
    name: String,
    secret: String,
}

/// Reads a configuration.
pub fn read(path: &Path) -> Result<Rules> {
    let of = || format!("encryption configuration {}", path.display());
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", of()))?;
    parse(&text).with_context(of)
}

/// Makes a configuration with a key of its own; durable when this returns.
pub fn make(path: &Path) -> Result<Rules> {
    // A name of its own, so that a value says whose key it needs.
    let name = format!("key-{}", pki::random_token(4));
    let text = DEFAULT
        .replace("NAME", &name)
        .replace("SECRET", &STANDARD.encode(store::sealed::random_secret()));
    let rules = parse(&text)?;
    pki::write_private(path, text.as_bytes())?;
    Ok(rules)
}

fn parse(text: &str) -> Result<Rules> {
    let config: Configuration = serde_yaml_ng::from_str(text)?;
    if config.kind != "EncryptionConfiguration" || config.api_version != "apiserver.config.k8s.io/v1" {
        bail!(
            "it is {} {}, and must be apiserver.config.k8s.io/v1 EncryptionConfiguration",
            config.api_version,
            config.kind
        );
    }
    let mut seen = BTreeSet::new();
    let mut rules = Vec::new();
    for (n, entry) in config.resources.into_iter().enumerate() {
        let of = || format!("resources[{n}]");
        let mut prefixes = Vec::new();
        for name in &entry.resources {
            if !seen.insert(name.clone()) {
                bail!("{}: {name:?} is there twice", of());
            }
            prefixes.push(prefix(name).with_context(of)?);
        }
        let mut list = Vec::new();
        for provider in entry.providers {
            list.extend(providers(provider).with_context(of)?);
        }
        if prefixes.is_empty() || list.is_empty() {
            bail!("{}: resources and providers must not be empty", of());
        }
        let providers = list;
        rules.push(Rule { prefixes, providers });
    }
    Ok(Rules(rules))
}

/// Where the objects of a resource, named as in upstream's file, begin in the store.
fn prefix(name: &str) -> Result<String> {
    let (plural, group) = name.split_once('.').unwrap_or((name, ""));
    let fine = |part: &str| {
        part.chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c))
    };
    Ok(match (plural, group) {
        ("*", "*") => "/registry/".to_owned(),
        ("*", "") if name == "*." => "/registry/core/".to_owned(),
        ("*", group) if !group.is_empty() && fine(group) => format!("/registry/{group}/"),
        (plural, "") if !plural.is_empty() && fine(plural) => format!("/registry/core/{plural}/"),
        (plural, group) if !plural.is_empty() && fine(plural) && fine(group) => format!("/registry/{group}/{plural}/"),
        _ => bail!("{name:?} is no resource such as secrets, deployments.apps, *.apps or *.*"),
    })
}

fn providers(config: ProviderConfig) -> Result<Vec<Provider>> {
    let ProviderConfig {
        aesgcm,
        secretbox,
        identity,
        aescbc,
        kms,
    } = config;
    if aescbc.is_some() || kms.is_some() {
        bail!("the providers are aesgcm, secretbox and identity; aescbc and kms are not supported");
    }
    let keys = |algorithm: Algorithm, keys: Keys| -> Result<Vec<Provider>> {
        if keys.keys.is_empty() {
            bail!("{} has no keys", algorithm.name());
        }
        let key = |config: KeyConfig| {
            let secret = STANDARD.decode(config.secret.trim());
            let secret = secret.map_err(|_| anyhow!("the secret of key {:?} is not base64", config.name))?;
            let key = Key::new(algorithm, &config.name, &secret).map_err(|why| anyhow!(why))?;
            Ok(Provider::Key(key))
        };
        keys.keys.into_iter().map(key).collect()
    };
    match (aesgcm, secretbox, identity) {
        (Some(config), None, None) => keys(Algorithm::AesGcm, config),
        (None, Some(config), None) => keys(Algorithm::Secretbox, config),
        (None, None, Some(Empty {})) => Ok(vec![Provider::Identity]),
        _ => bail!("each provider must be one of aesgcm, secretbox, identity"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(resources: &str, providers: &str) -> Result<Rules> {
        parse(&format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n\
             - resources: [{resources}]\n  providers: [{providers}]\n"
        ))
    }

    #[test]
    fn a_made_configuration_can_be_read_and_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("encryption.yaml");
        make(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let rules = read(&path).unwrap();
        assert_eq!(rules.0[0].prefixes, ["/registry/core/secrets/"]);
        assert!(matches!(
            rules.0[0].providers[..],
            [Provider::Key(_), Provider::Identity]
        ));
    }

    #[test]
    fn resources_are_named_as_upstream_does() {
        for (name, place) in [
            ("secrets", "/registry/core/secrets/"),
            ("deployments.apps", "/registry/apps/deployments/"),
            ("'*.apps'", "/registry/apps/"),
            ("'*.'", "/registry/core/"),
            ("'*.*'", "/registry/"),
            ("foos.example.org", "/registry/example.org/foos/"),
        ] {
            assert_eq!(with(name, "identity: {}").unwrap().0[0].prefixes, [place], "{name}");
        }
    }

    #[test]
    fn junk_is_named() {
        let key = |secret: &str| format!("aesgcm: {{keys: [{{name: a, secret: {secret}}}]}}");
        for (resources, providers, words) in [
            ("secrets, secrets", "identity: {}".to_owned(), "twice"),
            ("'*'", "identity: {}".to_owned(), "no resource"),
            ("Secrets", "identity: {}".to_owned(), "no resource"),
            ("secrets", String::new(), "must not be empty"),
            ("secrets", key("'!'"), "not base64"),
            ("secrets", key("c2hvcnQ="), "has 5 bytes"),
            ("secrets", "aesgcm: {keys: []}".to_owned(), "no keys"),
            ("secrets", "kms: {name: x}".to_owned(), "not supported"),
            ("secrets", "rot13: {}".to_owned(), "rot13"),
        ] {
            let error = format!("{:#}", with(resources, &providers).unwrap_err());
            assert!(error.contains(words), "{resources} {providers}: {error}");
        }
        assert!(parse("kind: Pod").is_err() && parse("[").is_err());
    }
}
