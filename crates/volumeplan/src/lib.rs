//! Provisioning and snapshot decisions for volumes.
