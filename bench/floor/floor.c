/* The floor: a bare responder on epoll, in one thread, with no filter behind it.
 *
 *   floor SOCKET WORKLOAD
 *
 * Answers whatever is owed an answer with CONTINUE, and the end of message with one added header
 * and CONTINUE, as the filter of the benchmark does. It looks at no argument, keeps no macros,
 * checks no order. As few system calls as an honest server needs: one epoll_wait for all that is
 * ready, one recv and one send for what has come on a connection (over TCP, one more call to
 * acknowledge at once).
 *
 * Workloads: "noreply" leaves every step unanswered that can be; "reject" refuses at HELO,
 * "reject-connect" at CONNECT; all others are answered in full, without delay.
 */
#include "address.h"
#include "wire.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    EVENTS = 256,
    INPUT = 256 << 10,
    OUTPUT = 64 << 10,
    OPTIONS = 12, /* bytes of version, actions and protocol */
};

/* What has come of the packet that a connection is sending; the data is not kept. */
struct connection {
    int fd;
    uint32_t protocol; /* as negotiated */
    uint32_t left;     /* data still to come */
    uint32_t kept_size;
    uint8_t head_size;
    uint8_t head[WIRE_HEAD];
    uint8_t kept[OPTIONS];   /* the first bytes of the data */
    struct connection *next; /* when it is free */
};

struct floor {
    int epoll;
    bool tcp;
    uint32_t wanted; /* protocol bits */
    char refused;    /* the command that is refused, or 0 */
    struct connection *free;
    uint8_t input[INPUT];
    uint8_t output[OUTPUT];
    size_t output_size;
};

static void answer(struct floor *floor, const void *bytes, size_t size)
{
    if (size <= OUTPUT - floor->output_size) {
        memcpy(floor->output + floor->output_size, bytes, size);
        floor->output_size += size;
    }
}

static void negotiate(struct floor *floor, struct connection *c)
{
    uint8_t reply[WIRE_HEAD + OPTIONS] = {0, 0, 0, OPTIONS + 1, 'O'};
    uint32_t version = wire_get(c->kept);

    c->protocol = floor->wanted & wire_get(c->kept + 8);
    wire_put(reply + WIRE_HEAD, version < WIRE_VERSION ? version : WIRE_VERSION);
    wire_put(reply + WIRE_HEAD + 4, 0x1 & wire_get(c->kept + 4)); /* headers are added */
    wire_put(reply + WIRE_HEAD + 8, c->protocol);
    answer(floor, reply, sizeof reply);
}

/* Answers the complete packet; false if the connection is to be closed. */
static bool take_packet(struct floor *floor, struct connection *c)
{
    static const uint8_t go_on[] = {0, 0, 0, 1, 'c'};
    static const uint8_t refuse[] = {0, 0, 0, 1, 'r'};
    static const uint8_t end[] = "\0\0\0\x19hX-Filter\0"
                                 "4XyZ1f2Bc3z9rT\0"
                                 "\0\0\0\1c";
    static const uint32_t quiet[128] = {
        ['C'] = WIRE_NR_CONNECT, ['H'] = WIRE_NR_HELO, ['M'] = WIRE_NR_MAIL,
        ['R'] = WIRE_NR_RCPT,    ['T'] = WIRE_NR_DATA, ['L'] = WIRE_NR_HEADER,
        ['N'] = WIRE_NR_EOH,     ['B'] = WIRE_NR_BODY, ['U'] = WIRE_NR_UNKNOWN,
    };
    char command = (char)c->head[4];

    switch (command) {
    case 'O':
        if (c->kept_size < OPTIONS) {
            return false;
        }
        negotiate(floor, c);
        return true;
    case 'D':
    case 'A':
    case 'K':
        return true;
    case 'Q':
        return false;
    case 'E':
        answer(floor, end, sizeof end - 1);
        return true;
    case 'C':
    case 'H':
    case 'M':
    case 'R':
    case 'T':
    case 'L':
    case 'N':
    case 'B':
    case 'U':
        if (command == floor->refused) {
            answer(floor, refuse, sizeof refuse);
        } else if ((c->protocol & quiet[(unsigned char)command]) == 0) {
            answer(floor, go_on, sizeof go_on);
        }
        return true;
    default:
        return false;
    }
}

/* Takes the bytes apart; false if the connection is to be closed. */
static bool take_bytes(struct floor *floor, struct connection *c, const uint8_t *at, size_t size)
{
    const uint8_t *stop = at + size;

    while (at < stop) {
        while (c->head_size < WIRE_HEAD && at < stop) {
            c->head[c->head_size++] = *at++;
            if (c->head_size == WIRE_HEAD) {
                uint32_t length = wire_get(c->head);
                if (length == 0 || length > WIRE_LARGEST) {
                    return false;
                }
                c->left = length - 1;
                c->kept_size = 0;
            }
        }
        if (c->head_size < WIRE_HEAD) {
            return true;
        }
        uint32_t now = (size_t)(stop - at) < c->left ? (uint32_t)(stop - at) : c->left;
        for (uint32_t i = 0; i < now && c->kept_size < OPTIONS; i++) {
            c->kept[c->kept_size++] = at[i];
        }
        at += now;
        c->left -= now;
        if (c->left == 0) {
            c->head_size = 0;
            if (!take_packet(floor, c)) {
                return false;
            }
        }
    }
    return true;
}

static void close_connection(struct floor *floor, struct connection *c)
{
    close(c->fd);
    c->next = floor->free;
    floor->free = c;
}

static void serve(struct floor *floor, struct connection *c)
{
    ssize_t got = recv(c->fd, floor->input, sizeof floor->input, 0);

    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (floor->tcp) {
        /* Who writes macros and command one by one, as Sendmail does, with Nagle's algorithm on,
         * waits for the first to be acknowledged: at once, please. Lasts until the kernel thinks
         * otherwise. */
        setsockopt(c->fd, IPPROTO_TCP, TCP_QUICKACK, &(int){1}, sizeof(int));
    }
    floor->output_size = 0;
    bool open = got > 0 && take_bytes(floor, c, floor->input, (size_t)got);
    if (floor->output_size > 0) {
        /* Who does not read its few bytes of answers is not waited for. */
        ssize_t sent = send(c->fd, floor->output, floor->output_size, MSG_NOSIGNAL);
        open = open && sent == (ssize_t)floor->output_size;
    }
    if (!open) {
        close_connection(floor, c);
    }
}

static void accept_one(struct floor *floor, int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    struct connection *c = floor->free;

    if (fd < 0) {
        return;
    }
    if (c != NULL) {
        floor->free = c->next;
    } else if ((c = malloc(sizeof *c)) == NULL) {
        close(fd);
        return;
    }
    *c = (struct connection){.fd = fd};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(floor->epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
        close_connection(floor, c);
    }
}

static void fail(const char *what)
{
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int listen_at(const struct address *address)
{
    int fd = socket(address->family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int on = 1;

    if (fd < 0) {
        fail("socket");
    }
    if (address->family == AF_UNIX) {
        const char *path = ((const struct sockaddr_un *)&address->storage)->sun_path;
        struct stat status;
        if (stat(path, &status) == 0 && S_ISSOCK(status.st_mode)) {
            unlink(path);
        }
    } else {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* inherited */
    }
    if (bind(fd, (const struct sockaddr *)&address->storage, address->size) != 0) {
        fail("bind");
    }
    if (listen(fd, SOMAXCONN) != 0) {
        fail("listen");
    }
    return fd;
}

int main(int argc, char **argv)
{
    static struct floor floor; /* too large for the stack */
    struct address address;
    struct epoll_event events[EVENTS];
    struct rlimit limit;

    if (argc != 3) {
        fprintf(stderr, "usage: floor SOCKET WORKLOAD\n");
        return 2;
    }
    const char *wrong = address_parse(argv[1], &address);
    if (wrong != NULL) {
        fprintf(stderr, "floor: %s: %s\n", argv[1], wrong);
        return 2;
    }
    floor.wanted = strcmp(argv[2], "noreply") == 0 ? WIRE_NR_ALL : 0;
    floor.refused = strcmp(argv[2], "reject") == 0           ? 'H'
                    : strcmp(argv[2], "reject-connect") == 0 ? 'C'
                                                             : '\0';
    floor.tcp = address.family != AF_UNIX;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    signal(SIGPIPE, SIG_IGN);
    floor.epoll = epoll_create1(EPOLL_CLOEXEC);
    int listener = listen_at(&address);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (floor.epoll < 0 || epoll_ctl(floor.epoll, EPOLL_CTL_ADD, listener, &event) != 0) {
        fail("epoll");
    }
    for (;;) {
        int count = epoll_wait(floor.epoll, events, EVENTS, -1);
        if (count < 0 && errno != EINTR) {
            fail("epoll_wait");
        }
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr == NULL) {
                accept_one(&floor, listener);
            } else {
                serve(&floor, events[i].data.ptr);
            }
        }
    }
}
