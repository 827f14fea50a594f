//! Bad disks: full, corrupt, not ours, newer, locked, unwritable.

use super::open;
use crate::{Embedded, Error, Range, Stamp, Store, Txn, embedded::Options};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// A small file system, unmounted when dropped.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn mount(size: &str) -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "store-test"])
            .arg(dir.path())
            .output()
            .map_err(|e| e.to_string())?;
        if output.status.success() {
            Ok(Self(dir))
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let done = Command::new("umount").arg(self.path()).status();
        if !done.as_ref().is_ok_and(std::process::ExitStatus::success) {
            eprintln!("can't unmount {}: {done:?}", self.path().display());
        }
    }
}

#[tokio::test]
async fn a_full_disk_refuses_commits_and_serves_reads() {
    let disk = match Tmpfs::mount("16m") {
        Ok(disk) => disk,
        Err(reason) => {
            eprintln!("skipped: mounting a tmpfs is not possible here: {reason}");
            return;
        }
    };
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![1; 4 << 20]).expect("ballast");
    let store = open(&disk.path().join("store"), Stamp::none());
    let mut last = 0;
    let mut count = 0;
    let error = loop {
        let txn = Txn::default().put(format!("/k/{count:06}"), vec![b'x'; 1500]);
        match store.commit(txn).await {
            Ok(outcome) => last = outcome.committed().expect("no compare").revision,
            Err(error) => break error,
        }
        count += 1;
        assert!(count < 100_000, "16 MB never fill up");
    };
    assert!(matches!(&error, Error::NoSpace { .. }), "{error:?}");
    assert!(
        error.to_string().contains(&disk.path().display().to_string()),
        "{error}"
    );
    assert!(count > 500, "refused too early, after {count}");

    let page = store.range(Range::default()).await.expect("reads go on");
    assert_eq!((page.items.len(), page.revision), (count, last));
    let again = store.commit(Txn::default().put("/more", vec![b'x'; 1 << 20])).await;
    assert!(matches!(again, Err(Error::NoSpace { .. })), "{again:?}");
    let copy = store.snapshot(&disk.path().join("snapshot")).await;
    assert!(matches!(copy, Err(Error::NoSpace { .. })), "{copy:?}");

    std::fs::remove_file(&ballast).expect("free space");
    let resumed = store
        .commit(Txn::default().put("/more", "x"))
        .await
        .expect("service resumes");
    assert_eq!(
        resumed.committed().expect("no compare").revision,
        last + 1,
        "no revision lost"
    );

    store.close().await;
    let store = Embedded::open(Options::new(disk.path().join("store"))).expect("reopen");
    store.verify().await.expect("nothing is damaged");
    let page = store.range(Range::default()).await.expect("range");
    assert_eq!((page.items.len(), page.revision), (count + 1, last + 1));
}

/// Puts some records and closes, so that all of them are in the main file.
async fn filled(dir: &Path) -> PathBuf {
    let store = open(dir, Stamp::none());
    for n in 0..200 {
        let value = format!("value-{n:04}-{}", "x".repeat(500));
        store
            .commit(Txn::default().put(format!("/k/{n:04}"), value))
            .await
            .expect("commit");
    }
    store.close().await;
    dir.join("store.db")
}

/// Changes one byte at the place where `needle` stands in the file.
fn flip(file: &Path, needle: &str, offset: usize) {
    let mut bytes = std::fs::read(file).expect("read");
    let at = bytes
        .windows(needle.len())
        .position(|w| w == needle.as_bytes())
        .expect("found");
    bytes[at + offset] ^= 1;
    std::fs::write(file, bytes).expect("write");
}

#[tokio::test]
async fn a_flipped_byte_is_found_and_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = filled(dir.path()).await;
    flip(&file, "value-0123-x", 20);
    let store = Embedded::open(Options::new(dir.path())).expect("the rest can be used");
    let named = |error: &Error| {
        let text = error.to_string();
        matches!(error, Error::Corrupt { .. })
            && text.contains("/k/0123")
            && text.contains("revision 125")
            && text.contains("store.db")
    };
    let get = store.get(b"/k/0123").await.expect_err("get");
    assert!(named(&get), "{get}");
    let range = store.range(Range::prefix("/k/")).await.expect_err("range");
    assert!(named(&range), "{range}");
    let mut history = store.watch("/k/".into(), 2).await.expect("watch");
    let history = futures::StreamExt::next(&mut history).await.expect("an item");
    assert!(history.as_ref().is_err_and(named), "{history:?}");
    let verify = store.verify().await.expect_err("verify");
    assert!(named(&verify), "{verify}");
    let put = store
        .commit(Txn::default().put("/k/0123", "x"))
        .await
        .expect_err("commit");
    assert!(named(&put), "{put}");
    // What is not damaged goes on.
    assert!(store.get(b"/k/0122").await.expect("get").is_some());
    store.commit(Txn::default().put("/k/0122", "x")).await.expect("commit");
}

/// Any byte of the file: the answer is right or an error, and never a wrong value.
#[tokio::test]
async fn damage_anywhere_never_yields_a_wrong_value() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = filled(dir.path()).await;
    let whole = std::fs::read(&file).expect("read");
    let mut random = 99_u64;
    let mut found = 0;
    for _ in 0..60 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut bytes = whole.clone();
        let at = (random >> 20) as usize % bytes.len();
        bytes[at] ^= 0x55;
        std::fs::write(&file, &bytes).expect("write");
        let Ok(store) = Embedded::open(Options::new(dir.path())) else {
            found += 1;
            continue;
        };
        let verified = store.verify().await;
        match store.range(Range::prefix("/k/")).await {
            Ok(page) => {
                let expected = |n: usize| format!("value-{n:04}-{}", "x".repeat(500));
                let right = page
                    .items
                    .iter()
                    .enumerate()
                    .all(|(n, kv)| *kv.value == *expected(n).as_bytes());
                // A byte that nothing uses may differ; a missing key must be found by `verify`.
                assert!(right && page.items.len() == 200 || verified.is_err(), "byte {at}");
                found += usize::from(verified.is_err());
            }
            Err(_) => found += 1,
        }
    }
    // The rest fell into unused parts of pages.
    assert!(found > 15, "only {found} of 60 damages were found");
}

#[tokio::test]
async fn files_that_are_not_ours_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = filled(dir.path()).await;
    let whole = std::fs::read(&file).expect("read");
    let reopen = || Embedded::open(Options::new(dir.path())).map(drop);

    let mut newer = whole.clone();
    newer[63] = 9; // user_version, big-endian at offset 60
    std::fs::write(&file, &newer).expect("write");
    let error = reopen().expect_err("a newer format");
    assert!(
        matches!(
            error,
            Error::NewerFormat {
                found: 9,
                supported: 1,
                ..
            }
        ),
        "{error:?}"
    );

    std::fs::write(&file, vec![b'?'; whole.len()]).expect("write");
    let error = reopen().expect_err("junk");
    assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
    assert!(error.to_string().contains("store.db"), "{error}");

    std::fs::write(&file, &whole[..whole.len() / 2]).expect("write");
    match Embedded::open(Options::new(dir.path())) {
        Ok(store) => {
            let error = store.verify().await.expect_err("half a file");
            assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
        }
        Err(error) => assert!(matches!(error, Error::Corrupt { .. }), "{error:?}"),
    }

    std::fs::remove_file(&file).expect("remove");
    std::fs::write(dir.path().join("store.db-wal"), "orphan").expect("write");
    let error = reopen().expect_err("a log without its file");
    assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
}

#[tokio::test]
async fn one_process_at_a_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path(), Stamp::none());
    let error = Embedded::open(Options::new(dir.path()))
        .map(drop)
        .expect_err("opened twice");
    let pid = std::process::id();
    assert!(
        matches!(error, Error::Locked { pid: Some(p), .. } if p == pid),
        "{error:?}"
    );
    let watch = store.watch("/".into(), 0).await.expect("watch");
    store.close().await;
    // A watch that nobody has dropped yet does not hold the lock.
    Embedded::open(Options::new(dir.path())).expect("opens after close");
    drop((watch, Arc::clone(&store)));
}

#[test]
fn unusable_places_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    std::fs::write(&file, "x").expect("write");
    for place in [file.clone(), file.join("below"), PathBuf::from("/proc/store-test")] {
        let error = Embedded::open(Options::new(&place))
            .map(drop)
            .expect_err("not a directory");
        assert!(matches!(error, Error::Path { .. }), "{error:?}");
        assert!(error.to_string().contains(&place.display().to_string()), "{error}");
    }
    std::fs::create_dir(dir.path().join("store.db")).expect("a directory in the way");
    let error = Embedded::open(Options::new(dir.path()))
        .map(drop)
        .expect_err("a directory");
    assert!(error.to_string().contains("store.db"), "{error}");
}

#[test]
fn only_the_owner_can_read() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().expect("a directory");
    let dir = parent.path().join("store");
    let _store = Embedded::open(Options::new(&dir)).expect("open");
    let mode = |path: &Path| path.metadata().expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for name in ["store.db", "store.db-wal", "lock"] {
        assert_eq!(mode(&dir.join(name)), 0o600, "{name}");
    }
}
