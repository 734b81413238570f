"""Provide what a rank's program runs on: event loop, signals, child processes, and scratch folder."""
