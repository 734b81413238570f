"""The qemu programs of a host: which they are, what they can do, and how they are run."""
