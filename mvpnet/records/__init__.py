"""What a run leaves in its folder: manifest, inputs, result, samples; archives, comparison and replay of it."""
