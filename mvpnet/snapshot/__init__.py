"""Saves of whole jobs: `mvpnet save NAME` freezes all guests and keeps disks and memory, `resume=NAME` goes on from it.

    mvpnet save ── hands.client ──► control.sock ──► saver, in rank 0's loop ── control messages ──► keeper, in each
    mpirun mvpnet resume=NAME ── resume: the saved spec ──► a job as any other, with `resumed` in each rank's prepare

`folder` is what a save looks like on disk, `machine` what of a guest has to be the same when it goes on.
"""
