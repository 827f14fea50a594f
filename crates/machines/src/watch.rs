//! One task per running machine: it hears the supervisor, tells the node agent,
//! and puts a new supervisor in place of one that died while QEMU lives.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use machineplan::USB_PORTS;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use crate::files::{ExitFile, MachineDir};
use crate::guest;
use crate::pod_runtime::Inner;
use crate::supervisor::{Command, MachineState, Subscription};

/// First pause after something failed; doubled up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// When a machine whose disk ran full looks for space, less and less often: no event tells of it.
const LOOK_FOR_SPACE: Duration = Duration::from_secs(2);
const LOOK_AT_LEAST: Duration = Duration::from_secs(16);
/// How much there must be before its guest goes on.
const ENOUGH_SPACE: u64 = 32 << 20;

/// A machine that is listened to.
pub(crate) struct Live {
    /// Its state.
    pub state: watch::Sender<MachineState>,
    /// The guest agent's socket admits one client.
    pub agent: Mutex<()>,
    /// Whether the guest's filesystems are held still.
    pub frozen: AtomicBool,
    /// Which USB ports clients have: each socket admits one.
    pub usb: [Arc<Mutex<()>>; USB_PORTS],
}

/// Begins to watch a machine; once is enough.
pub(crate) fn begin(inner: &Arc<Inner>, id: &str) {
    let live = {
        let mut all = inner.live.lock().unwrap_or_else(PoisonError::into_inner);
        if all.contains_key(id) {
            return;
        }
        let live = Arc::new(Live {
            state: watch::Sender::new(MachineState::default()),
            agent: Mutex::new(()),
            frozen: AtomicBool::new(false),
            usb: Default::default(),
        });
        all.insert(id.to_owned(), live.clone());
        live
    };
    // Weak: the tasks must not keep a runtime alive that its owner dropped.
    let (weak, id) = (Arc::downgrade(inner), id.to_owned());
    tokio::spawn(guest::report(weak.clone(), id.clone(), Arc::downgrade(&live)));
    tokio::spawn(async move {
        follow(&weak, &id, &live).await;
        if let Some(inner) = weak.upgrade() {
            let mut all = inner.live.lock().unwrap_or_else(PoisonError::into_inner);
            all.remove(&id);
            drop(all);
            inner.changed(&id);
        }
    });
}

/// Returns when the machine has ended or is removed.
async fn follow(weak: &Weak<Inner>, id: &str, live: &Live) {
    let Some(dir) = weak.upgrade().and_then(|i| i.container_dir(id).ok()) else {
        return;
    };
    let mut pause = FIRST_PAUSE;
    let mut look = LOOK_FOR_SPACE;
    let mut last_full: Option<Instant> = None;
    loop {
        if let Ok(mut subscription) = Subscription::connect(&dir.join("control.sock")).await {
            loop {
                let waits = { live.state.borrow().paused && live.state.borrow().no_space };
                tokio::select! {
                    state = subscription.next() => match state {
                        Ok(state) => {
                            pause = FIRST_PAUSE;
                            if !state.no_space && last_full.is_none_or(|t| t.elapsed() > LOOK_AT_LEAST) {
                                look = LOOK_FOR_SPACE;
                            }
                            last_full = state.no_space.then(Instant::now).or(last_full);
                            live.state.send_replace(state);
                            let Some(inner) = weak.upgrade() else { return };
                            inner.changed(id);
                        }
                        Err(_) => break,
                    },
                    () = tokio::time::sleep(look), if waits => {
                        look = (look * 2).min(LOOK_AT_LEAST);
                        let Some(inner) = weak.upgrade() else { return };
                        relieve(&inner, id).await;
                    }
                }
            }
        }
        let Some(inner) = weak.upgrade() else { return };
        if ended(&dir) {
            return;
        }
        if !supervised(&dir) && !ended(&dir) {
            tracing::warn!(machine = id, "the supervisor is gone; starting another");
            if let Err(error) = inner.spawn_supervisor(&dir).await {
                tracing::error!(machine = id, %error, "cannot start a supervisor");
                record_end(&dir, &error.to_string());
            }
            if ended(&dir) {
                return;
            }
        }
        drop(inner);
        // It is starting up, writing down the machine's end, or fails again and again.
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// Without supervisor and QEMU there is an end, and nobody else to record it.
fn record_end(dir: &MachineDir, why: &str) {
    if supervised(dir) || dir.live_qemu().is_some() || ended(dir) {
        return;
    }
    let exit = ExitFile {
        finished_at: crate::now(),
        exit_code: 137,
        reason: "Error".into(),
        message: format!("no supervisor could be started: {why}"),
    };
    if let Err(error) = dir.write_exit(&exit) {
        tracing::error!(machine = %dir.path().display(), %error, "cannot record the machine's end");
    }
}

/// Lets a guest go on whose write failed for want of space. QEMU repeats the write; when space
/// is still missing where that disk is, the guest stops again and has lost nothing.
async fn relieve(inner: &Inner, id: &str) {
    let space = rustix::fs::statvfs(&inner.config.data_dir);
    if space.is_ok_and(|s| s.f_bavail * s.f_frsize > ENOUGH_SPACE)
        && let Err(error) = inner.command(id, Command::Resume).await
    {
        tracing::warn!(machine = id, %error, "cannot let the guest go on");
    }
}

fn ended(dir: &MachineDir) -> bool {
    // A file that cannot be read says that there was an end.
    !dir.path().exists() || !matches!(dir.exit(), Ok(None))
}

/// Whether a supervisor holds the machine's lock.
fn supervised(dir: &MachineDir) -> bool {
    let Ok(file) = std::fs::File::open(dir.supervisor_lock()) else {
        return false;
    };
    let tried = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared);
    tried == Err(rustix::io::Errno::WOULDBLOCK)
}
