"""Sweeps: a job a point, their results in one table, resumed where they ended."""
