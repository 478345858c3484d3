/* What the MTA sends: every packet of a connection, prepared once. No I/O.
 *
 * A script depends on what the filter negotiated: steps it does not want are not in it. All
 * connections that negotiated the same share one.
 */
#ifndef BENCH_SCRIPT_H
#define BENCH_SCRIPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum style {
    STYLE_POSTFIX,  /* macros with every step, in one write with it; unanswered steps wait for the
                       next that is answered; ABORT before each further message */
    STYLE_SENDMAIL, /* every packet a write of its own; macros only for the steps that have a list
                     */
};

/* What the messages are like. */
struct workload {
    enum style style;
    unsigned headers;
    unsigned recipients;
    size_t body;
};

/* Bytes of the script; `owner` says whose. */
struct span {
    const uint8_t *data;
    size_t size;
};

/* What is sent at once or queued at once: a command, its macros in front of it, or both. */
struct step {
    struct span span;
    char command;  /* of the command, or of the one that these macros are for */
    bool answered; /* the filter owes a reply */
    bool written;  /* what is queued is written now, at the latest */
};

struct script {
    struct script *next;
    uint8_t *negotiated; /* the filter's answer that this script is for */
    size_t negotiated_size;
    uint32_t version;
    uint32_t actions;
    uint32_t protocol;
    uint8_t *bytes;     /* owns what all spans point into */
    struct step *steps; /* CONNECT and HELO, then one message; either may be empty */
    size_t count;
    size_t message;    /* the first step of the message */
    size_t content;    /* the first step behind the recipients */
    size_t end;        /* the first step of the end of message */
    struct span renew; /* in front of each further message; may be empty */
    struct span quit;  /* at the end of the connection */
};

/* The MTA's offer, the first packet of every connection; static. */
struct span script_offer(void);

/* Makes the script for the filter's answer to the offer (the data of its packet, at least 12
 * bytes). Returns NULL if there is no memory. */
struct script *script_make(const struct workload *workload, const uint8_t *negotiated, size_t size);

void script_free(struct script *script);

#endif
