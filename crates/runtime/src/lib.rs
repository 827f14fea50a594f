//! The port between the node agent and whatever runs a pod.
