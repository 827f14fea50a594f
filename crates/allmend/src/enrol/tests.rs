//! Joining, against a real API server in this process.
