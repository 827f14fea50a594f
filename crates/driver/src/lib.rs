//! Runs plans: queues, retries, leases, actions.
