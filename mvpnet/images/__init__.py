"""What a guest boots: images fetched, built or given by the user, and how they are made ready."""
