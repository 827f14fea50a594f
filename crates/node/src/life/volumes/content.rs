//! What is in volumes that are made of API objects.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::{Body, WriteOptions};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, DownwardAPIVolumeFile, KeyToPath, SecretVolumeSource, ServiceAccountTokenProjection, Volume,
    VolumeProjection,
};
use kinds::resources::{CONFIG_MAPS, SECRETS, SERVICE_ACCOUNTS};
use serde_json::json;

use super::super::files::File;
use super::Volumes;
use super::tokens::Token;
use crate::pods;

/// Permissions unless the volume says otherwise.
const MODE: i32 = 0o644;
/// Life of a token unless the volume says otherwise, seconds.
const TOKEN_LIFE: i64 = 3600;

type Files = BTreeMap<PathBuf, File>;

/// The files of a volume.
pub(super) async fn of(
    v: &Volumes<'_>,
    volume: &Volume,
    now: Timestamp,
    refresh: &mut Option<Timestamp>,
) -> Result<Files, String> {
    let name = &volume.name;
    let failed = |e: String| format!("MountVolume.SetUp failed for volume \"{name}\" : {e}");
    let mut files = Files::new();
    if let Some(map) = &volume.config_map {
        config_map(v, map, map.default_mode, &mut files).await.map_err(failed)?;
    } else if let Some(secret) = &volume.secret {
        self::secret(v, secret, secret.default_mode, &mut files)
            .await
            .map_err(failed)?;
    } else if let Some(downward) = &volume.downward_api {
        self::downward(v, downward.items.as_deref(), downward.default_mode, &mut files).map_err(failed)?;
    } else if let Some(projected) = &volume.projected {
        for source in projected.sources.iter().flatten() {
            projection(v, name, source, (projected.default_mode, now), refresh, &mut files)
                .await
                .map_err(failed)?;
        }
    } else {
        return Err(failed("this kind of volume is not supported by this node".into()));
    }
    Ok(files)
}

async fn projection(
    v: &Volumes<'_>,
    volume: &str,
    source: &VolumeProjection,
    (mode, now): (Option<i32>, Timestamp),
    refresh: &mut Option<Timestamp>,
    files: &mut Files,
) -> Result<(), String> {
    if let Some(map) = &source.config_map {
        let map = ConfigMapVolumeSource {
            name: map.name.clone(),
            items: map.items.clone(),
            optional: map.optional,
            ..Default::default()
        };
        config_map(v, &map, mode, files).await?;
    }
    if let Some(s) = &source.secret {
        let s = SecretVolumeSource {
            secret_name: Some(s.name.clone()),
            items: s.items.clone(),
            optional: s.optional,
            ..Default::default()
        };
        secret(v, &s, mode, files).await?;
    }
    if let Some(d) = &source.downward_api {
        downward(v, d.items.as_deref(), mode, files)?;
    }
    if let Some(t) = &source.service_account_token {
        let token = match v.tokens.get(volume, &t.path, now) {
            Some(token) => token,
            None => token(v, t, now).await?,
        };
        *refresh = Some(refresh.map_or(token.refresh_at, |r| r.min(token.refresh_at)));
        put(files, &t.path, token.text.clone().into_bytes(), mode);
        v.tokens.put(volume, &t.path, token);
    }
    Ok(())
}

fn put(files: &mut Files, path: &str, bytes: Vec<u8>, mode: Option<i32>) {
    let mode = u32::try_from(mode.unwrap_or(MODE)).unwrap_or(0o644) & 0o777;
    let file = File {
        bytes,
        mode,
        owner: None,
    };
    files.insert(PathBuf::from(path), file);
}

/// Puts in all keys, or those that `items` name.
fn keys(
    files: &mut Files,
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    mode: Option<i32>,
    optional: bool,
) -> Result<(), String> {
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        data.iter().for_each(|(k, b)| put(files, k, b.clone(), mode));
        return Ok(());
    };
    for item in items {
        match data.get(&item.key) {
            Some(bytes) => put(files, &item.path, bytes.clone(), item.mode.or(mode)),
            None if optional => {}
            None => return Err(format!("references non-existent key: {}", item.key)),
        }
    }
    Ok(())
}

async fn config_map(
    v: &Volumes<'_>,
    source: &ConfigMapVolumeSource,
    mode: Option<i32>,
    files: &mut Files,
) -> Result<(), String> {
    let optional = source.optional == Some(true);
    let map = match v.client.get(&CONFIG_MAPS, v.object.namespace(), &source.name).await {
        Ok(map) => map.to_value(),
        Err(e) if e.is_not_found() && optional => return Ok(()),
        Err(e) if e.is_not_found() => return Err(format!("configmap \"{}\" not found", source.name)),
        Err(e) => return Err(e.message),
    };
    let text = |m: &serde_json::Value| m.as_object().cloned().unwrap_or_default();
    let plain = text(&map["data"])
        .into_iter()
        .map(|(k, v)| (k, v.as_str().unwrap_or_default().as_bytes().to_vec()));
    let binary = text(&map["binaryData"]).into_iter().map(|(k, v)| (k, decode(&v)));
    let data: BTreeMap<String, Vec<u8>> = plain.chain(binary).collect();
    let failed = |e| format!("configmap {e}");
    keys(files, &data, source.items.as_deref(), mode, optional).map_err(failed)
}

async fn secret(
    v: &Volumes<'_>,
    source: &SecretVolumeSource,
    mode: Option<i32>,
    files: &mut Files,
) -> Result<(), String> {
    let optional = source.optional == Some(true);
    let name = source.secret_name.as_deref().unwrap_or_default();
    let secret = match v.client.get(&SECRETS, v.object.namespace(), name).await {
        Ok(secret) => secret.to_value(),
        Err(e) if e.is_not_found() && optional => return Ok(()),
        Err(e) if e.is_not_found() => return Err(format!("secret \"{name}\" not found")),
        Err(e) => return Err(e.message),
    };
    let entries = secret["data"].as_object().cloned().unwrap_or_default();
    let data: BTreeMap<String, Vec<u8>> = entries.into_iter().map(|(k, v)| (k, decode(&v))).collect();
    let failed = |e| format!("secret {e}");
    keys(files, &data, source.items.as_deref(), mode, optional).map_err(failed)
}

pub(super) fn decode(value: &serde_json::Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default()
}

fn downward(
    v: &Volumes<'_>,
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: Option<i32>,
    files: &mut Files,
) -> Result<(), String> {
    for item in items.unwrap_or_default() {
        let text = if let Some(field) = &item.field_ref {
            v.facts.field(field)?
        } else if let Some(resource) = &item.resource_field_ref {
            let name = resource.container_name.as_deref().unwrap_or_default();
            let found = pods::all(v.pod).map(|(c, _)| c).find(|c| c.name == name);
            let container = found.ok_or_else(|| format!("container {name} not found"))?;
            v.facts.resource(resource, Some(&container))?
        } else {
            continue;
        };
        put(files, &item.path, text.into_bytes(), item.mode.or(mode));
    }
    Ok(())
}

/// A token of the pod's service account, bound to the pod, written again at four fifths of its life.
async fn token(v: &Volumes<'_>, source: &ServiceAccountTokenProjection, now: Timestamp) -> Result<Token, String> {
    let account = v
        .pod
        .spec
        .as_ref()
        .and_then(|s| s.service_account_name.as_deref())
        .unwrap_or("default");
    let life = source.expiration_seconds.unwrap_or(TOKEN_LIFE).max(600);
    let audiences: Vec<&String> = source.audience.iter().filter(|a| !a.is_empty()).collect();
    let reference = json!({"apiVersion": "v1", "kind": "Pod", "name": v.object.name(), "uid": v.object.uid()});
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "metadata": {"name": account, "namespace": v.object.namespace()},
        "spec": {"audiences": audiences, "expirationSeconds": life, "boundObjectRef": reference}});
    let (body, options, accounts) = (Body::from_value(&request), WriteOptions::default(), SERVICE_ACCOUNTS);
    let made = v
        .client
        .create(&accounts, v.object.namespace(), (account, "token"), body, &options);
    let made = made
        .await
        .map_err(|e| format!("failed to fetch token: {}", e.message))?
        .to_value();
    let status = &made["status"];
    // The server may give less than was asked for.
    let end = status["expirationTimestamp"].as_str().and_then(meta::time::parse);
    let life = end.map_or(life, |end| (end.as_second() - now.as_second()).min(life).max(10));
    Ok(Token {
        text: status["token"].as_str().unwrap_or_default().to_owned(),
        refresh_at: now.checked_add(SignedDuration::from_secs(life * 4 / 5)).unwrap_or(now),
    })
}
