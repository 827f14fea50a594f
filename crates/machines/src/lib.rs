//! QEMU processes: the pod runtime of virtual machines.
