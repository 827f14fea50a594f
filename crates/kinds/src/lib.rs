//! The registry of built-in kinds: one file per kind.
