//! A VXLAN device and its entries, as the kernel takes them and gives them back, in a namespace of
//! the test's own. Needs root.

use std::net::Ipv4Addr;

use host::link::{Links, Route};
use host::netns;
use host::vxlan::Vxlan;

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 42, 1, 1);

fn device() -> Vxlan {
    Vxlan {
        vni: 7,
        port: 8472,
        local: Ipv4Addr::new(192, 0, 2, 1),
        mac: [0x0a, 0xa1, 10, 42, 0, 0],
        mtu: 1450,
        learning: false,
    }
}

#[test]
fn what_is_set_is_read_back_and_removed() {
    let thread = std::thread::spawn(|| {
        netns::isolate().unwrap();
        let mut links = Links::open().unwrap();
        let bridge = links.bridge("test0").unwrap();
        links.address(bridge, GATEWAY, 32).unwrap();
        assert_eq!(links.addresses().unwrap(), [(bridge, GATEWAY, 32)]);
        assert_eq!(links.vxlan("over0").unwrap(), None);
        assert_eq!(links.vxlan("test0").unwrap(), Some((bridge, None)));
        let index = links.make_vxlan("over0", &device()).unwrap();
        assert_eq!(links.vxlan("over0").unwrap(), Some((index, Some(device()))));
        assert_eq!(links.get("over0").unwrap().unwrap().mtu, 1450);

        let (mac, a, b) = (
            [2, 0, 0, 0, 0, 9],
            Ipv4Addr::new(192, 0, 2, 2),
            Ipv4Addr::new(192, 0, 2, 3),
        );
        links.forward(index, mac, a).unwrap();
        links.forward(index, mac, b).unwrap();
        assert_eq!(links.forwarding(index).unwrap(), [(mac, b)]);
        links.neighbour(index, PEER, [2, 0, 0, 0, 0, 8]).unwrap();
        links.neighbour(index, PEER, mac).unwrap();
        assert_eq!(links.neighbours(index).unwrap(), [(PEER, mac)]);
        let mut route = Route {
            to: (Ipv4Addr::new(10, 42, 1, 0), 24),
            via: None,
            source: None,
        };
        links.route(index, &route).unwrap();
        route.via = Some(PEER);
        route.source = Some(GATEWAY);
        links.route_onlink(index, &route).unwrap();
        assert_eq!(links.routes(index).unwrap(), [route]);

        for _ in 0..2 {
            links.remove_route(index, &route).unwrap();
            links.remove_neighbour(index, PEER).unwrap();
            links.remove_forwarding(index, mac, b).unwrap();
            links.remove_address(bridge, GATEWAY, 32).unwrap();
        }
        assert!(links.routes(index).unwrap().is_empty() && links.neighbours(index).unwrap().is_empty());
        assert!(links.forwarding(index).unwrap().is_empty() && links.addresses().unwrap().is_empty());
    });
    thread.join().unwrap();
}
