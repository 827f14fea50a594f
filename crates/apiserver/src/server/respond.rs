//! Responses: errors, JSON values, objects, warnings. Must not know verbs.

use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use meta::Status;
use serde_json::Value;

use super::Body;

/// JSON.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// An error.
pub(crate) fn error(status: &Status) -> Response<Body> {
    let mut response = Response::new(Body::from(status.to_json()));
    *response.status_mut() = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, JSON);
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
