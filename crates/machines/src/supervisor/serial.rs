//! The serial console: QEMU's end is read always and written into the pod's
//! log in CRI's log format, and shared by any number of consoles.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::files::MachineDir;

/// A line longer than this is written in parts, as container runtimes do.
const LONGEST_LINE: usize = 16 << 10;
/// A prompt without a newline reaches the log after so long a silence.
const IDLE: Duration = Duration::from_millis(200);

/// The running console.
pub(super) struct Console {
    control: mpsc::UnboundedSender<Order>,
}

enum Order {
    Reopen,
    Finish(oneshot::Sender<()>),
}

impl Console {
    /// Begins a new log file.
    pub(super) fn reopen_log(&self) {
        let _ = self.control.send(Order::Reopen);
    }

    /// Waits until all that QEMU sent is in the log.
    pub(super) async fn finish(&self) {
        let (done, finished) = oneshot::channel();
        if self.control.send(Order::Finish(done)).is_ok() {
            let _ = tokio::time::timeout(Duration::from_secs(5), finished).await;
        }
    }
}

/// Connects to QEMU's serial port, opens the log and listens for consoles.
pub(super) async fn serve(dir: &MachineDir, log: &Path) -> io::Result<Console> {
    let serial = UnixStream::connect(dir.run().join("serial.sock")).await?;
    let log = Log::open(log);
    let (output, _) = broadcast::channel::<Vec<u8>>(256);
    let (input, typed) = mpsc::channel::<Vec<u8>>(64);
    listen(&dir.join("console.sock"), output.clone(), input)?;
    let (control, orders) = mpsc::unbounded_channel();
    tokio::spawn(pump(serial, log, output, typed, orders));
    Ok(Console { control })
}

async fn pump(
    serial: UnixStream,
    mut log: Log,
    output: broadcast::Sender<Vec<u8>>,
    mut typed: mpsc::Receiver<Vec<u8>>,
    mut orders: mpsc::UnboundedReceiver<Order>,
) {
    let (mut read, mut write) = serial.into_split();
    let mut buffer = vec![0u8; 8192];
    let mut waiting: Vec<oneshot::Sender<()>> = Vec::new();
    let mut open = true;
    while open {
        tokio::select! {
            got = read.read(&mut buffer) => match got {
                Ok(n) if n > 0 => {
                    log.take(&buffer[..n]);
                    // Nobody listening is fine.
                    let _ = output.send(buffer[..n].to_vec());
                }
                _ => open = false,
            },
            Some(bytes) = typed.recv() => {
                let _ = write.write_all(&bytes).await;
            }
            Some(order) = orders.recv() => match order {
                Order::Reopen => log.reopen(),
                Order::Finish(done) => waiting.push(done),
            },
            () = tokio::time::sleep(IDLE), if log.has_partial() => log.flush_partial(),
        }
    }
    log.flush_partial();
    for done in waiting {
        let _ = done.send(());
    }
    // Those who ask after the end get their answer from the closed channel.
    while let Ok(order) = orders.try_recv() {
        if let Order::Finish(done) = order {
            let _ = done.send(());
        }
    }
}

fn listen(path: &Path, output: broadcast::Sender<Vec<u8>>, input: mpsc::Sender<Vec<u8>>) -> io::Result<()> {
    let listener = super::control::bind(path)?;
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(attend(client, output.subscribe(), input.clone()));
        }
    });
    Ok(())
}

async fn attend(client: UnixStream, mut output: broadcast::Receiver<Vec<u8>>, input: mpsc::Sender<Vec<u8>>) {
    let (mut read, mut write) = client.into_split();
    let mut buffer = vec![0u8; 4096];
    loop {
        tokio::select! {
            got = output.recv() => match got {
                Ok(bytes) => if write.write_all(&bytes).await.is_err() { return },
                // A console that does not keep up loses output, never the guest its pace.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            },
            got = read.read(&mut buffer) => match got {
                Ok(n) if n > 0 => if input.send(buffer[..n].to_vec()).await.is_err() { return },
                _ => return,
            },
        }
    }
}

/// The log file, in CRI's format: time, stream, `F` or `P`, text. A machine outlives the
/// loss of its log (a full disk, a directory removed): `file` is `None` until it is reopened.
struct Log {
    path: PathBuf,
    file: Option<File>,
    line: Vec<u8>,
}

impl Log {
    fn open(path: &Path) -> Self {
        if let Some(parent) = path.parent() {
            let _ = std::fs::create_dir_all(parent);
        }
        Log {
            path: path.to_owned(),
            file: append(path).ok(),
            line: Vec::new(),
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        for &b in bytes {
            match b {
                b'\n' => self.write_line('F'),
                _ => self.line.push(b),
            }
            if self.line.len() >= LONGEST_LINE {
                self.write_line('P');
            }
        }
    }

    fn has_partial(&self) -> bool {
        !self.line.is_empty()
    }

    fn flush_partial(&mut self) {
        if self.has_partial() {
            self.write_line('P');
        }
    }

    fn write_line(&mut self, tag: char) {
        let mut out = format!("{} stdout {tag} ", crate::rfc3339_nano(crate::now())).into_bytes();
        let text = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        out.extend_from_slice(text);
        out.push(b'\n');
        self.line.clear();
        if let Some(file) = &mut self.file {
            let _ = file.write_all(&out);
        }
    }

    fn reopen(&mut self) {
        if let Ok(file) = append(&self.path) {
            self.file = Some(file);
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_logged_whole_and_long_ones_in_parts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = Log::open(&path);
        log.take(b"hello\r\nlogin: ");
        log.flush_partial();
        log.take(&vec![b'x'; LONGEST_LINE + 1]);
        log.take(b"\n");
        let text = std::fs::read_to_string(&path).unwrap();
        let tags: Vec<(&str, usize)> = text
            .lines()
            .map(|l| {
                let mut parts = l.splitn(4, ' ').skip(2);
                (parts.next().unwrap(), parts.next().unwrap().len())
            })
            .collect();
        assert_eq!(tags, [("F", 5), ("P", 7), ("P", LONGEST_LINE), ("F", 1)]);
    }
}
