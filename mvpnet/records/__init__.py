"""Records of a run in its folder (manifest, inputs, result, samples), and archives, comparison and replay of runs."""
