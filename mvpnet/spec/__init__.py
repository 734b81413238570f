"""The resolved intent: what a job is to be, as frozen data. Standard library only: no I/O, no MPI, no qemu."""
