//! The node agent: the life of pods.
