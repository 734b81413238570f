"""mvpnet: virtual machines as one MPI job, joined by an Ethernet that MPI messages carry."""

__version__ = "0.1.0"
