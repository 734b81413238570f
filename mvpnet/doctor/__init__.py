"""`mvpnet doctor`: whether the hosts of a launch can do what a job would ask of them, told before anything boots.

    facts       look up what is found at one rank
    checks      judge it: pure functions of facts and spec
    mpi, clocks look at the launch itself, between the ranks
    survey      bring all ranks together on rank 0

The resources that all ranks of a host need together are checked in `host.resources`, which jobs use too; the verb, its
table and its JSON are in `cli.doctor`. docs/doctor.md lists the checks.
"""
