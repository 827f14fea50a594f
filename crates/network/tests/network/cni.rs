//! The agent through its plugin, as containerd calls it.

use std::fs;

use network::cni::{Environment, is_plugin, run};
use serde_json::{Value, json};

use crate::node::{NODE, Node, Place, WORLD, ask, eventually, isolated};

fn call(node: &Node, command: &str, id: &str, place: &Place, ports: Value) -> (Value, i32) {
    let conflist = fs::read_to_string(node.dir.path().join("cni/net.d/10-allmend.conflist")).unwrap();
    let conflist: Value = serde_json::from_str(&conflist).unwrap();
    let mut conf = conflist["plugins"][0].clone();
    conf["cniVersion"] = conflist["cniVersion"].clone();
    conf["name"] = conflist["name"].clone();
    conf["runtimeConfig"] = json!({"portMappings": ports});
    let environment = Environment {
        command: command.into(),
        container_id: id.into(),
        netns: place.path.to_str().unwrap().into(),
        interface: "eth0".into(),
    };
    let (output, exit) = run(&environment, &conf.to_string());
    (serde_json::from_str(&output).unwrap_or_default(), exit)
}

#[test]
fn a_plugin_adds_checks_and_deletes() {
    isolated(|| async {
        let node = Node::new().await;
        let place = Place::new(node.dir.path().join("pods/a"));
        assert_eq!(call(&node, "CHECK", "a", &place, json!([])).0["code"], 3);
        let ports = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}]);
        let (result, exit) = call(&node, "ADD", "a", &place, ports.clone());
        assert_eq!(
            (exit, &result["ips"][0]["address"]),
            (0, &json!("10.42.0.2/32")),
            "{result}"
        );
        let eth0 = &result["interfaces"][1];
        assert_eq!((&eth0["name"], &eth0["sandbox"]), (&json!("eth0"), &json!(place.path)));
        assert_eq!(
            call(&node, "ADD", "a", &place, ports).0,
            result,
            "the same answer again"
        );
        place.serve("a", 80);
        assert_eq!(ask(([10, 42, 0, 2], 80)).unwrap().0, "a");
        assert_eq!(node.world.ask((NODE, 8080)).unwrap(), ("a".into(), WORLD.into()));
        assert_eq!(call(&node, "CHECK", "a", &place, json!([])).1, 0);
        for _ in 0..2 {
            assert_eq!(call(&node, "DEL", "a", &place, json!([])).1, 0);
        }
        eventually("the address is gone", || ask(([10, 42, 0, 2], 80)).is_err()).await;
        for name in network::cni::PLUGINS {
            let link = node.dir.path().join("cni/bin").join(name);
            assert_eq!(fs::read_link(&link).unwrap(), std::env::current_exe().unwrap());
            assert!(is_plugin(link.as_os_str()));
        }
        assert!(!is_plugin("allmend".as_ref()));
    });
}

#[test]
fn a_plugin_waits_for_an_agent_that_restarts() {
    isolated(|| async {
        let mut node = Node::new().await;
        let place = Place::new(node.dir.path().join("pods/a"));
        node.network.clone().stop().await;
        let result = std::thread::scope(|scope| {
            let plugin = scope.spawn(|| call(&node, "ADD", "a", &place, json!([])));
            let handle = tokio::runtime::Handle::current();
            let dir = &node.dir;
            let api = node.api.clone();
            let started = scope.spawn(move || {
                let informers = std::sync::Arc::new({
                    let _guard = handle.enter();
                    informer::Informers::new(api)
                });
                handle.block_on(network::Network::start(Node::config(dir), informers))
            });
            let network = started.join().unwrap().unwrap();
            (plugin.join().unwrap(), network)
        });
        let ((result, exit), network) = result;
        assert_eq!(exit, 0, "{result}");
        node.network = network;
    });
}

#[test]
fn loopback_comes_up() {
    isolated(|| async {
        let node = Node::new().await;
        let place = Place::new(node.dir.path().join("pods/a"));
        let environment = Environment {
            command: "ADD".into(),
            container_id: "a".into(),
            netns: place.path.to_str().unwrap().into(),
            interface: "lo".into(),
        };
        let conf = json!({"cniVersion": "0.3.1", "name": "cni-loopback", "type": "loopback"});
        let (output, exit) = run(&environment, &conf.to_string());
        assert_eq!(exit, 0, "{output}");
        assert!(output.contains("127.0.0.1/8"));
        place.serve("a", 80);
        assert_eq!(place.ask(([127, 0, 0, 1], 80)).unwrap().0, "a");
    });
}
