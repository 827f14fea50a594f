//! Custom resources with an unmodified kubectl.

use std::time::Duration;

use anyhow::{Result, ensure};
use testkit::until;

const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: crontabs.stable.example.com}
spec:
  group: stable.example.com
  scope: Namespaced
  names: {plural: crontabs, singular: crontab, kind: CronTab, shortNames: [ct], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}}
    additionalPrinterColumns:
    - {name: Spec, type: string, description: When it runs, jsonPath: .spec.cronSpec}
    - {name: Replicas, type: integer, jsonPath: .spec.replicas}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [cronSpec]
            properties:
              cronSpec: {type: string, description: When it runs., pattern: '^(\S+ ){4}\S+$'}
              image: {type: string}
              replicas: {type: integer, minimum: 1, maximum: 10, default: 1}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
"#;

fn tab(name: &str, spec: &str) -> String {
    format!("apiVersion: stable.example.com/v1\nkind: CronTab\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

#[test]
fn a_custom_kind_feels_like_a_built_in_one() -> Result<()> {
    let server = crate::api_only()?;
    let kubectl = server.kubectl();
    kubectl.apply(DEFINITION)?;
    kubectl.ok(&[
        "wait",
        "--for=condition=Established",
        "--timeout=10s",
        "crd/crontabs.stable.example.com",
    ])?;
    kubectl.apply(&tab("mine", "{cronSpec: '* * * * */5', image: awesome}"))?;
    let table = kubectl.ok(&["get", "ct"])?;
    ensure!(
        table.starts_with("NAME   SPEC          REPLICAS   AGE\nmine   * * * * */5   1          "),
        "{table}"
    );
    let all = kubectl.ok(&["get", "all"])?;
    ensure!(all.contains("crontab.stable.example.com/mine"), "{all}");
    let explained = kubectl.ok(&["explain", "ct.spec.cronSpec"])?;
    ensure!(explained.contains("When it runs."), "{explained}");
    let refused = kubectl.run(&["apply", "-f", "-"], &tab("bad", "{cronSpec: x, replicas: 11}"))?;
    for words in [
        "The CronTab \"bad\" is invalid",
        "spec.cronSpec: Invalid value: \"x\": spec.cronSpec in body should match",
        "spec.replicas: Invalid value: 11: spec.replicas in body should be less than or equal to 10",
    ] {
        ensure!(!refused.ok && refused.stderr.contains(words), "{}", refused.stderr);
    }
    let unknown = kubectl.run(
        &["apply", "-f", "-"],
        &tab("bad", "{cronSpec: '1 1 1 1 1', colour: red}"),
    )?;
    ensure!(
        unknown.stderr.contains("unknown field \"spec.colour\""),
        "{}",
        unknown.stderr
    );
    kubectl.ok(&["scale", "ct/mine", "--replicas=3"])?;
    kubectl.ok(&[
        "patch",
        "ct/mine",
        "--type=merge",
        "--subresource=status",
        "-p",
        r#"{"status":{"replicas":3}}"#,
    ])?;
    let mine = kubectl.json(&["get", "ct", "mine"])?;
    ensure!(
        mine["spec"]["replicas"] == 3 && mine["status"]["replicas"] == 3,
        "{mine}"
    );
    // Applied again, nothing changes; changed, the difference is shown.
    let again = kubectl.run(
        &["apply", "-f", "-"],
        &tab("mine", "{cronSpec: '* * * * */5', image: awesome}"),
    )?;
    ensure!(again.stdout.contains("unchanged"), "{}", again.stdout);
    let differs = kubectl.run(
        &["diff", "-f", "-"],
        &tab("mine", "{cronSpec: '* * * * */6', image: awesome}"),
    )?;
    ensure!(
        differs.stdout.contains("+  cronSpec: '* * * * */6'"),
        "{}",
        differs.stdout
    );
    // What it owns goes with it.
    let uid = mine["metadata"]["uid"].as_str().unwrap_or_default();
    kubectl.apply(&format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: owned\n  ownerReferences: [{{apiVersion: stable.example.com/v1, kind: CronTab, name: mine, uid: {uid}}}]\n"
    ))?;
    kubectl.ok(&["delete", "ct", "mine"])?;
    let gone = |what: &str| {
        until(what, Duration::from_secs(30), || {
            let ran = kubectl
                .run(&["get", what, "-o", "name"], "")
                .map_err(|e| e.to_string())?;
            if ran.stderr.contains("NotFound") {
                Ok(())
            } else {
                Err(ran.stdout)
            }
        })
    };
    gone("configmap/owned")?;
    // A namespace takes them along, and a definition too.
    kubectl.ok(&["create", "namespace", "farm"])?;
    let in_farm = tab("theirs", "{cronSpec: '1 1 1 1 1'}").replace("name: theirs", "name: theirs, namespace: farm");
    kubectl.apply(&in_farm)?;
    kubectl.ok(&["delete", "namespace", "farm", "--timeout=30s"])?;
    kubectl.apply(&tab("last", "{cronSpec: '1 1 1 1 1'}"))?;
    kubectl.ok(&["delete", "crd", "crontabs.stable.example.com", "--timeout=30s"])?;
    // kubectl may still have the old discovery in its cache.
    let after = kubectl.run(&["get", "ct"], "")?.stderr;
    ensure!(
        after.contains("doesn't have a resource type \"ct\"")
            || after.contains("could not find the requested resource"),
        "{after}"
    );
    Ok(())
}
