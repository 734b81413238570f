"""cloud-init: the user-data and seed for a guest, and the status that the guest reports."""
