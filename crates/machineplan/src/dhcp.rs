//! The guest's address by DHCP (RFC 2131): one client, one address, always the
//! same answer. Encoding by a library; must not touch sockets.

use std::net::Ipv4Addr;

use dhcproto::v4::{DhcpOption, Flags, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable};
use serde::{Deserialize, Serialize};

/// Lease time: long, since the address never changes while the machine lives.
const LEASE_SECONDS: u32 = 86_400 * 30;

/// What the one guest is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Address of the guest.
    pub address: Ipv4Addr,
    /// Prefix length.
    pub prefix: u8,
    /// Router and server.
    pub gateway: Ipv4Addr,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Search list; the first is also the domain name.
    pub search: Vec<String>,
    /// Host name.
    pub hostname: String,
    /// Largest packet.
    pub mtu: u16,
}

/// The answer to a datagram, or `None` when it deserves none.
pub fn dhcp_reply(request: &[u8], lease: &Lease) -> Option<Vec<u8>> {
    let request = Message::decode(&mut Decoder::new(request)).ok()?;
    if request.opcode() != Opcode::BootRequest {
        return None;
    }
    let kind = match request.opts().get(OptionCode::MessageType)? {
        DhcpOption::MessageType(kind) => *kind,
        _ => return None,
    };
    let answer = match kind {
        MessageType::Discover => MessageType::Offer,
        MessageType::Request => {
            let named = match request.opts().get(OptionCode::ServerIdentifier) {
                Some(DhcpOption::ServerIdentifier(server)) => *server,
                _ => lease.gateway,
            };
            if named != lease.gateway {
                return None;
            }
            let wanted = match request.opts().get(OptionCode::RequestedIpAddress) {
                Some(DhcpOption::RequestedIpAddress(ip)) => *ip,
                _ => request.ciaddr(),
            };
            if wanted == lease.address {
                MessageType::Ack
            } else {
                MessageType::Nak
            }
        }
        MessageType::Inform => MessageType::Ack,
        _ => return None,
    };
    message(&request, answer, lease).to_vec().ok()
}

fn message(request: &Message, answer: MessageType, lease: &Lease) -> Message {
    let mut reply = Message::default();
    reply
        .set_opcode(Opcode::BootReply)
        .set_xid(request.xid())
        .set_flags(Flags::default().set_broadcast())
        .set_giaddr(request.giaddr())
        .set_siaddr(lease.gateway)
        .set_chaddr(request.chaddr());
    let options = reply.opts_mut();
    options.insert(DhcpOption::MessageType(answer));
    options.insert(DhcpOption::ServerIdentifier(lease.gateway));
    if answer == MessageType::Nak {
        return reply;
    }
    let mask = u32::MAX.checked_shl(32 - u32::from(lease.prefix.min(32))).unwrap_or(0);
    options.insert(DhcpOption::SubnetMask(Ipv4Addr::from(mask)));
    options.insert(DhcpOption::Router(vec![lease.gateway]));
    options.insert(DhcpOption::AddressLeaseTime(LEASE_SECONDS));
    options.insert(DhcpOption::InterfaceMtu(lease.mtu));
    options.insert(DhcpOption::Hostname(lease.hostname.clone()));
    if !lease.dns.is_empty() {
        options.insert(DhcpOption::DomainNameServer(lease.dns.clone()));
    }
    if let Some(first) = lease.search.first() {
        options.insert(DhcpOption::DomainName(first.clone()));
        let names = lease.search.iter().filter_map(|s| s.parse().ok()).collect();
        options.insert(DhcpOption::DomainSearch(names));
    }
    reply.set_yiaddr(lease.address);
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease() -> Lease {
        Lease {
            address: Ipv4Addr::new(10, 0, 2, 2),
            prefix: 24,
            gateway: Ipv4Addr::new(10, 0, 2, 1),
            dns: vec![Ipv4Addr::new(10, 43, 0, 10)],
            search: vec!["shop.svc.cluster.local".into(), "svc.cluster.local".into()],
            hostname: "db".into(),
            mtu: 1450,
        }
    }

    fn ask(kind: MessageType, wanted: Option<Ipv4Addr>) -> Option<Message> {
        let mut m = Message::default();
        m.set_opcode(Opcode::BootRequest)
            .set_xid(7)
            .set_chaddr(&[2, 0, 0, 0, 0, 1]);
        m.opts_mut().insert(DhcpOption::MessageType(kind));
        if let Some(ip) = wanted {
            m.opts_mut().insert(DhcpOption::RequestedIpAddress(ip));
        }
        let reply = dhcp_reply(&m.to_vec().unwrap(), &lease())?;
        Some(Message::decode(&mut Decoder::new(&reply)).unwrap())
    }

    fn kind(m: &Message) -> MessageType {
        m.opts().msg_type().unwrap()
    }

    #[test]
    fn discover_offer_request_ack() {
        let offer = ask(MessageType::Discover, None).unwrap();
        assert_eq!(
            (kind(&offer), offer.yiaddr(), offer.xid()),
            (MessageType::Offer, lease().address, 7)
        );
        let ack = ask(MessageType::Request, Some(lease().address)).unwrap();
        assert_eq!(kind(&ack), MessageType::Ack);
        assert_eq!(
            ack.opts().get(OptionCode::SubnetMask),
            Some(&DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)))
        );
        let other = ask(MessageType::Request, Some(Ipv4Addr::new(10, 0, 2, 9))).unwrap();
        assert_eq!(kind(&other), MessageType::Nak);
        assert!(ask(MessageType::Release, None).is_none());
    }

    #[test]
    fn junk_gets_no_answer() {
        for junk in [&b""[..], b"x", &[0u8; 240], &[0xff; 576]] {
            assert_eq!(dhcp_reply(junk, &lease()), None);
        }
    }
}
