"""The launch: which launcher started us, the world of its ranks, and what every rank of a verb gets."""
