//! The scheduler, as a pure decision.
