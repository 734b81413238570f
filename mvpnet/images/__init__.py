"""Provide the images that guests boot: fetched, built, or given by the user."""
