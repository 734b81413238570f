"""Switch frames between guests: links to qemu on one side, MPI messages on the other."""
