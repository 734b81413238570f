"""Control of a running job from another terminal: the registry of jobs, and requests over a unix socket.

    mvpnet VERB ── client ──► control.sock ──► server, on rank 0 ── control messages ──► agent, on each rank

`registry` finds the job, `protocol` defines the messages on the socket, `rank_messages` those between ranks,
`console` shares a guest's serial console.
"""
