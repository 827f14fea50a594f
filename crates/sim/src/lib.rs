//! Seeded simulation of the control loops.
