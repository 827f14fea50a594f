//! Reading request bodies and options, within limits. Must not interpret objects.

use bytes::{Bytes, BytesMut};
use client::PatchType;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use meta::{Reason, Status};
use serde_json::Value;

use super::dispatch::header;
use super::route::Query;
use crate::machinery;
use crate::registry::{Call, DeleteRequest, FieldValidation, Input, PatchRequest};
use crate::wire::{protobuf, uncbor};

/// Greatest body that is read to its end although it is refused.
const DROPPED: u64 = 64 << 20;

/// Reads a whole body of at most `limit` bytes.
pub(crate) async fn read(body: Incoming, limit: usize) -> Result<Bytes, Status> {
    let too_large = || {
        let message = format!("Request entity too large: limit is {limit}");
        Status::new(413, Reason::RequestEntityTooLarge, message)
    };
    let announced = body.size_hint().lower();
    let mut body = body;
    if announced > limit as u64 {
        // Read and dropped, so that the client sees the answer and no reset; but not without end.
        if announced <= DROPPED {
            while let Some(Ok(_)) = body.frame().await {}
        }
        return Err(too_large());
    }
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Status::bad_request(format!("the request body could not be read: {e}")))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let so_far = first.as_ref().map_or(0, Bytes::len) + rest.len();
        if so_far + data.len() > limit {
            return Err(too_large());
        }
        // Nearly every body is one frame, which then is not copied.
        match first {
            None => first = Some(data),
            Some(_) => rest.extend_from_slice(&data),
        }
    }
    let first = first.unwrap_or_default();
    if rest.is_empty() {
        return Ok(first);
    }
    let mut all = BytesMut::with_capacity(first.len() + rest.len());
    all.extend_from_slice(&first);
    all.extend_from_slice(&rest);
    Ok(all.freeze())
}

fn media_type(headers: &HeaderMap) -> &str {
    let given = header(headers, CONTENT_TYPE);
    given.split(';').next().unwrap_or_default().trim()
}

fn unsupported(given: &str, supported: &str) -> Status {
    let message = format!(
        "the body of the request was in an unknown format ({given}) - accepted media types include: {supported}"
    );
    Status::new(415, Reason::UnsupportedMediaType, message)
}

fn check_encoding(headers: &HeaderMap) -> Result<(), Status> {
    match header(headers, CONTENT_ENCODING) {
        "" | "identity" => Ok(()),
        other => Err(unsupported(&format!("content encoding {other}"), "identity")),
    }
}

/// Decodes the body of POST and PUT.
pub(crate) fn object(headers: &HeaderMap, body: &[u8]) -> Result<Input, Status> {
    check_encoding(headers)?;
    match media_type(headers) {
        "" | "application/json" | "*/*" => machinery::decode(body, false),
        "application/yaml" => machinery::decode(body, true),
        "application/vnd.kubernetes.protobuf" => Ok(protobuf::decode(body)?.into()),
        "application/cbor" => Ok(uncbor::decode(body)?.into()),
        other => Err(unsupported(
            other,
            "application/json, application/yaml, application/vnd.kubernetes.protobuf, application/cbor",
        )),
    }
}

/// Decodes the body of PATCH. Custom resources take no strategic merge patch: their schema says
/// nothing of merge keys.
pub(crate) fn patch(headers: &HeaderMap, body: &[u8], custom: bool) -> Result<PatchRequest, Status> {
    check_encoding(headers)?;
    let media = media_type(headers);
    let form = match media {
        "application/json-patch+json" => PatchType::Json,
        "application/merge-patch+json" => PatchType::Merge,
        "application/strategic-merge-patch+json" if !custom => PatchType::Strategic,
        "application/apply-patch+yaml" | "application/apply-patch+cbor" => PatchType::Apply,
        other if custom => {
            return Err(unsupported(
                other,
                "application/json-patch+json, application/merge-patch+json, \
                 application/apply-patch+yaml, application/apply-patch+cbor",
            ));
        }
        other => {
            return Err(unsupported(
                other,
                "application/json-patch+json, application/merge-patch+json, \
                 application/strategic-merge-patch+json, application/apply-patch+yaml, \
                 application/apply-patch+cbor",
            ));
        }
    };
    // JSON is YAML, and quicker to read.
    let looks_like_json = body
        .iter()
        .find(|b| !b.is_ascii_whitespace())
        .is_some_and(|b| matches!(b, b'{' | b'['));
    let yaml = form == PatchType::Apply && !looks_like_json;
    let Input { value, problems } = if media.ends_with("+cbor") {
        uncbor::decode(body)?.into()
    } else {
        machinery::decode(body, yaml)?
    };
    if form != PatchType::Json && !value.is_object() {
        return Err(Status::bad_request("the patch must be an object"));
    }
    Ok(PatchRequest {
        form,
        document: value,
        problems,
    })
}

/// Decodes the options of DELETE, from body and query.
pub(crate) fn delete(headers: &HeaderMap, body: &[u8], query: &Query) -> Result<(DeleteRequest, bool), Status> {
    let value = if body.is_empty() {
        Value::Null
    } else {
        object(headers, body)?.value
    };
    let mut request = DeleteRequest::from_value(&value)?;
    if !query.get("gracePeriodSeconds").is_empty() {
        let n = query.get("gracePeriodSeconds").parse();
        request.grace_period_seconds =
            Some(n.map_err(|_| Status::bad_request("gracePeriodSeconds must be an integer"))?);
    }
    if !query.get("propagationPolicy").is_empty() {
        request.propagation = Some(DeleteRequest::policy(query.get("propagationPolicy"))?);
    }
    let dry = value
        .get("dryRun")
        .and_then(Value::as_array)
        .is_some_and(|d| d.iter().any(|x| x == "All"));
    Ok((request, dry))
}

/// The options that every write has.
pub(crate) fn options(call: &mut Call, query: &Query) -> Result<(), Status> {
    call.dry_run = match query.get("dryRun") {
        "" => false,
        "All" => true,
        other => {
            let message = format!(
                "Options.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: \"{other}\": supported values: \"All\""
            );
            return Err(Status::new(422, Reason::Invalid, message));
        }
    };
    call.field_validation = match query.get("fieldValidation") {
        "" | "Warn" => FieldValidation::Warn,
        "Ignore" => FieldValidation::Ignore,
        "Strict" => FieldValidation::Strict,
        other => {
            let message = format!(
                "Options.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"{other}\": \
                 supported values: \"Ignore\", \"Strict\", \"Warn\""
            );
            return Err(Status::new(422, Reason::Invalid, message));
        }
    };
    call.force = query.flag("force");
    let given = query.get("fieldManager");
    if given.len() > 128 || given.chars().any(|c| c.is_control()) {
        return Err(Status::bad_request(
            "fieldManager: Invalid value: must be at most 128 printable characters",
        ));
    }
    given.clone_into(&mut call.field_manager);
    Ok(())
}

/// The manager of a write that names none: the program, as its user agent says.
pub(crate) fn default_manager(headers: &HeaderMap) -> String {
    let agent = header(headers, USER_AGENT);
    let name = agent.split('/').next().unwrap_or_default();
    let name: String = name.chars().filter(|c| !c.is_control()).take(128).collect();
    if name.is_empty() { "unknown".into() } else { name }
}
