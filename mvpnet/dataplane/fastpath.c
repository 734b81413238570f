/* Forward the most common frames in compiled code: unicast from the guest to a peer that has a credit, and from a peer
 * to a guest that reads. Everything else (broadcast, ARP, queues, timeouts, malformed input, the end of a job) is left
 * to Python: other frames and messages are handed over unchanged. fastpath.py describes how the two share the work.
 *
 * This is a plain library for ctypes, no Python extension, and is not linked to any MPI. It gets the addresses of the
 * functions of the MPI library that mpi4py has loaded, and handles as integers. Handles are passed as intptr_t where
 * MPI has an int (MPICH) or a pointer (Open MPI): in the calling conventions of x86-64 and AArch64 both take one
 * register, of which the callee of an int reads the lower half. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum {
    LENGTH = 4,
    HEAD = LENGTH + 14, /* length and Ethernet header */
    MAX_FRAME = 4096 + 65536,
    SLOTS = 8,
    FLIGHTS = 64,
    DEAD = 2,
    LOOKS_AFTER_A_RING = 100, /* polls for the message, half a microsecond each */
    UNICAST = 1,
    BROADCAST = 2,
    CONTROL = 3,
};

/* Results of fastpath_run(): what its caller does next. */
enum { LOOK, SLEEP, TURN };
/* Flags: what the compiled part may do (MAY_SEND, MAY_DELIVER), whether peers sleep between messages as this rank does
 * (SPARSE), whether Python has a turn after it (TURN_FOLLOWS), and whether to receive unicasts although there is no
 * guest to deliver them to (TAKE). */
enum { MAY_SEND = 1, MAY_DELIVER = 2, SPARSE = 4, TURN_FOLLOWS = 8, TAKE = 16 };

static const double STUCK_AFTER_S = 2e-3;

typedef intptr_t handle;

struct tuning { /* the same as fastpath._Tuning; tuning.py describes each field */
    int messages_a_turn, alone_below_bytes, datagrams_a_turn, frame_costs_bytes;
    int bulk_bytes, worth_a_nap_bytes, longest_nap;
    double bulk_lasts_s, ring_after_s, ring_again_s, ring_again_max_s;
};

struct setup { /* the same as fastpath._Setup */
    int (*issend)(const void *, int, handle, int, int, handle, void *);
    int (*irecv)(void *, int, handle, int, int, handle, void *);
    int (*test)(void *, int *, void *);
    int (*improbe)(int, int, handle, int *, void *, void *);
    int (*imrecv)(void *, int, handle, void *, void *);
    int (*get_count)(const void *, handle, int *);
    int (*cancel)(void *);
    int (*test_cancelled)(const void *, int *);
    handle comm, byte;
    int any_source, any_tag, source_at, tag_at; /* the last two are offsets in an MPI_Status */
    int rank, size, posts, credits, chunk_bytes, longest_frame, near_fd, far_fd;
    double awake_s, gather_s;
    struct tuning tuning;
};

struct shared { /* the same as fastpath.Shared: Python reads and writes it at any time */
    int64_t frames_from_guest, bytes_from_guest, frames_to_guest, bytes_to_guest, frames_above_mtu, messages_sent,
        messages_received, doorbells_rung;
    double busy_at_s;
    int64_t *bytes_to; /* unicast from the guest, by rank */
    uint8_t *held;     /* by rank: Python has frames queued for it, which must go first; DEAD: it receives nothing */
    char *buffer;      /* receives messages: chunk_bytes; NULL while Python has it */
    int32_t link_fd;   /* -1: none */
    int32_t link_kind; /* SOCK_STREAM or SOCK_DGRAM */
    int32_t link_gone; /* errno, or -1 at end of file */
    int32_t too_long;  /* number of datagrams above MAX_FRAME */
    int32_t stuck;     /* the data read from the guest is left to Python */
    int32_t flights;   /* messages that peers have not received yet */
    int32_t arrived;   /* a message is left to Python: 1, or -1 if it was too long and is lost */
    int32_t source, tag, size_bytes, sent_bytes;
    int32_t delivering; /* frames of a message that the guest has taken in part */
    int32_t proven; /* a ring has been received from another host */
    int32_t mpi_error;
};

struct peer {
    int in_flight;
    double heard_s, rung_s, ring_wait_s;
    int bell_fd; /* -1: cannot be rung */
    socklen_t address_bytes;
    char address[40];
};

struct slot {
    char *data;
    int flights;
};

struct flight {
    _Alignas(16) char request[16];
    struct peer *peer;
    struct slot *slot;
};

struct fastpath {
    struct shared shared; /* first, where fastpath.py expects it */
    struct setup mpi;
    struct peer *peers;
    struct slot slots[SLOTS + 1]; /* the last one is for data that Python gives back: no message uses it */
    struct slot *reading;
    int at, stop;         /* range of data in `reading` that is not sent yet */
    double blocked_s;     /* since when its peer has no credit; 0 if it has */
    struct flight flights[FLIGHTS];
    int receiving; /* 1: a receive is posted; 2: a probed message is being received */
    int too_long;  /* the message is received into `spill` */
    char *spill;
    int cancelled;
    double delivering_s; /* since when the guest has taken nothing of the message */
    double bulk_until_s, nap_s;
    int64_t gathered;
    _Alignas(16) char request[16], message[16], status[128];
};

static double clock_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double shorter(double a, double b) { return a < b ? a : b; }

static uint32_t big_endian(const char *at) {
    const unsigned char *b = (const unsigned char *)at;
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

static void put_length(char *at, uint32_t n) {
    at[0] = (char)(n >> 24), at[1] = (char)(n >> 16), at[2] = (char)(n >> 8), at[3] = (char)n;
}

/* Return the rank with this MAC, or -1. */
static int64_t rank_of_mac(const char *mac) {
    return mac[0] == 0x52 && mac[1] == 0x55 ? (int64_t)big_endian(mac + 2) : -1;
}

static int failed(struct fastpath *e, int code) {
    if (code) e->shared.mpi_error = code;
    return code;
}

struct fastpath *fastpath_new(const struct setup *setup) {
    struct fastpath *e = calloc(1, sizeof *e);
    if (!e) return NULL;
    e->mpi = *setup;
    e->shared.link_fd = -1;
    e->peers = calloc((size_t)setup->size, sizeof *e->peers);
    e->shared.bytes_to = calloc((size_t)setup->size, sizeof *e->shared.bytes_to);
    e->shared.held = calloc((size_t)setup->size, 1);
    for (int i = 0; i <= SLOTS; i++) e->slots[i].data = malloc((size_t)setup->chunk_bytes);
    for (int i = 0; i <= SLOTS; i++)
        if (!e->slots[i].data || !e->peers || !e->shared.bytes_to || !e->shared.held) return NULL;
    for (int i = 0; i < setup->size; i++) e->peers[i].bell_fd = -1, e->peers[i].ring_wait_s = setup->tuning.ring_after_s;
    e->reading = &e->slots[0];
    e->nap_s = setup->gather_s;
    return e;
}

/* Free all memory. Call it only when nothing is in flight any more. */
void fastpath_free(struct fastpath *e) {
    for (int i = 0; i <= SLOTS; i++) free(e->slots[i].data);
    free(e->spill);
    free(e->shared.bytes_to);
    free(e->shared.held);
    free(e->peers);
    free(e);
}

void fastpath_bell(struct fastpath *e, int rank, int fd, const void *address, int bytes) {
    struct peer *peer = &e->peers[rank];
    if (bytes > (int)sizeof peer->address) return;
    memcpy(peer->address, address, (size_t)bytes);
    peer->address_bytes = (socklen_t)bytes;
    peer->bell_fd = fd;
}

/* -- sending ------------------------------------------------------------------------------------------------------- */

static void ring(struct fastpath *e, struct peer *peer, double now_s) {
    peer->rung_s = now_s;
    if (peer->bell_fd < 0) return;
    /* A full socket has been rung already, and a closed one has no owner. */
    (void)!sendto(peer->bell_fd, "", 0, MSG_DONTWAIT | MSG_NOSIGNAL, (void *)peer->address, peer->address_bytes);
    e->shared.doorbells_rung++;
}

/* Ring every peer that has yet to receive a message, as this rank is about to sleep. */
void fastpath_ring_all(struct fastpath *e) {
    double now_s = clock_s();
    for (int i = 0; i < e->shared.flights; i++) {
        struct peer *peer = e->flights[i].peer;
        if (peer->rung_s < peer->heard_s) ring(e, peer, now_s);
    }
}

/* Return the credits of received messages, and ring peers that seem to sleep. */
static int retire(struct fastpath *e, double now_s) {
    int moved = 0;
    for (int i = 0; i < e->shared.flights;) {
        struct flight *flight = &e->flights[i];
        struct peer *peer = flight->peer;
        int done = 0;
        if (failed(e, e->mpi.test(flight->request, &done, e->status))) return 0;
        if (done) {
            moved = 1;
            peer->in_flight--;
            peer->heard_s = now_s;
            peer->ring_wait_s = e->mpi.tuning.ring_after_s;
            flight->slot->flights--;
            *flight = e->flights[--e->shared.flights];
            continue;
        }
        if (now_s - peer->heard_s > peer->ring_wait_s && now_s - peer->rung_s > peer->ring_wait_s) {
            peer->ring_wait_s = shorter(2 * peer->ring_wait_s, e->mpi.tuning.ring_again_max_s);
            ring(e, peer, now_s);
        }
        i++;
    }
    return moved;
}

static int issue(struct fastpath *e, int to, int start, int end, int frames, int flags, double now_s) {
    struct peer *peer = &e->peers[to];
    struct flight *flight = &e->flights[e->shared.flights];
    int asleep = 0;
    if (!peer->in_flight) {
        asleep = (flags & SPARSE) || now_s - peer->heard_s > e->mpi.awake_s;
        peer->heard_s = now_s;
    }
    if (failed(e, e->mpi.issend(e->reading->data + start, end - start, e->mpi.byte, to, UNICAST, e->mpi.comm,
                                flight->request)))
        return -1;
    if (asleep) { /* not earlier: the peer may take this core at once, and should find the message */
        ring(e, peer, now_s);
        peer->ring_wait_s = e->mpi.tuning.ring_again_s;
    }
    flight->peer = peer;
    flight->slot = e->reading;
    peer->in_flight++;
    e->reading->flights++;
    e->shared.flights++;
    int bytes = end - start - frames * LENGTH;
    e->shared.messages_sent++;
    e->shared.frames_from_guest += frames;
    e->shared.bytes_from_guest += bytes;
    e->shared.bytes_to[to] += bytes;
    return bytes + frames * e->mpi.tuning.frame_costs_bytes;
}

/* Return the destination rank of a plain frame from the guest; -1 for any other frame, valid or not. */
static int route(const struct fastpath *e, const char *frame, uint32_t length) {
    if (length < 14 || length > MAX_FRAME) return -1;
    const char *ethernet = frame + LENGTH;
    if (ethernet[12] == 0x08 && ethernet[13] == 0x06) return -1; /* ARP */
    int64_t to = rank_of_mac(ethernet);
    if (rank_of_mac(ethernet + 6) != e->mpi.rank || to < 0 || to >= e->mpi.size || to == e->mpi.rank) return -1;
    return (int)to;
}

/* Select a slot without messages in flight, to read the guest into; NULL if there is none. The last one used comes
 * first, as it is in the CPU's caches. The rest of an unfinished frame is moved along. */
static struct slot *free_slot(struct fastpath *e) {
    int left = e->stop - e->at;
    struct slot *slot = e->reading;
    for (int i = 0; slot->flights || slot == &e->slots[SLOTS]; i++) {
        if (i == SLOTS) return NULL;
        slot = &e->slots[i];
    }
    if (left && (slot != e->reading || e->at)) memmove(slot->data, e->reading->data + e->at, (size_t)left);
    e->reading = slot;
    e->at = 0;
    e->stop = left;
    return slot;
}

/* Send the data read, run by run, and return the work in bytes. The rest is an unfinished frame, waits for a credit, or
 * is left to Python. */
static int forward(struct fastpath *e, int flags, double now_s) {
    const char *data = e->reading->data;
    int moved = 0;
    while (e->stop - e->at >= LENGTH) {
        int at = e->at, frames = 0, above_mtu = 0, to = -1, plain = 1;
        while (e->stop - at >= LENGTH) {
            uint32_t length = big_endian(data + at);
            if (length > (uint32_t)(e->stop - at - LENGTH) && length <= MAX_FRAME) break; /* unfinished */
            int next = route(e, data + at, length);
            plain = next >= 0;
            if (!plain || (frames && next != to)) break;
            to = next;
            above_mtu += length > (uint32_t)e->mpi.longest_frame;
            at += LENGTH + (int)length;
            frames++;
        }
        if (!frames) {
            if (!plain) e->shared.stuck = 1;
            return moved;
        }
        int held = e->shared.held[to];
        if (held || e->peers[to].in_flight >= e->mpi.credits || e->shared.flights == FLIGHTS) {
            if (!e->blocked_s) e->blocked_s = now_s;
            if (held == DEAD || now_s - e->blocked_s > STUCK_AFTER_S) e->shared.stuck = 1;
            return moved;
        }
        e->blocked_s = 0;
        int sent = issue(e, to, e->at, at, frames, flags, now_s);
        if (sent < 0) return moved;
        e->shared.frames_above_mtu += above_mtu;
        moved += sent;
        e->at = at;
    }
    return moved;
}

static int read_stream(struct fastpath *e) {
    int room = e->mpi.chunk_bytes - e->stop;
    ssize_t n = recv(e->shared.link_fd, e->reading->data + e->stop, (size_t)room, MSG_DONTWAIT);
    if (n > 0) {
        e->stop += (int)n;
        return 1;
    }
    if (n == 0) e->shared.link_gone = -1;
    else if (errno != EAGAIN && errno != EINTR) e->shared.link_gone = errno;
    return 0;
}

static int read_datagrams(struct fastpath *e) {
    int any = 0;
    for (int i = 0; i < e->mpi.tuning.datagrams_a_turn; i++) {
        if (e->mpi.chunk_bytes - e->stop < LENGTH + MAX_FRAME + 1) break;
        char *at = e->reading->data + e->stop;
        ssize_t n = recv(e->shared.link_fd, at + LENGTH, MAX_FRAME + 1, MSG_DONTWAIT);
        if (n < 0) {
            if (errno != EAGAIN && errno != EINTR) e->shared.link_gone = errno;
            break;
        }
        any = 1;
        if (n > MAX_FRAME) {
            e->shared.too_long++;
            continue;
        }
        put_length(at, (uint32_t)n);
        e->stop += LENGTH + (int)n;
    }
    return any;
}

/* Read frames of the guest for any destination; 0 if there are none, or no room for them. */
static int read_link(struct fastpath *e) {
    if (e->shared.link_fd < 0 || e->shared.link_gone || !free_slot(e)) return 0;
    return e->shared.link_kind == SOCK_STREAM ? read_stream(e) : read_datagrams(e);
}

static int from_guest(struct fastpath *e, int flags, double now_s) {
    if (e->shared.stuck) return 0;
    if (!e->blocked_s && !read_link(e)) return 0;
    return forward(e, flags, now_s);
}

/* Hand over to Python the data that was read and not sent yet, reading first if there is none. Copy it to `to`, which
 * has the size of a chunk, and return the number of bytes. */
int fastpath_take(struct fastpath *e, char *to) {
    if (!e->shared.stuck && !e->blocked_s) read_link(e);
    int left = e->stop - e->at;
    memcpy(to, e->reading->data + e->at, (size_t)left);
    e->at = e->stop = 0;
    e->shared.stuck = 0;
    e->blocked_s = 0;
    return left;
}

/* Take back from Python an unfinished frame, the rest of the data that it took. */
void fastpath_give_back(struct fastpath *e, const char *from, int bytes) {
    if (!free_slot(e)) e->reading = &e->slots[SLOTS];
    memcpy(e->reading->data, from, (size_t)bytes);
    e->at = 0;
    e->stop = bytes;
}

/* Leave to Python a message of which the guest does not take the rest. */
static void hand_over(struct fastpath *e) {
    if (e->shared.delivering) e->shared.arrived = 1;
    e->shared.delivering = 0;
}

/* Stop using the link of a guest that is gone. Its unfinished frame is discarded, and a message that it has taken in
 * part is left to Python to be counted. */
void fastpath_leave(struct fastpath *e) {
    hand_over(e);
    e->at = e->stop = 0;
    e->blocked_s = 0;
    e->shared.stuck = 0;
    e->shared.link_gone = 0;
    e->shared.link_fd = -1;
}

/* -- receiving ----------------------------------------------------------------------------------------------------- */

/* Read source, tag and size of a message from `status`; return 0, or MPI's error code. */
static int read_status(struct fastpath *e) {
    memcpy(&e->shared.source, e->status + e->mpi.source_at, sizeof(int));
    memcpy(&e->shared.tag, e->status + e->mpi.tag_at, sizeof(int));
    return failed(e, e->mpi.get_count(e->status, e->mpi.byte, &e->shared.size_bytes));
}

static int start_posted(struct fastpath *e) {
    if (failed(e, e->mpi.irecv(e->shared.buffer, e->mpi.chunk_bytes, e->mpi.byte, e->mpi.any_source, e->mpi.any_tag,
                               e->mpi.comm, e->request)))
        return 0;
    e->receiving = 1;
    return 1;
}

static int probe(struct fastpath *e, int tag) {
    int found = 0;
    if (failed(e, e->mpi.improbe(e->mpi.any_source, tag, e->mpi.comm, &found, e->message, e->status)) || !found)
        return 0;
    if (read_status(e)) return 0;
    int count = e->shared.size_bytes;
    char *buffer = e->shared.buffer;
    e->too_long = count > e->mpi.chunk_bytes;
    if (e->too_long) buffer = e->spill = malloc((size_t)count);
    if (!buffer || failed(e, e->mpi.imrecv(buffer, count, e->mpi.byte, e->message, e->request))) return 0;
    e->receiving = 2;
    return 1;
}

/* Receive one message into the buffer; 1 if it has arrived. Take unicasts only while `unicast`, unless one has been
 * started. */
static int receive(struct fastpath *e, int unicast, double now_s) {
    hand_over(e);
    if (e->shared.arrived) return 1;
    if (!e->receiving) {
        if (!e->shared.buffer || e->mpi.size == 1) return 0;
        if (e->mpi.posts && unicast) {
            if (!start_posted(e)) return 0;
        } else if (unicast ? !probe(e, e->mpi.any_tag) : !probe(e, BROADCAST) && !probe(e, CONTROL)) {
            return 0;
        }
    }
    int done = 0, posted = e->receiving == 1;
    int code = e->mpi.test(e->request, &done, e->status);
    e->shared.arrived = 1;
    if (code) { /* the message may be too long for the buffer: Python knows this MPI's errors */
        e->shared.mpi_error = code;
        e->shared.arrived = -1;
    } else if (!done) {
        e->shared.arrived = 0;
        return 0;
    } else if (posted) {
        read_status(e);
    } else if (e->too_long) {
        e->shared.arrived = -1;
        free(e->spill);
        e->spill = NULL;
        e->too_long = 0;
    }
    e->receiving = 0;
    e->shared.sent_bytes = 0;
    e->peers[e->shared.source].heard_s = now_s;
    return 1;
}

int fastpath_receive(struct fastpath *e, int unicast) { return receive(e, unicast, clock_s()); }

/* End the posted receive, for the end of the job; 1 when none is posted any more. Its last message is in `arrived`. */
int fastpath_unpost(struct fastpath *e) {
    hand_over(e);
    if (e->shared.arrived) return 0;
    if (!e->receiving) return 1;
    if (e->receiving == 1 && !e->cancelled) {
        failed(e, e->mpi.cancel(e->request));
        e->cancelled = 1;
    }
    int done = 0, cancelled = 0;
    if (failed(e, e->mpi.test(e->request, &done, e->status)) || !done) return 0;
    if (e->cancelled) failed(e, e->mpi.test_cancelled(e->status, &cancelled));
    if (cancelled) {
        e->receiving = 0;
        return 1;
    }
    if (e->receiving == 1) {
        read_status(e);
    }
    e->receiving = 0;
    e->shared.sent_bytes = 0;
    e->shared.arrived = e->too_long ? -1 : 1;
    return 0;
}

/* Return the number of frames of a message, or 0 unless all are valid and from its sender's guest to this one. */
static int plain_message(const struct fastpath *e, const char *data, int size, int source) {
    int at = 0, frames = 0;
    while (size - at >= HEAD) {
        uint32_t length = big_endian(data + at);
        if (length < 14 || length > MAX_FRAME || length > (uint32_t)(size - at - LENGTH)) return 0;
        if (rank_of_mac(data + at + LENGTH) != e->mpi.rank || rank_of_mac(data + at + LENGTH + 6) != source) return 0;
        at += LENGTH + (int)length;
        frames++;
    }
    return at == size ? frames : 0;
}

/* Write the buffer from `at` on to the guest without blocking; return the number of bytes taken, in whole datagrams on
 * a datagram link. */
static int to_guest(struct fastpath *e, int at, int size) {
    const char *data = e->shared.buffer;
    int start = at;
    if (e->shared.link_kind == SOCK_STREAM) {
        ssize_t n = send(e->shared.link_fd, data + at, (size_t)(size - at), MSG_DONTWAIT | MSG_NOSIGNAL);
        return n > 0 ? (int)n : 0; /* Python meets an error when it goes on with the message */
    }
    while (at < size) {
        uint32_t length = big_endian(data + at);
        if (send(e->shared.link_fd, data + at + LENGTH, length, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) break;
        at += LENGTH + (int)length;
    }
    return at - start;
}

/* Go on with the delivery of a message; return the work in bytes once the guest has taken all of it, else 0. */
static int deliver(struct fastpath *e, double now_s) {
    struct shared *s = &e->shared;
    int took = to_guest(e, s->sent_bytes, s->size_bytes);
    if (took) s->busy_at_s = e->delivering_s = now_s;
    s->sent_bytes += took;
    if (s->sent_bytes < s->size_bytes) return 0;
    int frames = s->delivering, bytes = s->size_bytes - frames * LENGTH;
    s->delivering = 0;
    s->messages_received++;
    s->frames_to_guest += frames;
    s->bytes_to_guest += bytes;
    return bytes + frames * e->mpi.tuning.frame_costs_bytes;
}

/* Receive messages and deliver the plain ones; return the work in bytes. */
static int from_peers(struct fastpath *e, int flags, double now_s) {
    struct shared *s = &e->shared;
    int moved = 0, may = (flags & MAY_DELIVER) && s->link_fd >= 0 && !s->link_gone;
    if (s->delivering && !may) hand_over(e);
    for (int i = 0; i < e->mpi.tuning.messages_a_turn; i++) {
        if (!s->delivering) {
            if (!receive(e, flags & (MAY_DELIVER | TAKE), now_s)) return moved;
            int good = may && s->arrived == 1 && s->tag == UNICAST;
            s->delivering = good ? plain_message(e, s->buffer, s->size_bytes, s->source) : 0;
            if (!s->delivering) return moved;
            s->arrived = 0;
            e->delivering_s = now_s;
        }
        moved += deliver(e, now_s);
        if (s->delivering) {
            if (now_s - e->delivering_s > STUCK_AFTER_S) hand_over(e);
            return moved;
        }
        if (s->size_bytes < e->mpi.tuning.alone_below_bytes) break;
    }
    return moved;
}

/* -- the loop ------------------------------------------------------------------------------------------------------ */

/* Return whether something is left to Python. */
static int for_python(const struct shared *s) { return s->arrived || s->stuck || s->link_gone || s->mpi_error; }

static void nap(struct fastpath *e) {
    double longest_s = e->mpi.tuning.longest_nap * e->mpi.gather_s;
    if (e->gathered >= e->mpi.tuning.worth_a_nap_bytes) e->nap_s = e->mpi.gather_s;
    else e->nap_s = shorter(2 * e->nap_s, longest_s);
    e->gathered = 0;
    struct timespec t = {0, (long)(e->nap_s * 1e9)};
    nanosleep(&t, NULL);
}

/* Move frames until `until_s`, until something is left to Python, or until nothing moved for `window_s`. The spinning
 * and sleeping is that of worker_loop.py. */
int fastpath_run(struct fastpath *e, double until_s, double window_s, int flags) {
    struct shared *s = &e->shared;
    for (;;) {
        double now_s = clock_s();
        int moved = flags & MAY_SEND ? from_guest(e, flags, now_s) : 0;
        if (s->flights && retire(e, now_s) && !moved) moved = 1;
        moved += from_peers(e, flags, now_s);
        if (moved) s->busy_at_s = now_s;
        if (for_python(s) || !s->buffer) {
            hand_over(e); /* before Python writes to the guest in the middle of a message */
            return TURN;
        }
        e->gathered += moved;
        if (moved >= e->mpi.tuning.bulk_bytes) e->bulk_until_s = now_s + e->mpi.tuning.bulk_lasts_s;
        if (flags & TURN_FOLLOWS) {
            hand_over(e);
            return TURN;
        }
        if (now_s >= until_s) return LOOK;
        double idle_s = now_s - s->busy_at_s;
        if (moved) {
            if (moved < e->mpi.tuning.bulk_bytes && window_s > 0) sched_yield(); /* the guest may want this core */
        } else if (idle_s > window_s) {
            if (!s->delivering) return SLEEP;
            hand_over(e); /* Python waits for the guest without spinning */
            return TURN;
        } else if (now_s < e->bulk_until_s && e->mpi.gather_s > 0 && idle_s > 2 * e->mpi.gather_s) {
            nap(e);
        } else {
            sched_yield();
        }
    }
}

/* Discard the rings received so far; messages sent before them have arrived. */
static void silence(struct fastpath *e, const struct pollfd *bell) {
    char byte;
    while (recv(bell->fd, &byte, 1, MSG_DONTWAIT) >= 0)
        if (bell->fd == e->mpi.far_fd) e->shared.proven = 1;
}

/* Sleep until any of `fds` is ready, or for `timeout_s`, and move frames at once. Between sparse frames this goes on
 * for the whole time: only a sleep shorter than `long_s`, or an event that is left to Python, ends it. Return how long
 * it had slept before it last moved something, or -1 if it moved nothing. */
double fastpath_doze(struct fastpath *e, struct pollfd *fds, int count, double timeout_s, double long_s, int flags) {
    struct shared *s = &e->shared;
    double now_s = clock_s(), until_s = now_s + timeout_s, busy_at_s = now_s, slept_s = -1;
    for (;;) {
        double wait_s = until_s - now_s;
        if (s->flights) wait_s = shorter(wait_s, e->mpi.tuning.ring_again_s);
        if (wait_s < 0) wait_s = 0;
        struct timespec timeout = {(time_t)wait_s, (long)((wait_s - (double)(time_t)wait_s) * 1e9)};
        int woken = ppoll(fds, (nfds_t)count, &timeout, NULL), others = 0, rung = 0;
        now_s = clock_s();
        if (woken < 0) return slept_s; /* a signal */
        for (int i = 0; woken && i < count; i++) {
            if (!fds[i].revents || fds[i].fd == s->link_fd) continue;
            if (fds[i].fd == e->mpi.near_fd || fds[i].fd == e->mpi.far_fd) silence(e, &fds[i]), rung = 1;
            else others = 1;
        }
        int moved = flags & MAY_SEND ? from_guest(e, flags, now_s) : 0;
        moved += from_peers(e, flags, now_s);
        /* A rung message has been sent, but this MPI may need more than one probe to see it. */
        for (int i = 0; rung && !moved && !s->arrived && i < LOOKS_AFTER_A_RING; i++) moved = from_peers(e, flags, now_s);
        if (s->flights) retire(e, now_s);
        hand_over(e);
        if (moved) {
            s->busy_at_s = now_s;
            slept_s = now_s - busy_at_s;
            busy_at_s = now_s;
        }
        if (others || for_python(s) || e->blocked_s || now_s >= until_s) return slept_s;
        if (moved && slept_s < long_s) return slept_s;
        if (s->flights) fastpath_ring_all(e);
    }
}
