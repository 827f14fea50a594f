//! The `scale` subresource: `autoscaling/v1 Scale` as a window on another object.

use kinds::{ScalePaths, Subresource};
use meta::{LabelSelector, Object, Status};
use serde_json::{Value, json};

use super::metadata::{meta_mut, meta_str};
use super::{Answer, Call, Change, Input, PatchRequest, Target};
use crate::core::Core;
use crate::machinery;
use client::PatchType;

impl Core {
    /// GET of `scale`.
    pub fn scale(&self, target: Target<'_>) -> Result<Value, Status> {
        let paths = paths(target)?;
        Ok(scale_of(&*self.current(target)?, &paths))
    }

    /// PUT of `scale`.
    pub async fn update_scale(&self, call: &Call, target: Target<'_>, input: Input) -> Result<Value, Status> {
        let paths = paths(target)?;
        let wanted = input.value;
        let changed = self.set_scale(call, target, &paths, &|_| Ok(wanted.clone())).await?;
        Ok(scale_of(&changed, &paths))
    }

    /// PATCH of `scale`.
    pub async fn patch_scale(&self, call: &Call, target: Target<'_>, request: PatchRequest) -> Result<Value, Status> {
        let paths = paths(target)?;
        let apply = |scale: &Value| {
            let mut scale = scale.clone();
            match request.form {
                PatchType::Json => machinery::json_patch(&mut scale, &request.document)?,
                _ => machinery::merge_patch(&mut scale, &request.document)?,
            }
            if let Some(metadata) = meta_mut(&mut scale)
                && request.document.pointer("/metadata/resourceVersion").is_none()
            {
                metadata.remove("resourceVersion");
            }
            Ok(scale)
        };
        let changed = self.set_scale(call, target, &paths, &apply).await?;
        Ok(scale_of(&changed, &paths))
    }

    async fn set_scale(
        &self,
        call: &Call,
        target: Target<'_>,
        paths: &ScalePaths,
        wanted: &(dyn Fn(&Value) -> Result<Value, Status> + Sync),
    ) -> Result<Answer, Status> {
        let main = Target {
            subresource: "",
            ..target
        };
        self.change(call, main, &|old| {
            let scale = wanted(&scale_of(old, paths))?;
            let replicas = match scale.pointer("/spec/replicas") {
                None | Some(Value::Null) => 0,
                Some(n) => n
                    .as_i64()
                    .ok_or_else(|| Status::bad_request("spec.replicas must be an integer"))?,
            };
            if replicas < 0 {
                let mut errors = meta::field::ErrorList::new();
                let path = meta::field::Path::new("spec").child("replicas");
                errors.invalid(&path, replicas, "must be greater than or equal to 0");
                return Err(Status::invalid("autoscaling", "Scale", target.name, &errors));
            }
            let mut value = old.to_value();
            if let Some(metadata) = meta_mut(&mut value) {
                metadata.insert("resourceVersion".into(), meta_str(&scale, "resourceVersion").into());
            }
            set(&mut value, &paths.spec_replicas, replicas.into());
            Ok(Change { value, managed: None })
        })
        .await
    }
}

fn paths(target: Target<'_>) -> Result<ScalePaths, Status> {
    let found = target.resource.kind.subresources.iter().find_map(|s| match s {
        Subresource::Scale(paths) => Some(paths.clone()),
        _ => None,
    });
    found.ok_or_else(Status::no_such_path)
}

fn get<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    // A custom resource may have no selector.
    if path.is_empty() {
        return None;
    }
    path.split('.')
        .filter(|p| !p.is_empty())
        .try_fold(value, |v, part| v.get(part))
}

fn set(value: &mut Value, path: &str, to: Value) {
    let mut at = value;
    for part in path.split('.').filter(|p| !p.is_empty()) {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[part];
    }
    *at = to;
}

fn scale_of(object: &Object, paths: &ScalePaths) -> Value {
    let value = object.to_value();
    let number = |path: &str| get(&value, path).and_then(Value::as_i64).unwrap_or(0);
    let selector = match get(&value, &paths.selector) {
        Some(Value::String(s)) => s.clone(),
        Some(v @ Value::Object(m)) if m.contains_key("matchLabels") || m.contains_key("matchExpressions") => {
            LabelSelector::from_object(v).map(|s| s.to_string()).unwrap_or_default()
        }
        Some(Value::Object(m)) => {
            let terms: Vec<String> = m
                .iter()
                .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
                .collect();
            terms.join(",")
        }
        _ => String::new(),
    };
    let mut status = json!({"replicas": number(&paths.status_replicas)});
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    let mut metadata = json!({
        "name": object.name(),
        "uid": object.uid(),
        "resourceVersion": object.resource_version().to_string(),
        "creationTimestamp": object.header().creation_timestamp,
    });
    if !object.namespace().is_empty() {
        metadata["namespace"] = object.namespace().into();
    }
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {"replicas": number(&paths.spec_replicas)},
        "status": status,
    })
}
