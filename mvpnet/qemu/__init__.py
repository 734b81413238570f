"""Find and run the qemu programs of a host, and query their features."""
