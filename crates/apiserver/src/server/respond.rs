//! Responses: errors, JSON values, objects, warnings. Must not know verbs.

use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use meta::Status;
use serde_json::Value;

use super::accept::Media;
use super::{Body, writer};

/// JSON.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// An error, written as the client accepts it.
pub(crate) fn error(status: &Status, media: Media) -> Response<Body> {
    let json = status.to_json();
    let mut response = match media {
        Media::Json => bytes(status.code, JSON, json),
        other => value(status.code, other, &serde_json::from_slice(&json).unwrap_or_default()),
    };
    if response.status().as_u16() != status.code {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
    if status.code == 401 {
        response
            .headers_mut()
            .insert(http::header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if status.retry_after_seconds > 0 {
        response
            .headers_mut()
            .insert(RETRY_AFTER, status.retry_after_seconds.into());
    }
    response
}

/// A value that says what it is; in JSON where it cannot be written otherwise.
pub(crate) fn value(code: u16, media: Media, value: &Value) -> Response<Body> {
    let mut out = Vec::new();
    match writer::value(&mut out, media, value) {
        Ok(media) => bytes(code, media.content_type(), out),
        Err(_) => json(code, value),
    }
}

/// A JSON document.
pub(crate) fn json(code: u16, value: &Value) -> Response<Body> {
    bytes(code, JSON, value.to_string().into_bytes())
}

/// Text.
pub(crate) fn text(code: u16, text: impl Into<String>) -> Response<Body> {
    bytes(
        code,
        HeaderValue::from_static("text/plain; charset=utf-8"),
        text.into().into_bytes(),
    )
}

/// Bytes of some type.
pub(crate) fn bytes(code: u16, content_type: HeaderValue, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::OK);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Adds `Warning` headers (RFC 7234, code 299 without agent).
pub(crate) fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let text: String = warning.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let text = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{text}\"").as_bytes()) {
            response.headers_mut().append(http::header::WARNING, value);
        }
    }
}
