/*
 * dialogue.h - conversations in the notation of wire spec 8, played in several ways.
 *
 * A script is a list of packets, each with the answer that the filter gives to its event:
 *   C H M R T L N B E A Q K U   the packets of wire spec 8
 *   O                           a handshake with the row's words; played first, and not traced,
 *                               unless the row is `raw`
 *   E+                          BODYEOB with data; two answers, that to the body first
 *   D:C D:M ...                 macros of a stage: one macro;  d:C d:M ...: none
 *   [4E 7A]                     a packet with these bytes, letter first
 *   {00 00 00 00 48}            these bytes, which are no packet
 *   M=r                         answers: c r d a t s as on the wire, n NOREPLY, o ALL_OPTS,
 *                               ? a value that is none, y REJECT and z TEMPFAIL with a text
 * After the script the MTA hangs up.
 *
 * A trace is what comes of it, a token for each event: the callback's name, with ">c" behind it
 * for what the MTA receives. ">c" alone is an answer without an event, "-" a packet that is
 * dropped (macros are not shown), "FAIL" one that ends the connection.
 */
#ifndef MLT_DIALOGUE_H
#define MLT_DIALOGUE_H

#include <stdbool.h>

#include "../engine.h"
#include "../protocol.h"

typedef struct dialogue {
    const char *name; /* what it shows; row numbers are those of wire spec 8 */
    const char *script;
    const char *trace;
    uint32_t absent;   /* steps without a callback */
    uint32_t want;     /* further protocol bits that the filter asks for in negotiate */
    uint32_t offer;    /* protocol word that the MTA offers; 0: 0x1FFFFF */
    uint32_t unwanted; /* as in mlt_settings */
    uint32_t bytes;    /* limit of a packet; 0: the default */
    bool raw;          /* no handshake comes first */
} dialogue;

enum { DIALOGUE_PACKETS = 128, DIALOGUE_BYTES = 4096, DIALOGUE_TRACE = 4096 };

/* A script as bytes. Packet i ends at ends[i]. */
typedef struct dialogue_script {
    size_t count;
    size_t len;
    size_t ends[DIALOGUE_PACKETS];
    char answers[DIALOGUE_PACKETS][2];
    bool traced[DIALOGUE_PACKETS];
    char letters[DIALOGUE_PACKETS];
    char data[DIALOGUE_BYTES];
} dialogue_script;

void dialogue_parse(const dialogue *one, dialogue_script *out);

/* Sets what a row says about the filter. */
void dialogue_settings(const dialogue *one, mlt_settings *settings);

/* The SMFIS_ value and the reply text of an answer. */
int dialogue_verdict(char answer, mlt_span *text);

/*
 * Plays each row, and checks that its trace comes out: through frame, codec and session, whole and
 * byte by byte, each byte in front of a guard page; and through a connection over a socket pair,
 * all in one read, and read byte by byte.
 */
void dialogue_play(const dialogue *rows, size_t count);

#define PLAY(rows) dialogue_play(rows, sizeof(rows) / sizeof *(rows))

#endif
