"""What a host has: programs, KVM, ports, names, resources, and what the batch system lets a job take of them."""
