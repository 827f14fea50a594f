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
use kinds::Kind;
use rand::Rng;
use tokio::time::{Instant, Sleep};

use super::form::Form;
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
    kind: Arc<Kind>,
    snapshot: Snapshot,
    selection: Selection,
    after: Arc<str>,
    left: usize,
    form: Form,
    state: ListState,
    head: Vec<u8>,
    first: bool,
}

#[derive(PartialEq)]
enum ListState {
    Head,
    Items,
    Done,
}

impl ListBody {
    /// A list in a form.
    pub fn new(kind: Arc<Kind>, selection: Selection, listed: Listed, form: Form) -> Self {
        let head = form.list_head(&kind, &listed);
        ListBody {
            kind,
            snapshot: listed.snapshot,
            selection,
            after: listed.after.into(),
            left: listed.limit,
            form,
            state: ListState::Head,
            head,
            first: true,
        }
    }

    /// The next part; `None` at the end.
    pub fn next_chunk(&mut self) -> Option<Bytes> {
        if self.state == ListState::Done {
            return None;
        }
        let mut out = Vec::with_capacity(CHUNK + CHUNK / 4);
        if self.state == ListState::Head {
            out.append(&mut self.head);
            self.state = ListState::Items;
        }
        while out.len() < CHUNK {
            let step = STEP.min(self.left);
            let (items, more) = select(&self.snapshot, &self.kind, &self.selection, &self.after, step);
            for (_, item) in &items {
                if !self.first {
                    out.push(b',');
                }
                self.first = false;
                self.form.write_item(&mut out, &self.kind, &item.object);
            }
            self.left -= items.len();
            if let Some((last, _)) = items.last() {
                self.after = last.clone();
            }
            if !more || self.left == 0 {
                out.extend_from_slice(b"]}\n");
                self.state = ListState::Done;
                self.snapshot = Snapshot::new();
                break;
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

/// A watch as it is written out, one JSON document a line.
pub struct WatchBody {
    watch: Watch,
    progress: Arc<Progress>,
    kind: Arc<Kind>,
    form: Form,
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
    /// A watch in a form, for at most `lifetime`.
    pub fn new(
        kind: Arc<Kind>,
        watch: Watch,
        progress: Arc<Progress>,
        form: Form,
        (bookmarks, mark_initial): (bool, bool),
        lifetime: Duration,
    ) -> Self {
        // Spread, so that a thousand watches that began together do not wake together.
        let first = BOOKMARK.mul_f64(rand::rng().random_range(0.75..1.0));
        WatchBody {
            watch,
            progress,
            kind,
            form,
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
                    self.form.write_event(&mut out, &self.kind, name, &object);
                }
                Poll::Ready(Some(Delivery::InitialEnd(revision))) => {
                    if self.mark_initial {
                        self.form.write_bookmark(&mut out, &self.kind, revision, true);
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
                self.form.write_bookmark(out, &self.kind, revision, false);
            }
        }
        self.ended |= over;
    }
}
