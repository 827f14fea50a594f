//! Wire forms other than JSON and YAML. Must not know verbs or resources.

pub(crate) mod cbor;
pub(crate) mod encode;
pub(crate) mod openapi;
pub(crate) mod protobuf;
mod special;
pub(crate) mod table;
pub(crate) mod uncbor;
pub(crate) mod write;

#[cfg(test)]
mod tests;
