//! Tap devices: a link whose other end is a file descriptor.

#![expect(unsafe_code, reason = "TUNSETIFF has no safe wrapper")]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::libc;

mod ioctl {
    //! TUNSETIFF of linux/if_tun.h.
    nix::ioctl_write_ptr_bad!(
        set_interface,
        nix::request_code_write!(b'T', 202, size_of::<nix::libc::c_int>()),
        nix::libc::ifreq
    );
}

/// Makes the tap `name` in the calling thread's network namespace and returns its end. The
/// link lives as long as the descriptor, which only needs privileges now: it can be handed
/// to a process without any (see [`inheritable`]). Frames carry virtio-net headers.
pub fn open(name: &str) -> io::Result<OwnedFd> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: ifreq is plain old data, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name:?} cannot name a link"),
        ));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the descriptor is open and `request` is a live ifreq, which the kernel only reads
    // and updates in place during the call.
    unsafe { ioctl::set_interface(file.as_raw_fd(), &request) }?;
    Ok(file.into())
}

/// Lets programs that this process starts inherit a descriptor; its number there is returned.
/// For single-threaded starters: another thread's child would inherit it too.
pub fn inheritable(fd: impl AsFd) -> io::Result<i32> {
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty())?;
    Ok(fd.as_fd().as_raw_fd())
}
