/* Owns the reading of socket specifications; opens nothing. */
#include "address.h"

#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

static const char *parse_unix(const char *path, struct address *address)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    size_t length = strlen(path);

    if (length == 0) {
        return "the path is empty";
    }
    if (length >= sizeof name.sun_path) {
        return "the path is too long for a unix socket";
    }
    memcpy(name.sun_path, path, length);
    memcpy(&address->storage, &name, sizeof name);
    address->family = AF_UNIX;
    address->size = sizeof name;
    return NULL;
}

static const char *parse_inet(const char *rest, int family, struct address *address)
{
    const char *at = strchr(rest, '@');
    char port[8];
    struct addrinfo wanted = {.ai_family = family, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found;

    if (at == NULL) {
        return "expected port@host";
    }
    if (at == rest || (size_t)(at - rest) >= sizeof port) {
        return "the port is no number up to 65535";
    }
    snprintf(port, sizeof port, "%.*s", (int)(at - rest), rest);
    if (strspn(port, "0123456789") != strlen(port) || atoi(port) > 65535) {
        return "the port is no number up to 65535";
    }
    wanted.ai_flags = AI_NUMERICSERV;
    int code = getaddrinfo(at + 1, port, &wanted, &found);
    if (code != 0) {
        return gai_strerror(code);
    }
    memcpy(&address->storage, found->ai_addr, found->ai_addrlen);
    address->family = family;
    address->size = found->ai_addrlen;
    freeaddrinfo(found);
    return NULL;
}

const char *address_parse(const char *spec, struct address *address)
{
    memset(address, 0, sizeof *address);
    if (strncmp(spec, "unix:", 5) == 0) {
        return parse_unix(spec + 5, address);
    }
    if (strncmp(spec, "inet:", 5) == 0) {
        return parse_inet(spec + 5, AF_INET, address);
    }
    if (strncmp(spec, "inet6:", 6) == 0) {
        return parse_inet(spec + 6, AF_INET6, address);
    }
    return "expected unix:/path or inet:port@host";
}
