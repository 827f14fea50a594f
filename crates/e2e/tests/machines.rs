//! Virtual machines in real QEMU.

use anyhow::{Result, ensure};
use testkit::{Server, until};

use crate::{MACHINE, POD, sleeper, with_node};

/// A machine that counts its boots on a claim of its own, with a Service.
pub const MICRO: &str = r##"
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: micro}
spec:
  runStrategy: Always
  template:
    metadata: {labels: {app: micro}}
    spec:
      terminationGracePeriodSeconds: 20
      domain:
        cpu: {cores: 1}
        memory: {guest: 128Mi}
        firmware:
          kernelBoot:
            kernelArgs: console=ttyS0 quiet
            container: {image: "allmend.local/micro-guest:1", kernelPath: /boot/vmlinuz, initrdPath: /boot/initrd}
        devices:
          autoattachGraphicsDevice: false
          disks:
          - {name: seed, disk: {bus: virtio}}
          - {name: data, disk: {bus: virtio}}
          interfaces: [{name: default, masquerade: {}}]
      networks: [{name: default, pod: {}}]
      volumes:
      - name: seed
        cloudInitNoCloud: {userData: "#cloud-config\n"}
      - name: data
        persistentVolumeClaim: {claimName: micro-data}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: micro-data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 64Mi}}}
---
apiVersion: v1
kind: Service
metadata: {name: micro}
spec: {selector: {app: micro}, ports: [{port: 80}]}
"##;

fn page(server: &Server) -> Result<String> {
    server.kubectl().ok(&[
        "exec",
        "client",
        "--",
        "timeout",
        "5",
        "wget",
        "-q",
        "-O",
        "-",
        "http://micro/",
    ])
}

/// What the machine says of itself, once it does.
pub fn wait_page(server: &Server) -> Result<String> {
    until("the machine's page through its Service", MACHINE, || {
        page(server).map_err(|e| e.to_string())
    })
}

#[test]
fn a_machine_boots_serves_and_keeps_its_data() -> Result<()> {
    let server = with_node()?;
    server.import(&["micro-guest"])?;
    let kubectl = server.kubectl();
    kubectl.apply(MICRO)?;
    kubectl.apply(&sleeper("client"))?;
    kubectl.wait(&["--for=condition=Ready", "pod/client"], POD)?;
    let first = wait_page(&server)?;
    ensure!(first.contains("micro"), "{first}");

    let row = kubectl.ok(&["get", "vm", "micro", "--no-headers"])?;
    ensure!(row.contains("Running") && row.contains("True"), "{row}");
    let vmi = kubectl.json(&["get", "vmi", "micro"])?;
    ensure!(vmi["status"]["phase"] == "Running", "{}", vmi["status"]);
    let pods = kubectl.json(&["get", "pods", "-l", "kubevirt.io=virt-launcher"])?;
    let pod = pods["items"][0]["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    ensure!(pod.starts_with("virt-launcher-micro-"), "{pod}");
    ensure!(pods["items"][0]["status"]["podIP"] == vmi["status"]["interfaces"][0]["ipAddress"]);
    ensure!(
        !kubectl.ok(&["logs", &pod])?.is_empty(),
        "the serial console is the log"
    );

    // A stop and start through the API keeps the disk: the guest counts its boots on it.
    let stop = r#"{"spec":{"runStrategy":"Halted"}}"#;
    kubectl.ok(&["patch", "vm", "micro", "--type=merge", "-p", stop])?;
    until("the machine to stop", MACHINE, || {
        let row = kubectl
            .ok(&["get", "vm", "micro", "--no-headers"])
            .map_err(|e| e.to_string())?;
        if row.contains("Stopped") { Ok(()) } else { Err(row) }
    })?;
    let start = r#"{"spec":{"runStrategy":"Always"}}"#;
    kubectl.ok(&["patch", "vm", "micro", "--type=merge", "-p", start])?;
    let second = wait_page(&server)?;
    ensure!(boots(&second) == boots(&first) + 1, "{first} then {second}");

    kubectl.ok(&["delete", "vm", "micro", "--timeout=60s"])?;
    Ok(())
}

/// The micro guest prints `boots: N` on its page.
pub fn boots(page: &str) -> u32 {
    page.split("boots:")
        .nth(1)
        .and_then(|r| r.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

#[test]
fn a_machine_outlives_the_server() -> Result<()> {
    let mut server = with_node()?;
    server.import(&["micro-guest"])?;
    let kubectl = server.kubectl();
    kubectl.apply(MICRO)?;
    kubectl.apply(&sleeper("client"))?;
    kubectl.wait(&["--for=condition=Ready", "pod/client"], POD)?;
    let before = wait_page(&server)?;
    for _ in 0..3 {
        server.kill()?;
        server.launch()?;
    }
    let after = wait_page(&server)?;
    ensure!(
        boots(&before) == boots(&after),
        "the machine went on: {before} then {after}"
    );
    let restarts = kubectl.json(&["get", "pod", "client"])?["status"]["containerStatuses"][0]["restartCount"].clone();
    ensure!(restarts == 0, "and so did the container");
    Ok(())
}

#[test]
fn a_missing_claim_is_named() -> Result<()> {
    let server = with_node()?;
    let kubectl = server.kubectl();
    kubectl.apply(&MICRO.replace("claimName: micro-data", "claimName: nowhere"))?;
    until("ErrorPvcNotFound", POD, || {
        let row = kubectl
            .ok(&["get", "vm", "micro", "--no-headers"])
            .map_err(|e| e.to_string())?;
        if row.contains("ErrorPvcNotFound") {
            Ok(())
        } else {
            Err(row)
        }
    })?;
    let vmi = kubectl.json(&["get", "vmi", "micro"])?;
    ensure!(
        vmi["status"]["conditions"].to_string().contains("nowhere"),
        "{}",
        vmi["status"]
    );
    Ok(())
}

#[test]
fn a_disk_that_cannot_be_read_is_named() -> Result<()> {
    let server = with_node()?;
    let kubectl = server.kubectl();
    // An image without a disk in it, and one that is nowhere.
    for (name, image, words) in [
        ("hollow", "allmend.local/busybox:1", "disk"),
        ("nowhere", "127.0.0.1:1/none/such:9", "nowhere"),
    ] {
        kubectl.apply(&format!(
            r#"{{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {{"name": "{name}"}},
            "spec": {{"runStrategy": "Always", "template": {{"spec": {{
                "domain": {{"memory": {{"guest": "64Mi"}}, "devices": {{"disks": [{{"name": "system", "disk": {{"bus": "virtio"}}}}]}}}},
                "volumes": [{{"name": "system", "containerDisk": {{"image": "{image}"}}}}]}}}}}}}}"#
        ))?;
        let told = until("the reason", POD, || {
            let vmi = kubectl.json(&["get", "vmi", name]).map_err(|e| e.to_string())?;
            let events = kubectl.ok(&["get", "events"]).map_err(|e| e.to_string())?;
            let said = format!("{} {events}", vmi["status"]["conditions"]);
            if said.contains("system") && said.contains(words) {
                Ok(said)
            } else {
                Err(said)
            }
        })?;
        ensure!(told.contains("system"), "{told}");
    }
    let node = kubectl.ok(&["get", "nodes", "--no-headers"])?;
    ensure!(node.contains(" Ready "), "{node}");
    Ok(())
}

/// Does something to the machine `micro` or its instance, by the path that virtctl uses.
fn act(server: &Server, kind: &str, action: &str, options: &str) -> Result<String> {
    let path = format!("/apis/subresources.kubevirt.io/v1/namespaces/default/{kind}/micro/{action}");
    server
        .kubectl()
        .ok_with(&["replace", "--raw", &path, "-f", "-"], options)
}

/// The instance's uid, and what it says at a path.
fn instance_at(server: &Server, pointer: &str) -> Result<(String, serde_json::Value)> {
    let vmi = server.kubectl().json(&["get", "vmi", "micro"])?;
    let uid = vmi["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    Ok((uid, vmi.pointer(pointer).cloned().unwrap_or_default()))
}

fn wait_boots(server: &Server, wanted: u32) -> Result<()> {
    until("the guest to boot again", MACHINE, || {
        let said = page(server).map_err(|e| e.to_string())?;
        if boots(&said) == wanted { Ok(()) } else { Err(said) }
    })
}

#[test]
fn a_machine_is_reset_rebooted_and_restarted_at_once() -> Result<()> {
    const INSTANCE: &str = "virtualmachineinstances";
    let server = with_node()?;
    server.import(&["micro-guest"])?;
    let kubectl = server.kubectl();
    kubectl.apply(MICRO)?;
    kubectl.apply(&sleeper("client"))?;
    kubectl.wait(&["--for=condition=Ready", "pod/client"], POD)?;
    let first = boots(&wait_page(&server)?);
    let (uid, _) = instance_at(&server, "")?;

    act(&server, INSTANCE, "pause", r#"{"dryRun": ["All"]}"#)?;
    act(&server, INSTANCE, "pause", "{}")?;
    kubectl.wait(&["--for=condition=Paused", "vmi/micro"], POD)?;
    let path = format!("/apis/subresources.kubevirt.io/v1/namespaces/default/{INSTANCE}/micro/pause");
    let refused = kubectl.refused(&["replace", "--raw", &path, "-f", "-"], "{}")?;
    ensure!(refused.contains("already paused"), "{refused}");
    act(&server, INSTANCE, "unpause", "{}")?;

    // The same QEMU both times: the reset line, then the power button with another start after it.
    act(&server, INSTANCE, "reset", "{}")?;
    wait_boots(&server, first + 1)?;
    act(&server, INSTANCE, "softreboot", "{}")?;
    wait_boots(&server, first + 2)?;
    ensure!(instance_at(&server, "")?.0 == uid, "a reboot makes no new instance");

    act(&server, "virtualmachines", "restart", r#"{"gracePeriodSeconds": 0}"#)?;
    wait_boots(&server, first + 3)?;
    ensure!(instance_at(&server, "")?.0 != uid, "a restart does");
    kubectl.ok(&["delete", "vm", "micro", "--timeout=60s"])?;
    Ok(())
}

#[test]
fn a_disk_comes_and_goes_while_the_machine_runs() -> Result<()> {
    const MORE: &str = r#"{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "more"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "16Mi"}}}}"#;
    const ADD: &str = r#"{"name": "extra", "disk": {"disk": {"bus": "scsi"}},
        "volumeSource": {"persistentVolumeClaim": {"claimName": "more"}}}"#;
    let mut server = with_node()?;
    server.import(&["micro-guest"])?;
    let kubectl = server.kubectl();
    kubectl.apply(MICRO)?;
    kubectl.apply(MORE)?;
    kubectl.wait(&["--for=condition=Ready", "vmi/micro"], MACHINE)?;
    act(&server, "virtualmachines", "addvolume", ADD)?;
    let wait_phase = |server: &Server, wanted: &str| {
        until("the disk's phase", MACHINE, || {
            let (_, all) = instance_at(server, "/status/volumeStatus").map_err(|e| e.to_string())?;
            let disk = all.as_array().into_iter().flatten().find(|v| v["name"] == "extra");
            let phase = disk.map_or("", |d| d["phase"].as_str().unwrap_or_default());
            if phase == wanted { Ok(()) } else { Err(all.to_string()) }
        })
    };
    wait_phase(&server, "Ready")?;
    // It stays through a restart of ours, and comes again after one of the machine.
    server.kill()?;
    server.launch()?;
    let (uid, _) = instance_at(&server, "")?;
    wait_phase(&server, "Ready")?;
    act(&server, "virtualmachines", "restart", r#"{"gracePeriodSeconds": 0}"#)?;
    until("another instance", MACHINE, || match instance_at(&server, "") {
        Ok((other, _)) if other != uid => Ok(()),
        Ok(_) => Err("the old one".into()),
        Err(e) => Err(e.to_string()),
    })?;
    wait_phase(&server, "Ready")?;
    act(&server, "virtualmachines", "removevolume", r#"{"name": "extra"}"#)?;
    wait_phase(&server, "")?;
    let pods = server
        .kubectl()
        .ok(&["get", "pods", "-l", "kubevirt.io=hotplug-disk", "-o", "name"])?;
    ensure!(pods.trim().is_empty(), "{pods}");
    server.kubectl().ok(&["delete", "vm", "micro", "--timeout=60s"])?;
    Ok(())
}
