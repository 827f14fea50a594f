//! Wire forms other than JSON and YAML. Must not know verbs or resources.

pub(crate) mod protobuf;
