//! Bodies and errors of answers. Must not know what was asked.

use std::io;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use meta::{Reason, Status};
use runtime::RuntimeError;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

/// The body of an answer.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Why a request is refused: a status and a line for people.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Refusal {
            status,
            message: message.into(),
        }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Refusal::new(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Refusal::new(StatusCode::NOT_FOUND, message)
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// As a `Status` document, which the API server passes on to clients as it is.
    pub(super) fn into_response(self) -> Response<Body> {
        let reason = match self.status {
            StatusCode::BAD_REQUEST => Reason::BadRequest,
            StatusCode::UNAUTHORIZED => Reason::Unauthorized,
            StatusCode::FORBIDDEN => Reason::Forbidden,
            StatusCode::NOT_FOUND => Reason::NotFound,
            StatusCode::CONFLICT => Reason::Conflict,
            StatusCode::SERVICE_UNAVAILABLE => Reason::ServiceUnavailable,
            StatusCode::GATEWAY_TIMEOUT => Reason::Timeout,
            _ => Reason::InternalError,
        };
        let status = Status::new(self.status.as_u16(), reason, self.message);
        typed(self.status, "application/json", status.to_json())
    }

    /// As plain text, in front of which clients of streams put words of their own.
    pub(super) fn into_text(self) -> Response<Body> {
        text(self.status, self.message + "\n")
    }
}

impl From<RuntimeError> for Refusal {
    fn from(e: RuntimeError) -> Self {
        let status = match e {
            RuntimeError::NotFound(_) => StatusCode::NOT_FOUND,
            RuntimeError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            RuntimeError::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
            RuntimeError::Unsupported(_) | RuntimeError::Invalid { .. } => StatusCode::BAD_REQUEST,
            RuntimeError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refusal::new(status, e.to_string())
    }
}

/// Plain text.
pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    typed(status, "text/plain; charset=utf-8", body)
}

/// A JSON document.
pub(super) fn document(value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => typed(StatusCode::OK, "application/json", bytes),
        Err(e) => Refusal::internal(e.to_string()).into_response(),
    }
}

/// Bytes of a media type.
pub(super) fn typed(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    let value = header::HeaderValue::from_static(media_type);
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}

/// Nothing.
pub(super) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// What comes through a channel, until it is closed.
pub(super) fn stream(receiver: mpsc::Receiver<io::Result<Bytes>>) -> Body {
    let frames = ReceiverStream::new(receiver).map(|chunk| chunk.map(Frame::data));
    StreamBody::new(frames).boxed_unsync()
}
