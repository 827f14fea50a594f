//! A Linux guest: DHCP, NAT, the data disk and the guest agent's channel.
