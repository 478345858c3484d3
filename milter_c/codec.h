/*
 * codec.h - payload <-> fields, by the shapes of protocol.def.
 *
 * No I/O, no memory of its own: what comes out are spans of what went in. Knows what a packet
 * looks like, not when it may come. mlt_codec_decode() and mlt_codec_encode() are declared in
 * engine.h because Python uses them too.
 */
#ifndef MLT_CODEC_H
#define MLT_CODEC_H

#include "engine.h"
#include "protocol.h"

/* What the MTA says about its client: CONNECT without the host name. */
typedef struct mlt_client {
    int family; /* '4', '6', 'L' or 'U' */
    int port;
    char address[MLT_ADDRESS]; /* as inet_ntop() writes it, or a path; "" for U */
} mlt_client;

/*
 * Decodes the command of a step with a callback. event->data and ->len are set as engine.h says;
 * `client` too, for CONNECT (it may be NULL for all others). On MLT_ERR_PEER *why points to a
 * constant text that says, behind the command's name, what is wrong.
 */
int mlt_codec_event(int step, mlt_span payload, mlt_event *event, mlt_client *client,
                    const char **why);

/*
 * Decodes MACRO: the letter of the stage, the whole pairs in `pairs`, and how many these are.
 * MLT_OK; MLT_END for a packet that is to be ignored, as it names no macro at all (wire spec
 * 3.5); MLT_ERR_PEER for one without a stage.
 */
int mlt_codec_macros(mlt_span payload, int *letter, mlt_span *pairs, size_t *count);

/* Decodes OPTNEG. MLT_OK or MLT_ERR_PEER (too short). */
int mlt_codec_options(mlt_span payload, uint32_t *version, uint32_t *actions, uint32_t *protocol);

#endif
