//! Pod network, services and host ports on one node.
