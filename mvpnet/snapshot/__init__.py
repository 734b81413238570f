"""Saves of whole jobs: `mvpnet save NAME` stops all guests and saves disks and memory, `resume=NAME` continues them.

    mvpnet save ── control.client ──► control.sock ──► coordinator, rank 0 ── control messages ──► agent, each rank
    mpirun mvpnet resume=NAME ── job.resume: the saved spec ──► a usual job, with `restore` in each rank's job.prepare

`layout` defines a save's files, `machine` the properties of a guest that must be the same when it is resumed.
`disk_copy` starts `copy_disks`, the program that copies a rank's disks.
"""
