"""From the command line to job specs, through Hydra. Rank 0 alone imports this: Hydra is slow to import."""
