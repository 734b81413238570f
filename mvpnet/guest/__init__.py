"""One guest's life on one host: its disks, its command line, its processes. Knows nothing of MPI."""
