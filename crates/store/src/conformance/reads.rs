//! Cases on ranges, old revisions, compaction and snapshots.

use super::{delete, fresh, put, stamped};
use crate::{Error, Page, Range, Store};
use std::sync::Arc;

fn keys(page: &Page) -> Vec<String> {
    page.items
        .iter()
        .map(|kv| String::from_utf8_lossy(&kv.key).into_owned())
        .collect()
}

async fn read(store: &Arc<dyn Store>, range: Range) -> Page {
    store.range(range).await.expect("range")
}

pub(super) async fn ranges_have_exact_borders(store: Arc<dyn Store>) {
    let prefix = fresh("borders");
    for name in ["a", "a/", "a/1", "a/1/x", "a/2", "a0", "b"] {
        put(&store, &format!("{prefix}{name}"), name).await;
    }
    let page = read(&store, Range::prefix(format!("{prefix}a/"))).await;
    let expected = ["a/", "a/1", "a/1/x", "a/2"].map(|name| format!("{prefix}{name}"));
    assert_eq!(keys(&page), expected);
    assert!(!page.more);
    assert_eq!(page.revision, store.revision().await.expect("revision"));
    let none = read(&store, Range::prefix(format!("{prefix}c"))).await;
    assert!(none.items.is_empty() && !none.more);
    // A prefix that ends with the greatest byte.
    let high = [prefix.as_bytes(), &[0xff]].concat();
    let txn = crate::Txn::default().put([&*high, b"z"].concat(), "z");
    super::commit(&store, txn).await;
    let page = read(&store, Range::prefix(high.clone())).await;
    assert_eq!(page.items.len(), 1);
    // A cursor outside the prefix neither widens nor empties the range.
    let low = Range::prefix(format!("{prefix}a/")).start_after(prefix.clone());
    assert_eq!(read(&store, low).await.items.len(), 4);
}

pub(super) async fn pages_are_stable(store: Arc<dyn Store>) {
    let prefix = fresh("pages");
    for n in 0..10 {
        put(&store, &format!("{prefix}{n}"), "old").await;
    }
    let first = read(&store, Range::prefix(prefix.clone()).limit(4)).await;
    assert_eq!((first.items.len(), first.more), (4, true));
    // All of this happens after the first page and must not show in the next ones.
    put(&store, &format!("{prefix}5"), "new").await;
    delete(&store, &format!("{prefix}6")).await;
    put(&store, &format!("{prefix}55"), "new").await;
    let mut seen = keys(&first);
    let mut page = first.clone();
    while page.more {
        let after = seen.last().expect("a key").clone();
        let next = Range::prefix(prefix.clone())
            .limit(3)
            .start_after(after)
            .at(first.revision);
        page = read(&store, next).await;
        assert_eq!(page.revision, first.revision);
        assert!(page.items.iter().all(|kv| kv.value == stamped("old", kv.mod_revision)));
        seen.extend(keys(&page));
    }
    assert_eq!(seen, (0..10).map(|n| format!("{prefix}{n}")).collect::<Vec<_>>());
    let exact = read(&store, Range::prefix(prefix.clone()).limit(10)).await;
    assert!(!exact.more, "a page that ends with the range says so");
}

pub(super) async fn the_past_can_be_read(store: Arc<dyn Store>) {
    let prefix = fresh("past");
    let key = format!("{prefix}a");
    let one = put(&store, &key, "1").await;
    let two = put(&store, &key, "2").await;
    let gone = delete(&store, &key).await;
    let three = put(&store, &key, "3").await;
    for (revision, expected) in [
        (one - 1, None),
        (one, Some(("1", one, 1))),
        (two, Some(("2", two, 2))),
        (gone, None),
        (three, Some(("3", three, 1))),
    ] {
        let page = read(&store, Range::prefix(prefix.clone()).at(revision)).await;
        let found = page
            .items
            .first()
            .map(|kv| (kv.value.clone(), kv.mod_revision, kv.version));
        let expected = expected.map(|(v, revision, n)| (stamped(v, revision), revision, n));
        assert_eq!(found, expected, "at {revision}");
    }
    let future = store.range(Range::prefix(prefix).at(three + 1000)).await;
    assert!(matches!(future, Err(Error::FutureRevision { .. })), "{future:?}");
}

pub(super) async fn compaction_cuts_the_past(store: Arc<dyn Store>) {
    let prefix = fresh("compaction");
    let (a, b) = (format!("{prefix}a"), format!("{prefix}b"));
    put(&store, &a, "1").await;
    put(&store, &b, "1").await;
    let before = put(&store, &a, "2").await;
    let point = delete(&store, &b).await;
    let after = put(&store, &a, "3").await;
    store.compact(point).await.expect("compact");
    assert_eq!(store.compacted().await.expect("compacted"), point);
    let old = store.range(Range::prefix(prefix.clone()).at(before)).await;
    assert!(
        matches!(old, Err(Error::Compacted { requested, compacted })
            if requested == before && compacted == point),
        "{old:?}"
    );
    let at = read(&store, Range::prefix(prefix.clone()).at(point)).await;
    assert_eq!(keys(&at), std::slice::from_ref(&a));
    assert_eq!(at.items[0].value, stamped("2", before), "the point itself can be read");
    let now = read(&store, Range::prefix(prefix.clone())).await;
    assert_eq!((now.items[0].mod_revision, now.items[0].version), (after, 3));
    store.compact(point).await.expect("compacting again does nothing");
    store.compact(point - 1).await.expect("compacting less does nothing");
    let future = store.compact(after + 1000).await;
    assert!(matches!(future, Err(Error::FutureRevision { .. })), "{future:?}");
    store.compact(after).await.expect("compacting the present");
    let now = read(&store, Range::prefix(prefix)).await;
    assert_eq!(now.items.len(), 1);
    assert_eq!(put(&store, &b, "2").await, after + 1);
    let anew = store.get(b.as_bytes()).await.expect("get").expect("there");
    assert_eq!((anew.version, anew.create_revision), (1, after + 1));
}

pub(super) async fn snapshots_are_written_once(store: Arc<dyn Store>) {
    let prefix = fresh("snapshot");
    let revision = put(&store, &format!("{prefix}a"), "1").await;
    let dir = std::env::temp_dir().join(prefix.replace('/', "-"));
    std::fs::create_dir(&dir).expect("a directory for the snapshot");
    let path = dir.join("snapshot");
    let taken = store.snapshot(&path).await;
    let size = path.metadata().map_or(0, |m| m.len());
    let again = store.snapshot(&path).await;
    let missing = store.snapshot(&dir.join("absent/snapshot")).await;
    std::fs::remove_dir_all(&dir).expect("clean up");
    assert!(taken.expect("snapshot") >= revision);
    assert!(size > 0);
    assert!(matches!(again, Err(Error::Path { .. })), "{again:?}");
    assert!(matches!(missing, Err(Error::Path { .. })), "{missing:?}");
    let stats = store.stats().await.expect("stats");
    assert!(
        stats.keys >= 1 && stats.disk_bytes > 0 && stats.revision >= revision,
        "{stats:?}"
    );
}
