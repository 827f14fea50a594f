//! Pictures of a machine's display. Must not trust the file: QEMU's user wrote it.

use std::io::Read;

use qmp::DeviceCommand;
use runtime::RuntimeError;
use rustix::fs::{Mode, OFlags};

use crate::failed;
use crate::pod_runtime::Inner;
use crate::supervisor::Command;

/// Larger than any picture of a display with 16 MiB of memory.
const LARGEST: u64 = 64 << 20;

/// Takes a picture, as PNG.
pub(crate) async fn screenshot(inner: &Inner, id: &str) -> Result<Vec<u8>, RuntimeError> {
    let run = inner.container_dir(id)?.run();
    let name = format!("screen-{:x}.png", crate::now());
    let path = run.join(&name);
    let command = DeviceCommand::screendump(&path.to_string_lossy());
    let taken = inner.command(id, Command::Device(command)).await;
    let picture = taken.and_then(|()| {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let open = || {
            let file = std::fs::File::from(rustix::fs::open(&path, flags, Mode::empty())?);
            if !file.metadata()?.is_file() {
                return Err(std::io::Error::other("not a file"));
            }
            let mut bytes = Vec::new();
            file.take(LARGEST).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        open().map_err(failed("read the picture"))
    });
    let _ = std::fs::remove_file(&path);
    picture
}
