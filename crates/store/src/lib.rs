//! The revisioned key-value store: trait, embedded engine, conformance suite.
