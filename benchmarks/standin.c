/* A guest that is none, light enough for 64 of them on one machine: takes qemu's command line, and does as much of
 * what a rank looks for as a job needs to start, run and stop.
 *
 *   -netdev stream|dgram, by descriptor   the mvpnet link
 *   -netdev user,…hostfwd=tcp:A:PORT-:22  says an ssh banner to whoever connects
 *   -chardev socket,id=qmp,fd=N           QMP: greeting, {"return": {}}, and the events of a power-down
 *   -device …,mac=52:55:r:r:r:r           its rank;  mac=52:56:w:w:w:w  the size of the world
 *   --version, -netdev help, -device help  a line or a short list each
 *
 * When the file STANDIN_DIR/go appears it sends a frame to every other rank; when it has one from every other it makes
 * STANDIN_DIR/reached.RANK, which tells the seconds since it started to send. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { FRAME = 60, MOST = 69632 + 4, LOOK_MS = 100 };

#define VERSION "\"qemu\": {\"major\": 7, \"minor\": 2, \"micro\": 0}, \"package\": \"\""

static unsigned rank, size;
static int link_fd = -1, is_stream, monitor_fd = -1, door_fd = -1;
static unsigned char inbox[4 * MOST];
static size_t unread;
static unsigned char *seen;
static unsigned others_seen, sent_to;
static double went_at;
static const char *folder;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static unsigned number_after(const char *mac)
{
    unsigned a, b, c, d;
    return sscanf(mac, "%x:%x:%x:%x", &a, &b, &c, &d) == 4 ? a << 24 | b << 16 | c << 8 | d : 0;
}

static void open_door(int port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    int on = 1;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    door_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(door_fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(door_fd, (struct sockaddr *)&at, sizeof at) || listen(door_fd, 8)) {
        fprintf(stderr, "Could not set up host forwarding rule 'tcp:127.0.0.1:%d-:22'\n", port);
        exit(1);
    }
}

static void take_option(const char *name, const char *value)
{
    const char *at;
    if (!strcmp(name, "-netdev")) {
        if ((at = strstr(value, "addr.str=")) || (at = strstr(value, "local.str="))) {
            is_stream = !strncmp(value, "stream", 6);
            link_fd = atoi(strchr(at, '=') + 1);
        }
        if ((at = strstr(value, "hostfwd=tcp:")) && (at = strchr(at + 12, ':')))
            open_door(atoi(at + 1));
    } else if (!strcmp(name, "-device")) {
        if ((at = strstr(value, "mac=52:55:")))
            rank = number_after(at + 10);
        if ((at = strstr(value, "mac=52:56:")))
            size = number_after(at + 10);
    } else if (!strcmp(name, "-chardev") && strstr(value, "id=qmp") && (at = strstr(value, "fd="))) {
        monitor_fd = atoi(at + 3);
    }
}

static void say(const char *text)
{
    if (write(monitor_fd, text, strlen(text)) < 0)
        exit(0);
}

/* Commands come one a line or run together; each has one "execute", and an "id" to be given back if any. */
static void hear(void)
{
    static char text[65536];
    static size_t length;
    ssize_t n = read(monitor_fd, text + length, sizeof text - 1 - length);
    char *command, answer[256];
    if (n <= 0)
        exit(0);
    text[length += n] = 0;
    while ((command = strstr(text, "\"execute\"")) && strchr(command, '}')) {
        char *start = command, *id = NULL, *end = strchr(command, '}') + 1, name[64] = "";
        while (start > text && *start != '{')
            start--;
        while (*end == '}' || *end == ',')
            end++;
        if ((id = strstr(start, "\"id\"")) && id < end + 64)
            id += 4 + strspn(id + 4, ": \"");
        sscanf(command + 9, " : \"%63[^\"]", name);
        if (id)
            snprintf(answer, sizeof answer, "\"id\": \"%.*s\", ", (int)strcspn(id, "\","), id);
        else
            answer[0] = 0;
        char line[512];
        const char *facts = "";
        if (!strcmp(name, "query-status"))
            facts = "\"status\": \"running\", \"running\": true, \"singlestep\": false";
        else if (!strcmp(name, "query-version"))
            facts = VERSION;
        snprintf(line, sizeof line, "{%s\"return\": {%s}}\r\n", answer, facts);
        say(line);
        if (!strcmp(name, "system_powerdown") || !strcmp(name, "quit")) {
            say("{\"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, \"reason\": \"guest-shutdown\"}, "
                "\"timestamp\": {\"seconds\": 0, \"microseconds\": 0}}\r\n");
            exit(0);
        }
        char *rest = strchr(end, '\n');
        rest = rest ? rest + 1 : text + length;
        length = text + length - rest;
        memmove(text, rest, length + 1);
    }
}

static void answer_door(void)
{
    int caller = accept4(door_fd, NULL, NULL, SOCK_CLOEXEC);
    if (caller >= 0) {
        if (write(caller, "SSH-2.0-standin\r\n", 17) < 0)
            perror("ssh");
        close(caller);
    }
}

static void make_frame(unsigned char *at, unsigned to)
{
    const unsigned char head[14] = {0x52, 0x55, to >> 24, to >> 16, to >> 8, to,
                                    0x52, 0x55, rank >> 24, rank >> 16, rank >> 8, rank, 0x88, 0xb5};
    memset(at, 0, FRAME);
    memcpy(at, head, sizeof head);
}

/* Send to the others from sent_to on, until all have theirs or the link takes no more. */
static void greet(void)
{
    unsigned char out[4 + FRAME] = {0, 0, 0, FRAME};
    for (; sent_to < size; sent_to++) {
        if (sent_to == rank)
            continue;
        make_frame(out + 4, sent_to);
        if (send(link_fd, is_stream ? out : out + 4, is_stream ? sizeof out : FRAME, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
            return;
    }
}

static void saw(const unsigned char *frame)
{
    unsigned from = (unsigned)frame[8] << 24 | frame[9] << 16 | frame[10] << 8 | frame[11];
    if (frame[12] != 0x88 || frame[13] != 0xb5 || from >= size || seen[from])
        return;
    seen[from] = 1;
    others_seen++;
}

static void report(void)
{
    char path[4096];
    FILE *file;
    static int done;
    if (done || !went_at || others_seen < size - 1)
        return;
    done = 1;
    snprintf(path, sizeof path, "%s/reached.%u", folder, rank);
    if ((file = fopen(path, "w"))) {
        fprintf(file, "%.6f\n", now() - went_at);
        fclose(file);
    }
}

static void receive(void)
{
    ssize_t n = recv(link_fd, inbox + unread, sizeof inbox - unread, MSG_DONTWAIT);
    size_t at = 0;
    if (n <= 0) {
        if (!n || (errno != EAGAIN && errno != EWOULDBLOCK))
            close(link_fd), link_fd = -1;
        return;
    }
    if (!is_stream) {
        if (n >= 14)
            saw(inbox);
        return;
    }
    unread += n;
    while (unread - at >= 4) {
        size_t length = (size_t)inbox[at] << 24 | inbox[at + 1] << 16 | inbox[at + 2] << 8 | inbox[at + 3];
        if (unread - at < 4 + length)
            break;
        if (length >= 14)
            saw(inbox + at + 4);
        at += 4 + length;
    }
    memmove(inbox, inbox + at, unread -= at);
}

static void look_for_go(void)
{
    char path[4096];
    if (!folder || went_at)
        return;
    snprintf(path, sizeof path, "%s/go", folder);
    if (!access(path, F_OK))
        went_at = now();
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--version") || !strcmp(argv[i], "-version"))
            return puts("QEMU emulator version 7.2.0 (stand-in)") < 0;
        if (!strcmp(argv[i], "-netdev") && i + 1 < argc && !strcmp(argv[i + 1], "help"))
            return puts("Available netdev backend types:\nuser\nstream\ndgram") < 0;
        if (!strcmp(argv[i], "-device") && i + 1 < argc && !strcmp(argv[i + 1], "help"))
            return puts("Network devices:\nname \"virtio-net-pci\", bus PCI") < 0;
    }
    for (int i = 1; i + 1 < argc; i++)
        take_option(argv[i], argv[i + 1]);
    folder = getenv("STANDIN_DIR");
    seen = calloc(size + 1, 1);
    signal(SIGPIPE, SIG_IGN);
    if (monitor_fd >= 0)
        say("{\"QMP\": {\"version\": {" VERSION "}, \"capabilities\": [\"oob\"]}}\r\n");
    for (;;) {
        int sending = went_at && sent_to < size && link_fd >= 0;
        struct pollfd fds[] = {{link_fd, POLLIN | (sending ? POLLOUT : 0), 0},
                               {monitor_fd, POLLIN, 0},
                               {door_fd, POLLIN, 0}};
        poll(fds, 3, went_at || !folder ? -1 : LOOK_MS);
        if (fds[0].revents & (POLLIN | POLLHUP | POLLERR))
            receive();
        if (fds[1].revents)
            hear();
        if (fds[2].revents)
            answer_door();
        look_for_go();
        if (went_at && sent_to < size && link_fd >= 0)
            greet();
        report();
    }
}
