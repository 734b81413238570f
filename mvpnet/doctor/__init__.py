"""`mvpnet doctor`: whether the hosts of a launch can do what a job would ask of them, told before anything boots.

    resources   what all ranks on a host ask of it together; jobs look at this too
    facts       what is found at one rank, looked up there
    checks      what to make of it: pure functions of facts and spec
    mpi, clocks about the launch itself, between the ranks
    survey      all ranks together, gathered on rank 0
    command     the verb, its table and its JSON

docs/doctor.md lists the checks.
"""
