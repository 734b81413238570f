/* The least that any switch of two spinning processes takes for a round trip: no MPI, no Python, no header looked at.
 *
 *   cc -O2 -o floor benchmarks/floor.c
 *   STANDIN_MODE=pingpong STANDIN_SIZE=64 STANDIN_SECS=2 STANDIN_OUT=FOLDER ./floor stream|dgram GUEST_STANDIN
 *
 * Two processes, each with a stand-in guest (GUEST_STANDIN) on a socket pair, hand frames to each other through one
 * slot of shared memory a direction. FOLDER/rtt.0 then holds the figures, as the guest of rank 0 saw them. What mvpnet
 * takes beyond this is MPI and Python; what this takes is the guests, the sockets and the kernel. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define SLOT_BYTES 70000

struct slot {
    _Alignas(64) _Atomic size_t size; /* of the frames in it; 0 when it is empty */
    char data[SLOT_BYTES];
};

static pid_t start_guest(int rank, int is_stream, const char *standin, int *link) {
    int ends[2], stay_open[2];
    char user[80], netdev[80], device[80];
    if (socketpair(AF_UNIX, is_stream ? SOCK_STREAM : SOCK_DGRAM, 0, ends) || pipe(stay_open)) exit(1);
    snprintf(user, sizeof user, "user,id=u,hostfwd=tcp:127.0.0.1:%d-:22", 24950 + rank);
    snprintf(netdev, sizeof netdev,
             is_stream ? "stream,id=m,addr.type=fd,addr.str=%d" : "dgram,id=m,local.type=fd,local.str=%d", ends[1]);
    snprintf(device, sizeof device, "virtio-net-pci,netdev=m,mac=52:55:00:00:00:%02x", rank);
    pid_t guest = fork();
    if (guest == 0) {
        dup2(stay_open[0], 0);
        execl(standin, standin, "-netdev", user, "-netdev", netdev, "-device", device, (char *)NULL);
        perror(standin);
        _exit(1);
    }
    close(ends[1]);
    *link = ends[0];
    return guest;
}

static void run_switch(int link, pid_t guest, struct slot *in, struct slot *out) {
    for (unsigned turns = 1;; turns++) {
        if (!atomic_load(&out->size)) {
            ssize_t got = recv(link, out->data, SLOT_BYTES, MSG_DONTWAIT);
            if (got == 0) return;
            if (got > 0) atomic_store(&out->size, (size_t)got);
        }
        size_t came = atomic_load(&in->size);
        if (came) {
            if (send(link, in->data, came, MSG_NOSIGNAL) < 0) return;
            atomic_store(&in->size, 0);
        }
        if (turns % 4096 == 0 && waitpid(guest, NULL, WNOHANG) == guest) return;
        sched_yield();
    }
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: floor stream|dgram GUEST_STANDIN\n");
        return 2;
    }
    struct slot *slots =
        mmap(NULL, 2 * sizeof *slots, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (slots == MAP_FAILED) return 1;
    for (int rank = 0; rank < 2; rank++) {
        if (fork() == 0) {
            int link;
            pid_t guest = start_guest(rank, !strcmp(argv[1], "stream"), argv[2], &link);
            run_switch(link, guest, &slots[rank], &slots[1 - rank]);
            _exit(0);
        }
    }
    while (wait(NULL) > 0) {}
    return 0;
}
