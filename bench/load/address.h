/* Socket specifications: unix:/path, inet:port@host, inet6:port@host. */
#ifndef BENCH_ADDRESS_H
#define BENCH_ADDRESS_H

#include <sys/socket.h>

struct address {
    int family;
    socklen_t size;
    struct sockaddr_storage storage;
};

/* Reads the specification into *address. Returns NULL, or why it cannot (a static text). */
const char *address_parse(const char *spec, struct address *address);

#endif
