/*
 * protocol.h - the rows of protocol.def as enums and tables.
 *
 * Owns no state and knows no packet but by its row.
 */
#ifndef MLT_PROTOCOL_H
#define MLT_PROTOCOL_H

#include "engine.h"

enum mlt_protocol_constants {
#define MLT_NUMBER(symbol, value) symbol = value,
#define MLT_VERDICT(symbol, value, reply) symbol = value,
#define MLT_ACTION(symbol, value) symbol = value,
#define MLT_PROTOCOL(symbol, value) symbol = value,
#define MLT_STAGE(symbol, value, letter) symbol = value,
#define MLT_COMMAND(symbol, letter, shape, answer, since) symbol = letter,
#define MLT_REPLY(symbol, letter, shape, kind, action) symbol = letter,
#include "protocol.def"
};

enum mlt_step {
#define MLT_STEP(symbol, ...) symbol,
#include "protocol.def"
    MLT_STEPS
};

/* The row of a command or reply letter; NULL for a letter that does not exist. */
const mlt_packet_row *mlt_protocol_command(int letter);
const mlt_packet_row *mlt_protocol_reply(int letter);

/* The step that a command letter starts, or -1: MACRO and QUIT_NC have none of their own. */
int mlt_protocol_step(int letter);

/* The macro stage that a letter names, SMFIM_x, or -1. */
int mlt_protocol_stage(int letter);

/* The letter that says a verdict, 0 where nothing is said, -1 where it is no verdict. */
int mlt_protocol_verdict(int verdict);

#endif
