//! The control loops, as pure plans.
