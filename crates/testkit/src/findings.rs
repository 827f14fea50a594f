//! What a test leaves to read when it has waited in vain: the state of each of
//! its servers as an operator would look at it.
//!
//! Must not change anything, and must not hide the failure it explains: what
//! cannot be read is left out.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use crate::Kubectl;
use crate::server::tail;

thread_local! {
    /// The servers of this test: its kubeconfig and its log.
    static SERVERS: RefCell<Vec<(PathBuf, PathBuf)>> = const { RefCell::new(Vec::new()) };
}

/// A server of this thread's test.
pub(crate) fn enter(kubeconfig: &Path, log: &Path) {
    SERVERS.with_borrow_mut(|s| s.push((kubeconfig.to_owned(), log.to_owned())));
}

/// It is gone.
pub(crate) fn leave(log: &Path) {
    SERVERS.with_borrow_mut(|s| s.retain(|(_, l)| l != log));
}

/// Prints what is known of this test's servers; a test that passes shows nothing of it.
pub(crate) fn print() {
    SERVERS.with_borrow(|servers| {
        for (kubeconfig, log) in servers {
            of_server(&Kubectl::new(kubeconfig));
            eprintln!("--- the server's log ends with:\n{}", tail(log));
        }
    });
}

fn of_server(kubectl: &Kubectl) {
    let shown = |arguments: &[&str]| {
        let arguments = [arguments, &["--request-timeout=5s"]].concat();
        match kubectl.run(&arguments, "") {
            Ok(ran) => eprintln!("--- kubectl {}\n{}{}", arguments.join(" "), ran.stdout, ran.stderr),
            Err(error) => eprintln!("--- kubectl {}: {error:#}", arguments.join(" ")),
        }
    };
    shown(&["get", "nodes,pods,vmi,services,endpointslices", "-A", "-o", "wide"]);
    shown(&["get", "events", "-A", "--sort-by=.lastTimestamp"]);
    let Ok(pods) = kubectl.json(&["get", "pods", "-A"]) else {
        return;
    };
    for pod in pods["items"].as_array().into_iter().flatten() {
        let conditions = pod["status"]["conditions"].as_array();
        let ready = conditions
            .into_iter()
            .flatten()
            .any(|c| c["type"] == "Ready" && c["status"] == "True");
        if let (false, Some(namespace), Some(name)) = (
            ready,
            pod["metadata"]["namespace"].as_str(),
            pod["metadata"]["name"].as_str(),
        ) {
            shown(&[
                "get",
                "pod",
                "-n",
                namespace,
                name,
                "-o",
                "yaml",
                "--show-managed-fields=false",
            ]);
            // A machine's is what its console shows.
            shown(&["logs", "-n", namespace, name, "--all-containers", "--tail=80"]);
        }
    }
}
