"""A job, from rank 0's order to its outcome: agreement of the ranks, run, and records."""
