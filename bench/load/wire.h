/* The few words of the milter protocol that the benchmark's own programs need (wire spec 1 and 2).
 *
 * Kept apart from the engine's tables on purpose: what measures the engine does not share its code.
 */
#ifndef BENCH_WIRE_H
#define BENCH_WIRE_H

#include <stddef.h>
#include <stdint.h>

enum {
    WIRE_HEAD = 5,            /* length word and letter in front of every packet's data */
    WIRE_VERSION = 6,         /* what both MTAs offer */
    WIRE_ACTIONS = 0x1FF,     /* all actions */
    WIRE_PROTOCOL = 0x1FFFFF, /* every step may be left out, every answer omitted */
    WIRE_CHUNK = 65535,       /* body bytes in one packet */
    WIRE_LARGEST = 16 << 20,  /* a longer reply is taken for a broken length */
    WIRE_NO_CONNECT = 0x1,    /* SMFIP_NO...: the step is not sent */
    WIRE_NO_HELO = 0x2,
    WIRE_NO_MAIL = 0x4,
    WIRE_NO_RCPT = 0x8,
    WIRE_NO_BODY = 0x10,
    WIRE_NO_HEADERS = 0x20,
    WIRE_NO_EOH = 0x40,
    WIRE_NO_DATA = 0x200,
    WIRE_NR_HEADER = 0x80, /* SMFIP_NR...: the step is not answered */
    WIRE_NR_CONNECT = 0x1000,
    WIRE_NR_HELO = 0x2000,
    WIRE_NR_MAIL = 0x4000,
    WIRE_NR_RCPT = 0x8000,
    WIRE_NR_DATA = 0x10000,
    WIRE_NR_UNKNOWN = 0x20000,
    WIRE_NR_EOH = 0x40000,
    WIRE_NR_BODY = 0x80000,
    WIRE_NR_ALL = 0xFF080,
    WIRE_SKIP = 0x400, /* the filter may answer a body chunk with "no more of it" */
    WIRE_LEADING_SPACE = 0x100000,
};

/* Writes the 32-bit integer as it goes over the wire, big-endian. */
static inline void wire_put(uint8_t *to, uint32_t value)
{
    to[0] = (uint8_t)(value >> 24);
    to[1] = (uint8_t)(value >> 16);
    to[2] = (uint8_t)(value >> 8);
    to[3] = (uint8_t)value;
}

static inline uint32_t wire_get(const uint8_t *from)
{
    return (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 | (uint32_t)from[2] << 8 |
           (uint32_t)from[3];
}

#endif
