//! Requests that are passed on to a node.

use http::Response;
use meta::Status;

use super::dispatch::Admitted;
use super::route::ResourcePath;
use super::{Body, Frontend};
use crate::registry::Target;

impl Frontend {
    /// A subresource with a handler of its own.
    pub(super) async fn subresource(
        &self,
        _admitted: Admitted,
        _target: Target<'_>,
        _verb: &str,
        _rest: &str,
    ) -> Result<Response<Body>, Status> {
        Err(Status::no_such_path())
    }

    /// A subresource of a machine.
    pub(super) async fn machine_subresource(
        &self,
        _admitted: Admitted,
        _path: ResourcePath,
        _verb: &str,
    ) -> Result<Response<Body>, Status> {
        Err(Status::no_such_path())
    }
}
