"""Start MPI: the launcher that started this rank, the world of all ranks, and the context of a verb."""
