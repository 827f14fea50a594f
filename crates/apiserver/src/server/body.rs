//! Response bodies: whole, listed from a snapshot, watched, or passed through
//! from a node. Must not build a list in one buffer.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use meta::Status;
use rand::Rng;
use tokio::time::{Instant, Sleep};

use super::accept::Media;
use super::recent::Recent;
use super::writer::{Writer, event_of};
use crate::cache::{Delivery, Progress, Selection, Snapshot, Verb, Watch, select};
use crate::registry::Listed;

/// Bytes gathered before a frame is handed on.
const CHUNK: usize = 64 << 10;
/// Objects taken from a snapshot at once.
const STEP: usize = 64;
/// Time between bookmarks.
const BOOKMARK: Duration = Duration::from_secs(60);

/// A response body.
pub enum Body {
    /// All there is.
    Full(Option<Bytes>),
    /// A list, streamed.
    List(Box<ListBody>),
    /// A watch.
    Watch(Box<WatchBody>),
    /// From a node.
    Node(Incoming),
}

impl Body {
    /// Nothing.
    pub fn empty() -> Self {
        Body::Full(None)
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Body::Full(Some(bytes.into()))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Body::Full(Some(bytes))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Body::Full(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Body::List(list) => Poll::Ready(list.next_chunk().map(|b| Ok(Frame::data(b)))),
            Body::Watch(watch) => watch.poll_chunk(cx).map(|b| b.map(|b| Ok(Frame::data(b)))),
            Body::Node(incoming) => match Pin::new(incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(frame))),
                // The node is gone: what was sent is all there is.
                Poll::Ready(_) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            _ => SizeHint::default(),
        }
    }
}

/// A list as it is written out.
pub struct ListBody {
    writer: Writer,
    snapshot: Snapshot,
    selection: Selection,
    after: Arc<str>,
    left: usize,
    head: Option<Vec<u8>>,
    first: bool,
    done: bool,
}

impl ListBody {
    /// A list, written by a writer. In protobuf a list begins with its length: every item is
    /// measured first, which fails where one cannot be written.
    pub async fn new(writer: Writer, selection: Selection, listed: Listed) -> Result<Self, Status> {
        let mut head = writer.list_head(&listed)?;
        if writer.media() == Media::Protobuf {
            let size = head.len() + measure(&writer, &selection, &listed).await?;
            let mut envelope = writer.list_envelope(size);
            envelope.append(&mut head);
            head = envelope;
        }
        Ok(ListBody {
            writer,
            snapshot: listed.snapshot,
            selection,
            after: listed.after.into(),
            left: listed.limit,
            head: Some(head),
            first: true,
            done: false,
        })
    }

    /// How it is written.
    pub fn media(&self) -> Media {
        self.writer.media()
    }

    /// The next part; `None` at the end.
    pub fn next_chunk(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let mut out = Vec::with_capacity(CHUNK + CHUNK / 4);
        out.append(&mut self.head.take().unwrap_or_default());
        while out.len() < CHUNK && !self.done {
            let step = STEP.min(self.left);
            let kind = self.writer.kind();
            let (items, more) = select(&self.snapshot, kind, &self.selection, &self.after, step);
            let mut rest = items.into_iter();
            // Objects may be large: so many as fill a part, and not all that were taken.
            for (key, item) in rest.by_ref() {
                if let Err(error) = self.writer.item(&mut out, &item.object, self.first) {
                    // Measured or parsed before, so there is none. Cut off, it is not taken for whole.
                    tracing::error!(%error, %key, "an object could not be written");
                    self.done = true;
                    return Some(out.into());
                }
                self.first = false;
                self.left -= 1;
                self.after = key;
                if out.len() >= CHUNK {
                    break;
                }
            }
            if rest.len() == 0 && (!more || self.left == 0) {
                out.extend_from_slice(self.writer.list_tail());
                self.done = true;
                self.snapshot = Snapshot::new();
            }
        }
        Some(out.into())
    }

    /// The whole list at once, for compression.
    pub fn collect(mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(chunk) = self.next_chunk() {
            out.extend_from_slice(&chunk);
        }
        out
    }
}

/// Bytes that the items of a list take in protobuf.
async fn measure(writer: &Writer, selection: &Selection, listed: &Listed) -> Result<usize, Status> {
    let (mut total, mut scratch) = (0, Vec::new());
    let (mut after, mut left): (Arc<str>, usize) = (listed.after.as_str().into(), listed.limit);
    loop {
        let (items, more) = select(&listed.snapshot, writer.kind(), selection, &after, STEP.min(left));
        for (_, item) in &items {
            total += writer.item_size(item, &mut scratch)?;
        }
        left -= items.len();
        match items.last() {
            Some((last, _)) if more && left > 0 => after = last.clone(),
            _ => return Ok(total),
        }
        // Others have work to do too.
        tokio::task::yield_now().await;
    }
}

/// Appends an event that is an error.
pub fn error_event(out: &mut Vec<u8>, media: Media, status: &Status) -> Result<(), Status> {
    let value = serde_json::from_slice(&status.to_json()).map_err(Status::internal)?;
    event_of(out, media, "ERROR", &value)
}

/// A watch as it is written out, event after event.
pub struct WatchBody {
    watch: Watch,
    progress: Arc<Progress>,
    writer: Writer,
    recent: Arc<Recent>,
    bookmarks: bool,
    /// Whether the end of the initial state is to be marked.
    mark_initial: bool,
    bookmark: Pin<Box<Sleep>>,
    deadline: Pin<Box<Sleep>>,
    ended: bool,
    /// Released when the watch ends.
    _guard: Option<Box<dyn Send>>,
}

impl WatchBody {
    /// A watch, written by a writer, for at most `lifetime`.
    pub fn new(
        writer: Writer,
        watch: Watch,
        progress: Arc<Progress>,
        (bookmarks, mark_initial): (bool, bool),
        lifetime: Duration,
        recent: Arc<Recent>,
    ) -> Self {
        // Spread, so that a thousand watches that began together do not wake together.
        let first = BOOKMARK.mul_f64(rand::rng().random_range(0.75..1.0));
        WatchBody {
            watch,
            progress,
            writer,
            recent,
            bookmarks,
            mark_initial,
            bookmark: Box::pin(tokio::time::sleep(first)),
            deadline: Box::pin(tokio::time::sleep(lifetime)),
            ended: false,
            _guard: None,
        }
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let mut out = Vec::new();
        while out.len() < CHUNK {
            match self.watch.poll_next(cx) {
                Poll::Ready(Some(Delivery::Object(verb, object))) => {
                    let name = match verb {
                        Verb::Added => "ADDED",
                        Verb::Modified => "MODIFIED",
                        Verb::Deleted => "DELETED",
                    };
                    if let Err(status) = self.writer.event(&mut out, name, &object, &self.recent) {
                        self.fail(&mut out, &status);
                        break;
                    }
                }
                Poll::Ready(Some(Delivery::InitialEnd(revision))) => {
                    if self.mark_initial {
                        self.bookmark(&mut out, revision, true);
                    }
                }
                Poll::Ready(None) => {
                    self.ended = true;
                    break;
                }
                Poll::Pending => break,
            }
        }
        self.check_time(cx, &mut out);
        match (out.is_empty(), self.ended) {
            (false, _) => Poll::Ready(Some(out.into())),
            (true, true) => Poll::Ready(None),
            (true, false) => Poll::Pending,
        }
    }

    fn bookmark(&mut self, out: &mut Vec<u8>, revision: u64, initial_end: bool) {
        if let Err(status) = self.writer.bookmark(out, revision, initial_end) {
            self.fail(out, &status);
        }
    }

    /// Ends with an error, after which the client lists anew.
    fn fail(&mut self, out: &mut Vec<u8>, status: &Status) {
        tracing::error!(%status, "an event could not be written");
        let _ = error_event(out, self.writer.media(), status);
        self.ended = true;
    }

    fn check_time(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) {
        let over = !self.ended && self.deadline.as_mut().poll(cx).is_ready();
        let mut due = over;
        while !self.ended && self.bookmark.as_mut().poll(cx).is_ready() {
            due = true;
            self.bookmark.as_mut().reset(Instant::now() + BOOKMARK);
        }
        if due && self.bookmarks {
            // Read first: everything up to it had been sent to this watch by then.
            let revision = self.progress.applied();
            if self.watch.is_drained() {
                self.bookmark(out, revision, false);
            }
        }
        self.ended |= over;
    }
}

#[cfg(test)]
mod tests {
    use meta::Object;
    use serde_json::json;

    use super::*;
    use crate::cache::Item;
    use crate::server::accept::Accepted;
    use crate::server::form::Form;

    #[tokio::test]
    async fn a_list_is_never_in_memory_at_once() {
        let text = "v".repeat(1000);
        let item = |n: usize| {
            let name = format!("m{n:04}");
            let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": text},
                "metadata": {"name": name, "namespace": "d", "resourceVersion": n.to_string()}});
            (
                Arc::from(format!("d/{name}")),
                Item::new(Object::from_value(value).unwrap()),
            )
        };
        let snapshot = Snapshot::new().insert_many((1..=2000).map(item));
        let kind = kinds::by_resource("", "configmaps").unwrap();
        for (media, form) in [
            (Media::Json, Form::Plain),
            (Media::Protobuf, Form::Plain),
            (Media::Protobuf, Form::Metadata),
            (Media::Cbor, Form::Plain),
        ] {
            let listed = Listed {
                snapshot: snapshot.clone(),
                after: String::new(),
                limit: usize::MAX,
                revision: 7,
                continue_token: String::new(),
                remaining: None,
            };
            let writer = Writer::new(kind.clone(), Accepted { form, media });
            let mut list = ListBody::new(writer, Selection::default(), listed).await.unwrap();
            let (mut parts, mut size) = (0, 0);
            while let Some(part) = list.next_chunk() {
                assert!(part.len() < CHUNK + 4096, "{media:?}: {} bytes at once", part.len());
                (parts, size) = (parts + 1, size + part.len());
            }
            // Two megabytes, or some of metadata.
            let least = if form == Form::Plain {
                (20, 2_000_000)
            } else {
                (1, 20_000)
            };
            assert!(
                parts >= least.0 && size >= least.1,
                "{media:?}: {size} bytes in {parts} parts"
            );
        }
    }
}
