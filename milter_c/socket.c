/*
 * socket.c - socket specifications, listening, and timed reads and writes.
 */
#include "socket.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* macOS: SO_NOSIGPIPE is set instead */
#endif

#define EXPECTED                                                                           \
    "; expected unix:PATH, local:PATH, PATH, inet:PORT@HOST, inet:PORT, inet6:PORT@HOST, " \
    "inet6:PORT, inet:HOST:PORT or fd:N"

/* A parsed specification. Spans of the text that was parsed. */
typedef struct target {
    int family; /* AF_UNIX, AF_INET, AF_INET6; AF_UNSPEC: an inherited descriptor */
    int fd;
    const char *path;
    char host[256]; /* "" for any address */
    bool numeric;   /* the host is an address, not a name */
    char port[64];
} target;

static int fail(char *error, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static int fail(char *error, int status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(error, MLT_ERROR_TEXT, format, args);
    va_end(args);
    return status;
}

/* ------------------------------------------------------------------------------------------ */
/* Specifications (wire spec 6.1) */

static int parse_unix(const char *path, target *to, char *error)
{
    to->family = AF_UNIX;
    to->path = path;
    if (*path == '\0')
        return fail(error, MLT_ERR_CALLER, "UNIX socket name is empty" EXPECTED);
    /* libmilter leaves one byte more unused than it needs to; a name that works with us should
     * work there too. */
    if (strlen(path) > sizeof(((struct sockaddr_un *)NULL)->sun_path) - 2)
        return fail(error, MLT_ERR_CALLER, "UNIX socket name %s too long", path);
    return MLT_OK;
}

static int parse_port(const char *text, size_t len, target *to, char *error)
{
    bool digits = len > 0;
    for (size_t i = 0; i < len; i++)
        digits = digits && isdigit((unsigned char)text[i]);
    bool starts_with_digit = len > 0 && isdigit((unsigned char)*text);
    if (len == 0 || len >= sizeof to->port || (starts_with_digit && !digits) ||
        (digits && (len > 5 || atol(text) > 65535)))
        return fail(error, MLT_ERR_CALLER, "unknown port name %.*s" EXPECTED, (int)len, text);
    memcpy(to->port, text, len);
    to->port[len] = '\0';
    return MLT_OK;
}

static int parse_host(const char *text, size_t len, target *to, char *error)
{
    bool bracketed = len > 0 && *text == '[';
    to->numeric = bracketed;
    if (bracketed) {
        if (len < 3 || text[len - 1] != ']')
            return fail(error, MLT_ERR_CALLER, "Invalid numeric domain spec \"%.*s\"", (int)len,
                        text);
        text++;
        len -= 2;
        if (to->family == AF_INET6 && len > 5 && strncasecmp(text, "IPv6:", 5) == 0) {
            text += 5;
            len -= 5;
        }
    }
    if (len == 0 || len >= sizeof to->host)
        return fail(error, MLT_ERR_CALLER, "Unknown host name %.*s", (int)len, text);
    memcpy(to->host, text, len);
    to->host[len] = '\0';
    unsigned char binary[sizeof(struct in6_addr)];
    if (bracketed && inet_pton(to->family, to->host, binary) != 1)
        return fail(error, MLT_ERR_CALLER, "Invalid numeric domain spec \"[%s]\"", to->host);
    return MLT_OK;
}

/* PORT, PORT@HOST, or HOST:PORT as Postfix writes it. */
static int parse_inet(const char *text, int family, target *to, char *error)
{
    to->family = family;
    const char *at = strchr(text, '@');
    const char *colon = strrchr(text, ':');
    int status;
    if (at == NULL && colon == NULL)
        return parse_port(text, strlen(text), to, error);
    if (at != NULL) {
        status = parse_port(text, (size_t)(at - text), to, error);
        return status != MLT_OK ? status : parse_host(at + 1, strlen(at + 1), to, error);
    }
    size_t host = (size_t)(colon - text);
    bool bracketed = *text == '[';
    if (!bracketed && memchr(text, ':', host) != NULL)
        return fail(error, MLT_ERR_CALLER,
                    "an IPv6 address in %s wants brackets: [ADDRESS]:PORT, or PORT@ADDRESS", text);
    /* Postfix's inet: stands for both families. */
    if (bracketed && memchr(text, ':', host) != NULL)
        to->family = AF_INET6;
    status = parse_port(colon + 1, strlen(colon + 1), to, error);
    return status != MLT_OK ? status : parse_host(text, host, to, error);
}

static int parse_fd(const char *text, target *to, char *error)
{
    to->family = AF_UNSPEC;
    char *end;
    errno = 0;
    long fd = strtol(text, &end, 10);
    if (!isdigit((unsigned char)*text) || *end != '\0' || errno != 0 || fd > INT_MAX)
        return fail(error, MLT_ERR_CALLER, "expected positive integer as fd, got %s", text);
    to->fd = (int)fd;
    return MLT_OK;
}

static int parse(const char *spec, target *to, char *error)
{
    memset(to, 0, sizeof *to);
    if (spec == NULL || *spec == '\0')
        return fail(error, MLT_ERR_CALLER, "empty or missing socket information" EXPECTED);
    const char *colon = strchr(spec, ':');
    if (colon == NULL)
        return parse_unix(spec, to, error);
    size_t kind = (size_t)(colon - spec);
    const char *rest = colon + 1;
    if (kind == 0)
        return parse_unix(rest, to, error);
    if ((kind == 4 && strncasecmp(spec, "unix", kind) == 0) ||
        (kind == 5 && strncasecmp(spec, "local", kind) == 0))
        return parse_unix(rest, to, error);
    if (kind == 4 && strncasecmp(spec, "inet", kind) == 0)
        return parse_inet(rest, AF_INET, to, error);
    if (kind == 5 && strncasecmp(spec, "inet6", kind) == 0)
        return parse_inet(rest, AF_INET6, to, error);
    if (kind == 2 && strncasecmp(spec, "fd", kind) == 0)
        return parse_fd(rest, to, error);
    return fail(error, MLT_ERR_CALLER, "unknown socket type %.*s" EXPECTED, (int)kind, spec);
}

int mlt_socket_check(const char *spec, char *error)
{
    target to;
    return parse(spec, &to, error);
}

/* ------------------------------------------------------------------------------------------ */
/* Listening (wire spec 6.2 and 6.3) */

static int resolve(const target *to, struct sockaddr_storage *address, socklen_t *len, char *error)
{
    struct addrinfo hints = {0};
    struct addrinfo *found = NULL;
    hints.ai_family = to->family;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_PASSIVE | (to->numeric ? AI_NUMERICHOST : 0);
    int code = getaddrinfo(NULL, to->port, &hints, &found);
    if (found != NULL)
        freeaddrinfo(found);
    if (code != 0)
        return fail(error, MLT_ERR_CALLER, "unknown port name %s", to->port);
    found = NULL;
    code = getaddrinfo(to->host[0] != '\0' ? to->host : NULL, to->port, &hints, &found);
    if (code != 0)
        return fail(error, MLT_ERR_CALLER, "Unknown host name %s (%s)", to->host,
                    gai_strerror(code));
    memcpy(address, found->ai_addr, found->ai_addrlen);
    *len = found->ai_addrlen;
    freeaddrinfo(found);
    return MLT_OK;
}

/* Whether somebody answers on a socket file. */
static bool is_alive(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0)
        return false;
    /* A full backlog (EAGAIN) is a sign of life too, and must not make us wait. */
    fcntl(fd, F_SETFL, O_NONBLOCK);
    bool alive = connect(fd, (const struct sockaddr *)address, sizeof *address) == 0 ||
                 errno == EAGAIN || errno == EINPROGRESS;
    close(fd);
    return alive;
}

/* Makes way for a socket file. Only ever removes a socket. */
static int clear_path(const char *path, char *error)
{
    struct stat info;
    if (stat(path, &info) != 0) {
        if (errno == ENOENT)
            return MLT_OK;
        return fail(error, MLT_ERR_IO, "Unable to stat() %s: %s", path, strerror(errno));
    }
    if (!S_ISSOCK(info.st_mode))
        return fail(error, MLT_ERR_IO, "%s is not a UNIX domain socket", path);
    if (unlink(path) != 0 && errno != ENOENT)
        return fail(error, MLT_ERR_IO, "Unable to remove %s: %s", path, strerror(errno));
    return MLT_OK;
}

static int bind_unix(mlt_listener *listener, const target *to, const mlt_socket_options *options,
                     char *error)
{
    struct sockaddr_un address = {0};
    struct stat info;
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path, to->path, strlen(to->path));
    if (options->replace) {
        int status = clear_path(to->path, error);
        if (status != MLT_OK)
            return status;
    }
    /* On Linux the file inherits this, so that it is never more open than asked for. */
    if (options->mode >= 0)
        fchmod(listener->fd, (mode_t)options->mode);
    if (bind(listener->fd, (struct sockaddr *)&address, sizeof address) != 0) {
        int code = errno;
        const char *hint = "";
        if (code == EADDRINUSE) {
            if (lstat(to->path, &info) != 0 || !S_ISSOCK(info.st_mode))
                hint = " (the path is there and is not a socket)";
            else if (is_alive(&address))
                hint = " (somebody is listening on it)";
            else
                hint = " (a socket file that nobody listens on; it may be removed)";
        }
        return fail(error, MLT_ERR_IO, "Unable to bind to port %s: %s%s", to->path, strerror(code),
                    hint);
    }
    if (stat(to->path, &info) == 0) {
        listener->made_file = true;
        listener->device = info.st_dev;
        listener->inode = info.st_ino;
    }
    snprintf(listener->address, sizeof listener->address, "%s", to->path);
    if (options->mode >= 0 && chmod(to->path, (mode_t)options->mode) != 0)
        return fail(error, MLT_ERR_IO, "Unable to set the mode of %s: %s", to->path,
                    strerror(errno));
    uid_t owner = options->owner >= 0 ? (uid_t)options->owner : (uid_t)-1;
    gid_t group = options->group >= 0 ? (gid_t)options->group : (gid_t)-1;
    if ((options->owner >= 0 || options->group >= 0) && chown(to->path, owner, group) != 0)
        return fail(error, MLT_ERR_IO, "Unable to set owner or group of %s: %s", to->path,
                    strerror(errno));
    return MLT_OK;
}

/* Writes "host port" of a bound TCP socket, or the path of a unix socket. */
static void describe(mlt_listener *listener)
{
    struct sockaddr_storage address;
    socklen_t len = sizeof address;
    char host[INET6_ADDRSTRLEN] = "";
    char port[16] = "";
    if (getsockname(listener->fd, (struct sockaddr *)&address, &len) != 0)
        return;
    listener->family = address.ss_family;
    if (address.ss_family == AF_UNIX) {
        const struct sockaddr_un *name = (const struct sockaddr_un *)&address;
        if (len > offsetof(struct sockaddr_un, sun_path))
            snprintf(listener->address, sizeof listener->address, "%.*s",
                     (int)(len - offsetof(struct sockaddr_un, sun_path)), name->sun_path);
    } else if (getnameinfo((struct sockaddr *)&address, len, host, sizeof host, port, sizeof port,
                           NI_NUMERICHOST | NI_NUMERICSERV) == 0) {
        snprintf(listener->address, sizeof listener->address, "%s %s", host, port);
    }
}

static int bind_inet(mlt_listener *listener, const struct sockaddr_storage *address, socklen_t len,
                     const char *spec, char *error)
{
    int on = 1;
    if (setsockopt(listener->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0)
        return fail(error, MLT_ERR_IO, "set reuseaddr failed (%s)", strerror(errno));
    if (bind(listener->fd, (const struct sockaddr *)address, len) != 0)
        return fail(error, MLT_ERR_IO, "Unable to bind to port %s: %s", spec, strerror(errno));
    return MLT_OK;
}

static int take_over(mlt_listener *listener, int fd, char *error)
{
    int type = 0;
    socklen_t len = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) != 0)
        return fail(error, MLT_ERR_IO, "fd %d is not a socket: %s", fd, strerror(errno));
    if (type != SOCK_STREAM)
        return fail(error, MLT_ERR_IO, "fd %d is not a stream socket", fd);
    listener->fd = fd;
    return MLT_OK;
}

int mlt_socket_listen(mlt_listener *listener, const char *spec, const mlt_socket_options *options,
                      char *error)
{
    target to;
    struct sockaddr_storage address;
    socklen_t len = 0;
    *listener = (mlt_listener){.fd = -1};
    int status = parse(spec, &to, error);
    if (status == MLT_OK && (to.family == AF_INET || to.family == AF_INET6))
        status = resolve(&to, &address, &len, error);
    if (status != MLT_OK)
        return status;
    if (to.family == AF_UNSPEC) {
        status = take_over(listener, to.fd, error);
        if (status != MLT_OK)
            return status;
    } else {
        listener->fd = socket(to.family, SOCK_STREAM, 0);
        if (listener->fd < 0)
            return fail(error, MLT_ERR_IO, "Unable to create new socket: %s", strerror(errno));
        status = to.family == AF_UNIX ? bind_unix(listener, &to, options, error)
                                      : bind_inet(listener, &address, len, spec, error);
    }
    /* Not blocking, because another process may share the socket and be first to accept. */
    int flags = fcntl(listener->fd, F_GETFL);
    if (status == MLT_OK && fcntl(listener->fd, F_SETFD, FD_CLOEXEC) != 0)
        status = fail(error, MLT_ERR_IO, "Unable to set close-on-exec: %s", strerror(errno));
    if (status == MLT_OK && (flags < 0 || fcntl(listener->fd, F_SETFL, flags | O_NONBLOCK) != 0))
        status = fail(error, MLT_ERR_IO, "Unable to set non-blocking: %s", strerror(errno));
    if (status == MLT_OK && listen(listener->fd, options->backlog) != 0)
        status = fail(error, MLT_ERR_IO, "listen call failed: %s", strerror(errno));
    if (status != MLT_OK) {
        mlt_socket_close(listener);
        return status;
    }
    describe(listener);
    return MLT_OK;
}

void mlt_socket_close(mlt_listener *listener)
{
    struct stat info;
    if (listener->fd >= 0)
        close(listener->fd);
    listener->fd = -1;
    if (listener->made_file && lstat(listener->address, &info) == 0 && S_ISSOCK(info.st_mode) &&
        info.st_dev == listener->device && info.st_ino == listener->inode)
        unlink(listener->address);
    listener->made_file = false;
    listener->address[0] = '\0';
}

/* ------------------------------------------------------------------------------------------ */
/* Connections */

int mlt_socket_accept(const mlt_listener *listener, bool blocking)
{
#ifdef __linux__
    return accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | (blocking ? 0 : SOCK_NONBLOCK));
#else
    /* Elsewhere an accepted socket inherits the listener's flags, and accept4() may be missing. */
    int fd = accept(listener->fd, NULL, NULL);
    if (fd >= 0) {
        int flags = fcntl(fd, F_GETFL);
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        fcntl(fd, F_SETFL, blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK);
    }
    return fd;
#endif
}

static struct timeval to_timeval(int64_t ms)
{
    return (struct timeval){(time_t)(ms / 1000), (suseconds_t)(ms % 1000 * 1000)};
}

void mlt_socket_prepare(int fd, int64_t read_timeout, int64_t write_timeout, bool *tcp)
{
    int on = 1;
    struct sockaddr_storage address;
    socklen_t len = sizeof address;
#ifdef SO_NOSIGPIPE
    setsockopt(fd, SOL_SOCKET, SO_NOSIGPIPE, &on, sizeof on);
#endif
    *tcp = getsockname(fd, (struct sockaddr *)&address, &len) == 0 &&
           (address.ss_family == AF_INET || address.ss_family == AF_INET6);
    if (*tcp) {
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    if (read_timeout > 0) {
        struct timeval time = to_timeval(read_timeout);
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
    }
    if (write_timeout >= 0) {
        /* To the system 0 is for ever. */
        struct timeval time =
            write_timeout > 0 ? to_timeval(write_timeout) : (struct timeval){0, 1};
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof time);
    }
}

ssize_t mlt_socket_read(int fd, char *bytes, size_t room, bool wait, bool tcp)
{
    ssize_t got;
    do {
        got = recv(fd, bytes, room, wait ? 0 : MSG_DONTWAIT);
    } while (got < 0 && errno == EINTR);
#ifdef TCP_QUICKACK
    /* Sendmail writes macros and command as two small packets, and Nagle holds back the second
     * until the first is acknowledged: 44 ms per command (wire spec 9.1). The option wears off. */
    if (tcp && got > 0) {
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
    }
#else
    (void)tcp;
#endif
    return got;
}

int mlt_socket_wait(int fd, int64_t timeout)
{
    struct pollfd wanted = {fd, POLLIN, 0};
    int ready;
    int64_t deadline = timeout < 0 ? 0 : mlt_socket_now() + timeout;
    do {
        int64_t left = timeout < 0 ? -1 : deadline - mlt_socket_now();
        if (timeout >= 0 && left < 0)
            left = 0;
        ready = poll(&wanted, 1, left > INT_MAX ? INT_MAX : (int)left);
    } while (ready < 0 && errno == EINTR);
    return ready;
}

int mlt_socket_write(int fd, struct iovec *parts, int count)
{
    while (count > 0) {
        struct msghdr message = {0};
        message.msg_iov = parts;
        message.msg_iovlen = (size_t)count;
        ssize_t done = sendmsg(fd, &message, MSG_NOSIGNAL);
        if (done < 0) {
            if (errno == EINTR)
                continue;
            return errno == EAGAIN || errno == EWOULDBLOCK ? MLT_ERR_TIMEOUT : MLT_ERR_IO;
        }
        size_t left = (size_t)done;
        while (count > 0 && left >= parts->iov_len) {
            left -= parts->iov_len;
            parts->iov_len = 0;
            parts++;
            count--;
        }
        if (count > 0) {
            parts->iov_base = (char *)parts->iov_base + left;
            parts->iov_len -= left;
        }
    }
    return MLT_OK;
}

int64_t mlt_socket_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}
