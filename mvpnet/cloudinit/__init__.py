"""cloud-init on both sides: the user-data and the seed that a guest gets, and how far it says it is."""
