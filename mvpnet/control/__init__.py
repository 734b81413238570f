"""Hands on a running job, from another terminal: where jobs are found, and what is asked of them over a socket.

    mvpnet VERB ── client ──► control.sock ──► server, in rank 0's loop ── control messages ──► desk, in each rank's

`registry` finds the job, `wire` is the format of what is said, `console` shares a guest's serial console.
"""
