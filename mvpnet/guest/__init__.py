"""One guest on one host: its disks, its command line, its processes. Independent of MPI."""
