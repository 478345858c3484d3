/*
 * test_socket.c - socket specifications, listening, and moving bytes. Loopback and unix sockets
 * only. Texts are those of wire spec 6.1.
 */
#include "../socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "test.h"

static const mlt_socket_options plain = {.backlog = 5, .mode = -1, .owner = -1, .group = -1};

/* A path in this case's folder. */
static const char *path_of(const char *name)
{
    static char paths[4][100];
    static size_t next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", test_folder(), name);
    return path;
}

static int listen_on(mlt_listener *listener, const char *spec, const mlt_socket_options *options,
                     char *error)
{
    error[0] = '\0';
    return mlt_socket_listen(listener, spec, options, error);
}

static void check_prefix(const char *prefix, const char *text)
{
    char start[MLT_ERROR_TEXT];
    snprintf(start, sizeof start, "%.*s", (int)strlen(prefix), text);
    CHECK_TEXT(prefix, start);
}

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    REQUIRE(fd >= 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
        return fd;
    close(fd);
    return -1;
}

/* ------------------------------------------------------------------------------------------ */
/* Specifications */

/* Every form of wire spec 6.1, and Postfix's HOST:PORT, is understood. */
TEST(socket_good_specs)
{
    static const char *const rows[] = {
        "unix:/a",
        "local:/a",
        "UNIX:/a",
        "Local:/a",
        "/a",
        "a",
        ":/a",
        "unix:/a:b",
        "unix:C:/a",
        "inet:0@127.0.0.1",
        "INET:25@localhost",
        "inet:8891",
        "inet:65535@[127.0.0.1]",
        "inet:smtp@localhost",
        "inet:127.0.0.1:8891",
        "inet:[127.0.0.1]:8891",
        "inet:localhost:8891",
        "inet:[::1]:8891",
        "inet6:0@::1",
        "INET6:1@[::1]",
        "inet6:1@[IPv6:::1]",
        "inet6:1@[ipv6:2001:db8::1]",
        "inet6:1",
        "inet6:[::1]:1",
        "fd:0",
        "FD:3",
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char error[MLT_ERROR_TEXT] = "";
        test_row(rows[i]);
        CHECK_INT(MLT_OK, mlt_socket_check(guarded(rows[i], strlen(rows[i]) + 1), error));
        CHECK_TEXT("", error);
    }
}

/* What is none is refused with the text that administrators search for. */
TEST(socket_bad_specs)
{
    static const struct {
        const char *spec;
        const char *text;
    } rows[] = {
        {"", "empty or missing socket information"},
        {"tcp:1@h", "unknown socket type tcp;"},
        {"inet :1", "unknown socket type inet ;"},
        {"host:25", "unknown socket type host;"},
        {"/a:b", "unknown socket type /a;"},
        {"unix:", "UNIX socket name is empty"},
        {":", "UNIX socket name is empty"},
        {"inet:", "unknown port name ;"},
        {"inet:@127.0.0.1", "unknown port name ;"},
        {"inet:65536@127.0.0.1", "unknown port name 65536;"},
        {"inet:99999@127.0.0.1", "unknown port name 99999;"},
        {"inet:4294967296@127.0.0.1", "unknown port name 4294967296;"},
        {"inet:99999999999999999999999999@h", "unknown port name 99999999999999999999999999;"},
        {"inet:25x@127.0.0.1", "unknown port name 25x;"},
        {"inet:1@", "Unknown host name "},
        {"inet:1@[", "Invalid numeric domain spec \"[\""},
        {"inet:1@[]", "Invalid numeric domain spec \"[]\""},
        {"inet:1@[127.0.0.1", "Invalid numeric domain spec \"[127.0.0.1\""},
        {"inet:1@[::1]", "Invalid numeric domain spec \"[::1]\""},
        {"inet:1@[127.1]", "Invalid numeric domain spec \"[127.1]\""},
        {"inet6:1@[127.0.0.1]", "Invalid numeric domain spec \"[127.0.0.1]\""},
        {"inet6:1@[IPv6:]", "Invalid numeric domain spec \"[IPv6:]\""},
        {"inet:::1:25", "an IPv6 address in ::1:25 wants brackets"},
        {"inet:[::1]", "unknown port name 1];"},
        {"fd:", "expected positive integer as fd, got "},
        {"fd:-1", "expected positive integer as fd, got -1"},
        {"fd:+1", "expected positive integer as fd, got +1"},
        {"fd: 1", "expected positive integer as fd, got  1"},
        {"fd:x", "expected positive integer as fd, got x"},
        {"fd:3x", "expected positive integer as fd, got 3x"},
        {"fd:2147483648", "expected positive integer as fd, got 2147483648"},
        {"fd:99999999999999999999", "expected positive integer as fd, got 99999999999999999999"},
    };
    char error[MLT_ERROR_TEXT];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mlt_listener listener;
        test_row(rows[i].spec);
        CHECK_INT(MLT_ERR_CALLER,
                  mlt_socket_check(guarded(rows[i].spec, strlen(rows[i].spec) + 1), error));
        check_prefix(rows[i].text, error);
        CHECK_INT(MLT_ERR_CALLER, listen_on(&listener, rows[i].spec, &plain, error));
        CHECK_INT(-1, listener.fd);
    }
    test_row(NULL);
    CHECK_INT(MLT_ERR_CALLER, mlt_socket_check(NULL, error));
    check_prefix("empty or missing socket information", error);
}

/* A path may have 106 bytes, and a host name or service must fit too; longer ones are refused, and
 * not cut. */
TEST(socket_long_specs)
{
    char spec[1000];
    char error[MLT_ERROR_TEXT];
    for (size_t len = 105; len <= 109; len++) {
        snprintf(spec, sizeof spec, "unix:%0*d", (int)len, 0);
        CHECK_INT(len <= 106 ? MLT_OK : MLT_ERR_CALLER,
                  mlt_socket_check(guarded(spec, strlen(spec) + 1), error));
    }
    check_prefix("UNIX socket name 000", error);
    CHECK(strstr(error, "too long") != NULL);
    for (int len = 254; len <= 257; len++) {
        snprintf(spec, sizeof spec, "inet:1@%0*d", len, 0);
        CHECK_INT(len <= 255 ? MLT_OK : MLT_ERR_CALLER, mlt_socket_check(spec, error));
    }
    for (int len = 62; len <= 65; len++) {
        snprintf(spec, sizeof spec, "inet:x%0*d@h", len - 1, 0);
        CHECK_INT(len <= 63 ? MLT_OK : MLT_ERR_CALLER, mlt_socket_check(spec, error));
    }
    snprintf(spec, sizeof spec, "%0900d:x", 0);
    CHECK_INT(MLT_ERR_CALLER, mlt_socket_check(spec, error));
}

/* ------------------------------------------------------------------------------------------ */
/* Listening on a unix socket */

/* A listener's file is there while it listens and gone afterwards; somebody can connect. The
 * descriptor is closed on exec and never makes accept wait. */
TEST(socket_listen_unix)
{
    static const char *const kinds[] = {"", "unix:", "local:", ":"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        mlt_listener listener;
        char error[MLT_ERROR_TEXT];
        char spec[200];
        const char *path = path_of("socket");
        snprintf(spec, sizeof spec, "%s%s", kinds[i], path);
        test_row(kinds[i]);
        CHECK_INT(MLT_OK, listen_on(&listener, spec, &plain, error));
        CHECK_TEXT(path, listener.address);
        CHECK_INT(AF_UNIX, listener.family);
        CHECK_INT(FD_CLOEXEC, fcntl(listener.fd, F_GETFD) & FD_CLOEXEC);
        errno = 0;
        CHECK_INT(-1, mlt_socket_accept(&listener, true));
        CHECK_INT(EAGAIN, errno);
        int client = connect_to(path);
        int fd = mlt_socket_accept(&listener, true);
        CHECK(fd >= 0);
        CHECK_INT(FD_CLOEXEC, fcntl(fd, F_GETFD) & FD_CLOEXEC);
        CHECK_INT(0, fcntl(fd, F_GETFL) & O_NONBLOCK);
        close(fd);
        close(client);
        mlt_socket_close(&listener);
        CHECK_INT(-1, listener.fd);
        CHECK_TEXT("", listener.address);
        CHECK_INT(-1, access(path, F_OK));
        mlt_socket_close(&listener);
    }
}

/* Row 175 and the explicit mode: the file's mode is what umask leaves, or what was asked for. */
TEST(socket_mode)
{
    static const struct {
        mode_t mask;
        int32_t mode;
        mode_t expected;
    } rows[] = {{022, -1, 0755},   {077, -1, 0700},   {0, -1, 0777},
                {022, 0660, 0660}, {077, 0666, 0666}, {0, 0, 0}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mlt_listener listener;
        mlt_socket_options options = plain;
        char error[MLT_ERROR_TEXT];
        struct stat info;
        options.mode = rows[i].mode;
        umask(rows[i].mask);
        CHECK_INT(MLT_OK, listen_on(&listener, path_of("socket"), &options, error));
        CHECK_INT(0, stat(path_of("socket"), &info));
        CHECK_INT(rows[i].expected, info.st_mode & 07777);
        mlt_socket_close(&listener);
    }
}

/* Owner and group can be given; where that fails nothing is left behind. */
TEST(socket_owner)
{
    mlt_listener listener;
    mlt_socket_options options = plain;
    char error[MLT_ERROR_TEXT];
    struct stat info;
    options.owner = 12345;
    options.group = 12346;
    int status = listen_on(&listener, path_of("socket"), &options, error);
    if (geteuid() == 0) {
        CHECK_INT(MLT_OK, status);
        CHECK_INT(0, stat(path_of("socket"), &info));
        CHECK_INT(12345, info.st_uid);
        CHECK_INT(12346, info.st_gid);
        mlt_socket_close(&listener);
        options.owner = -1;
        CHECK_INT(MLT_OK, listen_on(&listener, path_of("socket"), &options, error));
        CHECK_INT(0, stat(path_of("socket"), &info));
        CHECK_INT(0, info.st_uid);
        CHECK_INT(12346, info.st_gid);
        mlt_socket_close(&listener);
    } else {
        CHECK_INT(MLT_ERR_IO, status);
        check_prefix("Unable to set owner or group of ", error);
        CHECK_INT(-1, listener.fd);
    }
    CHECK_INT(-1, access(path_of("socket"), F_OK));
}

/* Rows 173, 174: what is in the way, and what becomes of it with and without `replace`. */
TEST(socket_path_in_use)
{
    mlt_listener listener, other;
    mlt_socket_options replace = plain;
    char error[MLT_ERROR_TEXT];
    struct stat info;
    const char *path = path_of("path");
    replace.replace = true;

    test_row("a socket that somebody listens on");
    CHECK_INT(MLT_OK, listen_on(&other, path, &plain, error));
    CHECK_INT(MLT_ERR_IO, listen_on(&listener, path, &plain, error));
    CHECK(strstr(error, "Unable to bind to port ") == error);
    CHECK(strstr(error, "Address already in use (somebody is listening on it)") != NULL);
    CHECK_INT(0, access(path, F_OK));
    int client = connect_to(path);
    CHECK(client >= 0);
    close(client);
    CHECK_INT(MLT_OK, listen_on(&listener, path, &replace, error));
    /* The one that was replaced does not take the new one's file away. */
    mlt_socket_close(&other);
    client = connect_to(path);
    CHECK(client >= 0);
    close(client);
    mlt_socket_close(&listener);
    CHECK_INT(-1, access(path, F_OK));

    test_row("a socket that nobody listens on");
    CHECK_INT(MLT_OK, listen_on(&other, path, &plain, error));
    close(other.fd);
    CHECK_INT(MLT_ERR_IO, listen_on(&listener, path, &plain, error));
    CHECK(strstr(error, "Address already in use (a socket file that nobody listens on") != NULL);
    CHECK_INT(MLT_OK, listen_on(&listener, path, &replace, error));
    mlt_socket_close(&listener);

    test_row("a regular file");
    int fd = open(path, O_CREAT | O_WRONLY, 0600);
    CHECK_INT(2, write(fd, "hi", 2));
    close(fd);
    CHECK_INT(MLT_ERR_IO, listen_on(&listener, path, &plain, error));
    CHECK(strstr(error, "Address already in use (the path is there and is not a socket)") != NULL);
    CHECK_INT(MLT_ERR_IO, listen_on(&listener, path, &replace, error));
    CHECK(strstr(error, "is not a UNIX domain socket") != NULL);
    CHECK_INT(0, stat(path, &info));
    CHECK_INT(2, info.st_size);
    unlink(path);

    test_row("a directory");
    CHECK_INT(0, mkdir(path, 0700));
    CHECK_INT(MLT_ERR_IO, listen_on(&listener, path, &replace, error));
    CHECK(strstr(error, "is not a UNIX domain socket") != NULL);
    rmdir(path);

    test_row("a link to a socket: the link is removed");
    CHECK_INT(MLT_OK, listen_on(&other, path_of("far"), &plain, error));
    CHECK_INT(0, symlink(path_of("far"), path));
    CHECK_INT(MLT_OK, listen_on(&listener, path, &replace, error));
    CHECK_INT(0, lstat(path, &info));
    CHECK(S_ISSOCK(info.st_mode));
    CHECK_INT(0, access(path_of("far"), F_OK));
    mlt_socket_close(&listener);
    mlt_socket_close(&other);

    test_row("a folder that is not there");
    CHECK_INT(MLT_ERR_IO, listen_on(&listener, path_of("no/path"), &replace, error));
    CHECK_INT(MLT_ERR_IO, listen_on(&listener, path_of("no/path"), &plain, error));
    check_prefix("Unable to bind to port ", error);
    CHECK(strstr(error, "No such file or directory") != NULL);
}

/* Row 177: on closing, the file is removed only if it still is the one that was made. */
TEST(socket_close_removes_only_its_own)
{
    mlt_listener listener, other;
    char error[MLT_ERROR_TEXT];
    const char *path = path_of("path");
    test_row("a regular file in its place");
    CHECK_INT(MLT_OK, listen_on(&listener, path, &plain, error));
    unlink(path);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    mlt_socket_close(&listener);
    CHECK_INT(0, access(path, F_OK));
    unlink(path);
    test_row("another socket in its place");
    CHECK_INT(MLT_OK, listen_on(&listener, path, &plain, error));
    CHECK_INT(0, rename(path, path_of("moved")));
    CHECK_INT(MLT_OK, listen_on(&other, path, &plain, error));
    mlt_socket_close(&listener);
    CHECK_INT(0, access(path, F_OK));
    mlt_socket_close(&other);
    CHECK_INT(-1, access(path, F_OK));
    test_row("nothing in its place");
    CHECK_INT(MLT_OK, listen_on(&listener, path, &plain, error));
    unlink(path);
    mlt_socket_close(&listener);
}

/* fd:N takes over a bound socket and leaves its file alone; what is no stream socket is refused and
 * stays open. */
TEST(socket_inherited)
{
    mlt_listener listener;
    char error[MLT_ERROR_TEXT];
    char spec[20];
    const char *path = path_of("socket");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK_INT(0, bind(fd, (struct sockaddr *)&address, sizeof address));
    snprintf(spec, sizeof spec, "fd:%d", fd);
    CHECK_INT(MLT_OK, listen_on(&listener, spec, &plain, error));
    CHECK_INT(fd, listener.fd);
    CHECK_TEXT(path, listener.address);
    int client = connect_to(path);
    CHECK(client >= 0);
    close(client);
    mlt_socket_close(&listener);
    CHECK_INT(-1, fcntl(fd, F_GETFD));
    CHECK_INT(0, access(path, F_OK));

    fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    snprintf(spec, sizeof spec, "fd:%d", fd);
    CHECK_INT(MLT_ERR_IO, listen_on(&listener, spec, &plain, error));
    CHECK(strstr(error, "is not a stream socket") != NULL);
    CHECK(fcntl(fd, F_GETFD) >= 0);
    close(fd);
    CHECK_INT(MLT_ERR_IO, listen_on(&listener, spec, &plain, error));
    CHECK(strstr(error, "is not a socket") != NULL);
}

/* ------------------------------------------------------------------------------------------ */
/* Listening on TCP */

/* A TCP listener says where it is, and a second one cannot be there. */
TEST(socket_listen_tcp)
{
    static const char *const specs[] = {"inet:0@127.0.0.1",   "inet:0@[127.0.0.1]",
                                        "inet:127.0.0.1:0",   "inet6:0@::1",
                                        "inet6:0@[IPv6:::1]", "inet:[::1]:0"};
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        mlt_listener listener, other;
        char error[MLT_ERROR_TEXT];
        char host[MLT_ADDRESS] = "";
        char spec[200];
        unsigned port = 0;
        bool six = i >= 3;
        test_row(specs[i]);
        int status = listen_on(&listener, specs[i], &plain, error);
        if (six && status == MLT_ERR_IO && strstr(error, "Cannot assign requested address") != NULL)
            test_skip("no IPv6 on the loopback interface");
        CHECK_INT(MLT_OK, status);
        CHECK_INT(2, sscanf(listener.address, "%127s %u", host, &port));
        CHECK_TEXT(six ? "::1" : "127.0.0.1", host);
        CHECK(port > 0 && port < 65536);
        snprintf(spec, sizeof spec, "%s:%u@%s", six ? "inet6" : "inet", port, host);
        CHECK_INT(MLT_ERR_IO, listen_on(&other, spec, &plain, error));
        char expected[300];
        snprintf(expected, sizeof expected, "Unable to bind to port %s: Address already in use",
                 spec);
        CHECK_TEXT(expected, error);
        mlt_socket_close(&listener);
        /* And at once again, although it has just been used. */
        CHECK_INT(MLT_OK, listen_on(&listener, spec, &plain, error));
        mlt_socket_close(&listener);
    }
}

/* Row 172: ports and hosts that do not exist are told apart. No name server is asked. */
TEST(socket_unresolvable)
{
    static const struct {
        const char *spec;
        const char *text;
    } rows[] = {
        {"inet:no-such-service@127.0.0.1", "unknown port name no-such-service"},
        {"inet:-1@127.0.0.1", "unknown port name -1"},
        {"inet6:1@127.0.0.1", "Unknown host name 127.0.0.1"},
        {"inet:1@::1", "Unknown host name ::1"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mlt_listener listener;
        char error[MLT_ERROR_TEXT];
        test_row(rows[i].spec);
        CHECK_INT(MLT_ERR_CALLER, listen_on(&listener, rows[i].spec, &plain, error));
        check_prefix(rows[i].text, error);
    }
}

/* ------------------------------------------------------------------------------------------ */
/* Connections */

static int get_option(int fd, int level, int option)
{
    int value = -1;
    socklen_t len = sizeof value;
    CHECK_INT(0, getsockopt(fd, level, option, &value, &len));
    return value != 0;
}

static int64_t get_timeout(int fd, int option)
{
    struct timeval value = {-1, 0};
    socklen_t len = sizeof value;
    CHECK_INT(0, getsockopt(fd, SOL_SOCKET, option, &value, &len));
    return (int64_t)value.tv_sec * 1000 + value.tv_usec / 1000;
}

/* What is set on an accepted socket: keep-alive and no Nagle for TCP, and the time-outs. */
TEST(socket_prepare)
{
    int pair[2];
    bool tcp = true;
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    mlt_socket_prepare(pair[0], 4000, 8000, &tcp);
    CHECK(!tcp);
    CHECK_INT(4000, get_timeout(pair[0], SO_RCVTIMEO));
    CHECK_INT(8000, get_timeout(pair[0], SO_SNDTIMEO));
    mlt_socket_prepare(pair[1], -1, -1, &tcp);
    CHECK_INT(0, get_timeout(pair[1], SO_RCVTIMEO));
    CHECK_INT(0, get_timeout(pair[1], SO_SNDTIMEO));
    close(pair[0]);
    close(pair[1]);

    mlt_listener listener;
    char error[MLT_ERROR_TEXT];
    unsigned port = 0;
    CHECK_INT(MLT_OK, listen_on(&listener, "inet:0@127.0.0.1", &plain, error));
    CHECK_INT(1, sscanf(listener.address, "127.0.0.1 %u", &port));
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int client = socket(AF_INET, SOCK_STREAM, 0);
    CHECK_INT(0, connect(client, (struct sockaddr *)&address, sizeof address));
    int fd = -1;
    WAIT_UNTIL((fd = mlt_socket_accept(&listener, true)) >= 0);
    mlt_socket_prepare(fd, 1, 1, &tcp);
    CHECK(tcp);
    CHECK_INT(1, get_option(fd, SOL_SOCKET, SO_KEEPALIVE));
    CHECK_INT(1, get_option(fd, IPPROTO_TCP, TCP_NODELAY));
    CHECK(get_timeout(fd, SO_RCVTIMEO) > 0);
    char byte;
    CHECK_INT(1, write(client, "x", 1));
    CHECK_INT(1, mlt_socket_wait(fd, 20000)); /* a read waits no longer than that millisecond */
    CHECK_INT(1, mlt_socket_read(fd, &byte, 1, true, tcp));
    CHECK_INT('x', byte);
    close(client);
    close(fd);
    mlt_socket_close(&listener);
}

/* read() brings what is there, also after a signal; says so when nothing is; and tells the end. */
TEST(socket_read)
{
    int pair[2];
    char data[10] = "";
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    CHECK_INT(-1, mlt_socket_read(pair[0], data, sizeof data, false, false));
    CHECK_INT(EAGAIN, errno);
    CHECK_INT(0, mlt_socket_wait(pair[0], 0));
    CHECK_INT(0, mlt_socket_wait(pair[0], 20));
    CHECK_INT(3, write(pair[1], "abc", 3));
    CHECK_INT(1, mlt_socket_wait(pair[0], 0));
    CHECK_INT(1, mlt_socket_wait(pair[0], -1));
    atomic_store(&hooks.interrupt_receive, 2);
    CHECK_INT(3, mlt_socket_read(pair[0], data, sizeof data, true, false));
    CHECK_BYTES("abc", 3, data, 3);
    close(pair[1]);
    CHECK_INT(1, mlt_socket_wait(pair[0], -1));
    CHECK_INT(0, mlt_socket_read(pair[0], data, sizeof data, true, false));
    CHECK_INT(0, mlt_socket_read(pair[0], data, sizeof data, false, false));
    close(pair[0]);
}

/* write() writes all of it in one call where it can, and in order also when the system takes it in
 * pieces of one byte and is interrupted in between. Empty parts do no harm. */
TEST(socket_write)
{
    int pair[2];
    char data[20] = "";
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    for (int limit = -1; limit <= 3; limit++) {
        if (limit == 0)
            continue;
        struct iovec parts[] = {{"ab", 2}, {"", 0}, {"c", 1}, {"defg", 4}, {NULL, 0}};
        atomic_store(&hooks.send_limit, limit);
        atomic_store(&hooks.send_calls, 0);
        atomic_store(&hooks.interrupt_send, limit == 1 ? 2 : 0);
        CHECK_INT(MLT_OK, mlt_socket_write(pair[0], parts, 5));
        if (limit < 0)
            CHECK_INT(1, hooks.send_calls);
        CHECK_INT(7, read(pair[1], data, sizeof data));
        CHECK_BYTES("abcdefg", 7, data, 7);
    }
    CHECK_INT(MLT_OK, mlt_socket_write(pair[0], NULL, 0));
    close(pair[0]);
    close(pair[1]);
}

/* A peer that has gone is an error and no signal; one that does not read a time-out. */
TEST(socket_write_fails)
{
    static char much[4 * 1024 * 1024];
    int pair[2];
    bool tcp;
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    mlt_socket_prepare(pair[0], -1, 30, &tcp);
    struct iovec part = {much, sizeof much};
    CHECK_INT(MLT_ERR_TIMEOUT, mlt_socket_write(pair[0], &part, 1));
    close(pair[1]);
    part = (struct iovec){much, 1};
    CHECK_INT(MLT_ERR_IO, mlt_socket_write(pair[0], &part, 1));
    CHECK_INT(EPIPE, errno);
    close(pair[0]);
}

/* The clock goes forward, and counts in milliseconds. */
TEST(socket_clock)
{
    int64_t start = mlt_socket_now();
    test_pause(20);
    int64_t later = mlt_socket_now();
    CHECK(later - start >= 19);
    CHECK(later - start < 60000);
}
