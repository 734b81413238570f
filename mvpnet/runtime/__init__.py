"""What a rank's program runs on: its event loop, signals, child processes, and scratch folder."""
