//! gzip for large answers, when asked. Must not compress streams.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, VARY};
use http::{HeaderMap, Response};

use super::Body;
use super::accept::Media;
use super::body::ListBody;

/// Smaller answers are not worth it.
const WORTH: usize = 128 << 10;

/// Whether the client takes gzip.
pub(crate) fn wanted(headers: &HeaderMap) -> bool {
    let accepted = headers
        .get(ACCEPT_ENCODING)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    accepted.split(',').any(|e| {
        let mut parts = e.split(';').map(str::trim);
        parts.next() == Some("gzip") && !parts.any(|q| matches!(q, "q=0" | "q=0.0"))
    })
}

/// A list: compressed if it is large. Compressed parts replace plain ones as they come, so that
/// at no time the plain list is in memory.
pub(crate) fn list(mut list: ListBody) -> Response<Body> {
    let media = list.media();
    let first = list.next_chunk().unwrap_or_default();
    let second = list.next_chunk();
    let mut plain = first.to_vec();
    let Some(second) = second else {
        return answer(plain, false, media);
    };
    plain.extend_from_slice(&second);
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 4), Compression::fast());
    let mut size = plain.len();
    let mut fine = encoder.write_all(&plain).is_ok();
    while let Some(chunk) = list.next_chunk() {
        size += chunk.len();
        fine &= encoder.write_all(&chunk).is_ok();
    }
    debug_assert!(size >= WORTH / 2);
    // Writing to memory does not fail.
    match encoder.finish() {
        Ok(bytes) if fine => answer(bytes, true, media),
        _ => answer(Vec::new(), false, media),
    }
}

/// gzip of a document that is kept.
pub(crate) fn document(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 6), Compression::default());
    encoder
        .write_all(bytes)
        .and_then(|()| encoder.finish())
        .unwrap_or_default()
}

fn answer(bytes: Vec<u8>, compressed: bool, media: Media) -> Response<Body> {
    let mut response = Response::new(Body::from(bytes));
    response.headers_mut().insert(CONTENT_TYPE, media.content_type());
    response
        .headers_mut()
        .insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    if compressed {
        response
            .headers_mut()
            .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}
