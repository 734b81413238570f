"""Find out what a host offers: programs, KVM, ports, names, and the resources that a job may use."""
