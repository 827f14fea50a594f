//! Copies a log file to a client, to its end or for as long as the container
//! runs. Must not choose the file.

use std::io::{self, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use runtime::{ContainerState, PodRuntime};
use tokio::fs::File;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::line::Printer;

/// Bytes read at once.
const BLOCK: usize = 32 << 10;
/// Longest line that is kept together. Runtimes split at 16 KiB.
const LINE: usize = 256 << 10;
/// How often a container is looked at whose log is followed.
const LOOK: Duration = Duration::from_secs(1);

/// A container whose log is followed.
pub(super) struct Alive {
    pub(super) runtime: Arc<dyn PodRuntime>,
    pub(super) sandbox: String,
    pub(super) container: String,
}

impl Alive {
    async fn check(&self) -> bool {
        match self.runtime.sandbox(&self.sandbox).await {
            Ok(Some(sandbox)) => sandbox.containers.iter().any(|c| {
                c.id == self.container && matches!(c.state, ContainerState::Running | ContainerState::Created)
            }),
            Ok(None) => false,
            // Not to know is no reason to hang up.
            Err(_) => true,
        }
    }
}

/// Where the last `lines` lines of a file begin.
pub(super) async fn tail(file: &mut File, lines: u64) -> io::Result<u64> {
    let end = file.seek(SeekFrom::End(0)).await?;
    let mut block = vec![0; BLOCK];
    let (mut at, mut found) = (end, 0_u64);
    while at > 0 {
        let start = at.saturating_sub(BLOCK as u64);
        let size = usize::try_from(at - start).unwrap_or(BLOCK);
        file.seek(SeekFrom::Start(start)).await?;
        file.read_exact(&mut block[..size]).await?;
        for (i, byte) in block[..size].iter().enumerate().rev() {
            let position = start + i as u64 + 1;
            // The newline at the very end ends the last line and begins none.
            if *byte == b'\n' && position < end || position == end && lines == 0 {
                found += 1;
                if found >= lines {
                    return Ok(position);
                }
            }
        }
        at = start;
    }
    Ok(0)
}

/// A copy under way.
pub(super) struct Copy {
    pub(super) path: PathBuf,
    pub(super) file: Option<File>,
    pub(super) printer: Printer,
    pub(super) alive: Option<Alive>,
    pub(super) out: mpsc::Sender<io::Result<Bytes>>,
    pub(super) stop: CancellationToken,
}

/// Nobody wants any more.
struct Over;

impl Copy {
    /// Copies to the end: of the file, of the container, or of the client's patience.
    pub(super) async fn run(mut self) {
        let (out, stop) = (self.out.clone(), self.stop.clone());
        tokio::select! {
            _ = self.copy() => {}
            () = out.closed() => {}
            () = stop.cancelled() => {}
        }
    }

    async fn copy(&mut self) -> Result<(), Over> {
        // Watched before it is first read, so that nothing is missed in between.
        let mut watch = self.alive.as_ref().and_then(|_| Watch::new(&self.path));
        let mut pending = Vec::new();
        let mut looked: Option<Instant> = None;
        let mut ended = self.alive.is_none();
        loop {
            if self.file.is_none() {
                self.file = File::open(&self.path).await.ok();
            }
            self.drain(&mut pending).await?;
            if self.replaced().await {
                // What was written between the end that was seen and the replacement.
                self.drain(&mut pending).await?;
                self.flush(&mut pending).await?;
                self.file = None;
                continue;
            }
            if ended {
                return self.flush(&mut pending).await;
            }
            if looked.is_none_or(|at| at.elapsed() >= LOOK) {
                looked = Some(Instant::now());
                if let Some(alive) = &self.alive
                    && !alive.check().await
                {
                    // It may have written until just now: one more round.
                    ended = true;
                    continue;
                }
            }
            // Without events the clock has to do.
            let _ = tokio::time::timeout(LOOK, changed(&mut watch)).await;
        }
    }

    /// Reads and sends until there is no more for now.
    async fn drain(&mut self, pending: &mut Vec<u8>) -> Result<(), Over> {
        let mut block = vec![0; BLOCK];
        loop {
            let Some(file) = &mut self.file else { return Ok(()) };
            let n = match file.read(&mut block).await {
                Ok(n) => n,
                Err(e) => return self.fail(e).await,
            };
            if n == 0 {
                return Ok(());
            }
            pending.extend_from_slice(&block[..n]);
            let mut text = Vec::new();
            let mut done = 0;
            while let Some(length) = pending[done..].iter().position(|b| *b == b'\n') {
                self.printer.print(&pending[done..=done + length], &mut text);
                done += length + 1;
            }
            pending.drain(..done);
            if pending.len() > LINE {
                self.printer.print(pending, &mut text);
                pending.clear();
            }
            self.send(text).await?;
        }
    }

    /// Sends a last line that has no newline.
    async fn flush(&mut self, pending: &mut Vec<u8>) -> Result<(), Over> {
        let mut text = Vec::new();
        if !pending.is_empty() {
            self.printer.print(pending, &mut text);
            pending.clear();
        }
        self.send(text).await
    }

    async fn send(&mut self, text: Vec<u8>) -> Result<(), Over> {
        if !text.is_empty() {
            self.out.send(Ok(text.into())).await.map_err(|_| Over)?;
        }
        if self.printer.is_full() { Err(Over) } else { Ok(()) }
    }

    async fn fail(&self, e: io::Error) -> Result<(), Over> {
        // The client may have gone.
        let _ = self.out.send(Err(e)).await;
        Err(Over)
    }

    /// Whether there is another file under the name, or the file was cut short.
    async fn replaced(&mut self) -> bool {
        let (Some(_), Some(file)) = (&self.alive, &mut self.file) else {
            return false;
        };
        let position = file.stream_position().await;
        let (Ok(ours), Ok(theirs)) = (file.metadata().await, tokio::fs::metadata(&self.path).await) else {
            // Rotated away, and nothing new yet.
            return false;
        };
        ours.ino() != theirs.ino() || ours.dev() != theirs.dev() || position.is_ok_and(|at| at > ours.len())
    }
}

/// Changes in the directory of a file.
struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    /// `None` when the kernel has no watches left.
    fn new(path: &Path) -> Option<Watch> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok()?;
        let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        inotify.add_watch(path.parent()?, flags).ok()?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; the descriptor is owned and never replaced"
        )]
        let watched = AsyncFd::new(OwnedFd::from(inotify));
        watched.ok().map(Watch)
    }

    async fn changed(&mut self) -> io::Result<()> {
        let mut guard = self.0.readable().await?;
        let mut events = [0; 4096];
        // What happened does not matter: the file is looked at anyway.
        while rustix::io::read(guard.get_inner(), &mut events).is_ok_and(|n| n > 0) {}
        guard.clear_ready();
        Ok(())
    }
}

async fn changed(watch: &mut Option<Watch>) {
    let broken = match watch {
        Some(watch) => watch.changed().await.is_err(),
        None => true,
    };
    if broken {
        *watch = None;
        std::future::pending().await
    }
}
