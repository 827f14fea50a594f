//! Default roles and bindings.

use crate::api::OpenError;
use crate::core::Core;

impl Core {
    /// Makes what every cluster has.
    pub(crate) async fn bootstrap(&self) -> Result<(), OpenError> {
        Ok(())
    }

    /// Removes Events that are too old.
    pub(crate) async fn expire_events(&self) {}
}
