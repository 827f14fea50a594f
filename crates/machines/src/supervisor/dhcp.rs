//! The DHCP server on the guest's link. What it answers is `machineplan`'s.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use machineplan::dhcp_reply;

use crate::files::NetworkFile;

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;

/// Answers requests on the tap until the process ends.
pub(super) fn serve(network: &NetworkFile) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, SERVER_PORT))?;
    socket.set_broadcast(true)?;
    socket.set_nonblocking(true)?;
    // Bound to the link, since the answer goes to the broadcast address: it must leave
    // by the tap and never by the pod's own interface.
    nix::sys::socket::setsockopt(
        &socket,
        nix::sys::socket::sockopt::BindToDevice,
        &network.tap.clone().into(),
    )?;
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    let lease = network.lease.clone();
    tokio::spawn(async move {
        let to = SocketAddr::from((Ipv4Addr::BROADCAST, CLIENT_PORT));
        let mut buffer = [0u8; 2048];
        loop {
            // Errors of one datagram (the link was down for a moment) do not end the service.
            if let Ok((n, _)) = socket.recv_from(&mut buffer).await
                && let Some(reply) = dhcp_reply(&buffer[..n], &lease)
            {
                let _ = socket.send_to(&reply, to).await;
            }
        }
    });
    Ok(())
}
