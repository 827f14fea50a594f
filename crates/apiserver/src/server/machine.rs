//! `subresources.kubevirt.io`: from a path to what is done. Must not decide:
//! that is `subresources::machines`.

use http::Response;
use meta::Status;
use serde_json::{Value, json};

use super::dispatch::Admitted;
use super::route::ResourcePath;
use super::subresource::with_query;
use super::{Body, Frontend, intake, respond};
use crate::registry::{Call, Target};
use crate::subresources::machines;

/// The version of KubeVirt whose API this is.
const API: &str = "v1.8.0";

impl Frontend {
    /// A subresource of a machine, in KubeVirt's own group.
    pub(super) async fn machine_subresource(
        &self,
        admitted: Admitted,
        path: ResourcePath,
        verb: &str,
    ) -> Result<Response<Body>, Status> {
        if !machines::VERSIONS.contains(&path.version.as_str()) {
            return Err(machines::unknown());
        }
        let reads = matches!(verb, "get" | "list");
        if path.name.is_empty() {
            return match path.resource.as_str() {
                "version" if reads => Ok(json_answer(200, &self.machine_version())),
                "healthz" if reads => Ok(json_answer(
                    200,
                    &json!({"apiserver": {"connectivity": "ok", "version": self.core.config.git_version}}),
                )),
                "guestfs" if reads => {
                    let why = "this cluster names no image with libguestfs";
                    Ok(json_answer(
                        500,
                        &json!({"guestfs": {"status": "failed", "error": why}}),
                    ))
                }
                "expand-vm-spec" if verb == "update" && !path.namespace.is_empty() => {
                    let (_, headers, body) = self.take(&admitted.user, &admitted.query, admitted.request).await?;
                    let machine = intake::object(&headers, &body)?.value;
                    Ok(json_answer(200, &machines::expand_given(machine, &path.namespace)?))
                }
                _ => Err(machines::unknown()),
            };
        }
        let action = path.subresource.as_str();
        match path.resource.as_str() {
            _ if action == "sev" => Err(machines::no_feature("WorkloadEncryptionSEV")),
            _ if action == "objectgraph" => Err(machines::no_feature("ObjectGraph")),
            _ if action == "evacuate" && path.rest == "cancel" && verb == "update" => {
                self.cancel_evacuation(admitted, &path).await
            }
            "virtualmachines" if machines::ACTIONS.contains(&action) && verb == "update" => {
                self.change_machine(admitted, &path, "virtualmachines").await
            }
            "virtualmachineinstances" if matches!(action, "addvolume" | "removevolume") && verb == "update" => {
                self.change_machine(admitted, &path, "virtualmachineinstances").await
            }
            "virtualmachines" if action == "expand-spec" && reads => {
                let resource = self.machine_kind("virtualmachines")?;
                let target = Target::of(&resource, &path.namespace, &path.name);
                let machine = self.core.current(target);
                let machine = machine.map_err(|e| machines::named(e, "virtualmachine", &path.name))?;
                let expanded = machines::expand(machine.to_value()).map_err(Status::internal)?;
                Ok(json_answer(200, &expanded))
            }
            "virtualmachineinstances" if machines::ON_NODE.contains(&action) => self.at_node(admitted, &path).await,
            "virtualmachines" if action == "portforward" => self.at_node(admitted, &path).await,
            _ => Err(machines::unknown()),
        }
    }

    fn machine_version(&self) -> Value {
        let config = &self.core.config;
        json!({"gitVersion": API, "gitCommit": config.git_version, "gitTreeState": "clean", "buildDate": "",
            "goVersion": "none", "compiler": "rustc",
            "platform": format!("{}/amd64", std::env::consts::OS)})
    }

    fn machine_kind(&self, plural: &str) -> Result<std::sync::Arc<crate::resource::Resource>, Status> {
        let found = self.core.catalog.find("kubevirt.io", plural).cloned();
        found.ok_or_else(machines::unknown)
    }

    async fn change_machine(
        &self,
        admitted: Admitted,
        path: &ResourcePath,
        plural: &str,
    ) -> Result<Response<Body>, Status> {
        let resource = self.machine_kind(plural)?;
        let action = path.subresource.as_str();
        let target = Target::of(&resource, &path.namespace, &path.name).sub(action);
        let (call, options) = self.options(admitted).await?;
        self.core.act_on_machine(&call, target, action, &options).await?;
        Ok(respond::bytes(202, respond::JSON, Vec::new()))
    }

    /// The body, if there is one; its `dryRun` is as good as the query's.
    async fn options(&self, admitted: Admitted) -> Result<(Call, Value), Status> {
        let (mut call, headers, body): (Call, _, _) =
            self.take(&admitted.user, &admitted.query, admitted.request).await?;
        let options = if body.is_empty() {
            Value::Null
        } else {
            intake::object(&headers, &body)?.value
        };
        call.dry_run |= is_dry(&options);
        Ok((call, options))
    }

    async fn cancel_evacuation(&self, admitted: Admitted, path: &ResourcePath) -> Result<Response<Body>, Status> {
        let resource = self.machine_kind("virtualmachineinstances")?;
        if path.resource == "virtualmachines" {
            let machine = self.machine_kind("virtualmachines")?;
            let found = self.core.current(Target::of(&machine, &path.namespace, &path.name));
            let found = found.map_err(|e| machines::named(e, "virtualmachine", &path.name))?;
            machines::has_instance(&path.name, &found.to_value())?;
        }
        let (call, options) = self.options(admitted).await?;
        let target = Target::of(&resource, &path.namespace, &path.name);
        self.core.cancel_evacuation(&call, target, &options).await?;
        Ok(respond::bytes(200, respond::JSON, Vec::new()))
    }

    /// Passes a request on to the node where the instance runs.
    async fn at_node(&self, admitted: Admitted, path: &ResourcePath) -> Result<Response<Body>, Status> {
        let resource = self.machine_kind("virtualmachineinstances")?;
        let action = path.subresource.as_str();
        let target = Target::of(&resource, &path.namespace, &path.name);
        let instance = self.core.current(target);
        let instance = instance.map_err(|e| machines::named(e, "virtualmachineinstance", &path.name))?;
        let instance = instance.to_value();
        machines::check(action, &path.name, &instance)?;
        machines::reachable(action, &instance)?;
        let node = instance["status"]["nodeName"].as_str().unwrap_or_default();
        if node.is_empty() {
            return Err(target.conflict("VMI is not running"));
        }
        let mut rest = String::new();
        if !path.rest.is_empty() {
            rest = format!("/{}", path.rest);
        }
        let onward = format!("/machines/{}/{}/{action}{rest}", path.namespace, path.name);
        let to = self.on_node(node, with_query(&onward, admitted.request.uri().query()))?;
        self.pass_on(admitted.request, to).await
    }
}

fn is_dry(options: &Value) -> bool {
    let mut all = options["dryRun"].as_array().into_iter().flatten();
    all.any(|d| d == "All")
}

fn json_answer(code: u16, value: &Value) -> Response<Body> {
    respond::bytes(code, respond::JSON, value.to_string().into_bytes())
}
