"""A job, from rank 0's announcement to its verdict: what the ranks agree on, run, record and leave."""
