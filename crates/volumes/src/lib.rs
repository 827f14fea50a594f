//! Local volumes: provisioning, mounting, block files.
