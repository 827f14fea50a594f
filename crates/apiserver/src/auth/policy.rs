//! The default roles and bindings.
