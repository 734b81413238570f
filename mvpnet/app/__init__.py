"""What runs while the guests do: an app's steps, on the host or in guests, its output and its metrics."""
