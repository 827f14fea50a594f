//! What pods and everything with a pod template share: defaults and checks of
//! a PodSpec (core/v1 defaults, `pkg/apis/core/validation` rules).

mod containers;
mod defaults;
mod display;
mod environment;
mod handlers;
mod mounts;
mod placement;
mod resources;
mod security;
#[cfg(test)]
mod tests;
mod update;
mod validation;
mod volumes;

pub(crate) use defaults::{default_pod, default_spec, default_template, qos_class};
pub(crate) use display::status_cells;
pub(crate) use placement::check_node_selector;
pub(crate) use update::check_update;
pub(crate) use validation::{Owner, check_template, selects, validate_spec, validate_template};
pub(crate) use volumes::check_host_path;
