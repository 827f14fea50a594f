//! What pods and everything with a pod template share: defaults and checks of
//! a PodSpec (core/v1 defaults, `pkg/apis/core/validation` rules).

mod defaults;
mod display;
mod validation;

pub(crate) use defaults::{default_spec, default_template, qos_class};
pub(crate) use display::status_cells;
pub(crate) use validation::{validate_spec, validate_template};
