//! A virtual machine as a QEMU command line, computed as a value.
