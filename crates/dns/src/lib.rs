//! Cluster DNS, answered on the node.
