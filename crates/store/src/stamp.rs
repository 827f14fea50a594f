//! How a value comes to carry its own revision.

use bytes::Bytes;
use std::fmt;
use std::sync::Arc;

/// Makes the bytes that readers see from the bytes that were put and the revision of that put.
///
/// A Kubernetes object contains its own `resourceVersion`, which is the revision that the store
/// gives it. The embedded engine knows the revision before it writes, so it stamps once, inside
/// the single writer, and everything after that (disk, cache, watchers, the commit's own answer)
/// shares those bytes. etcd learns the revision only from its answer, so that backend keeps the
/// bytes as they were put and stamps whatever it reads. A closure per operation would serve only
/// the first; hence one function, given when the store is opened.
///
/// The function must be
/// - cheap (a splice, not a parse): it runs in the writer;
/// - total: any bytes come in, also those that an older release stored, and a panic would end the
///   writer, after which every commit answers [`crate::Error::Closed`];
/// - absorbing: `stamp(stamp(v, a), b) == stamp(v, b)`, since what was read may be put again.
#[derive(Clone)]
pub struct Stamp(Arc<dyn Fn(Bytes, u64) -> Bytes + Send + Sync>);

impl Stamp {
    /// A stamp made by `function(value, revision)`.
    pub fn new(function: impl Fn(Bytes, u64) -> Bytes + Send + Sync + 'static) -> Self {
        Self(Arc::new(function))
    }

    /// Values are stored and read as they were put.
    pub fn none() -> Self {
        Self::new(|value, _| value)
    }

    /// The bytes to be read for a `value` put at `revision`.
    pub fn apply(&self, value: Bytes, revision: u64) -> Bytes {
        (self.0)(value, revision)
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stamp")
    }
}
