"""What the guests are for: the app that runs while they do, and what is kept of it."""
