"""HTML pages of runs and sweeps, with their charts."""
