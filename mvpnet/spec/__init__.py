"""Describe a job's resolved intent as frozen data. Standard library only: no I/O, no MPI, no qemu."""
