/*
 * protocol.c - tables and look-ups over protocol.def.
 */
#include "protocol.h"

const mlt_step_row mlt_steps[] = {
#define MLT_STEP(symbol, callback, method, letter, no_bit, nr_bit, stage, rank, repeats, state) \
    {#symbol, callback, method, letter, no_bit, nr_bit, stage, rank, repeats, state},
#include "protocol.def"
    {NULL, NULL, NULL, 0, 0, 0, -1, -1, 0, 0},
};

const mlt_packet_row mlt_commands[] = {
#define MLT_COMMAND(symbol, letter, shape, answer, since) {#symbol, letter, shape, answer, since},
#include "protocol.def"
    {NULL, 0, NULL, 0, 0},
};

const mlt_packet_row mlt_replies[] = {
#define MLT_REPLY(symbol, letter, shape, kind, action) {#symbol, letter, shape, kind, action},
#include "protocol.def"
    {NULL, 0, NULL, 0, 0},
};

const mlt_constant_row mlt_verdicts[] = {
#define MLT_VERDICT(symbol, value, reply) {#symbol, value, reply},
#include "protocol.def"
    {NULL, 0, 0},
};

const mlt_constant_row mlt_action_bits[] = {
#define MLT_ACTION(symbol, value) {#symbol, value, 0},
#include "protocol.def"
    {NULL, 0, 0},
};

const mlt_constant_row mlt_protocol_bits[] = {
#define MLT_PROTOCOL(symbol, value) {#symbol, value, 0},
#include "protocol.def"
    {NULL, 0, 0},
};

const mlt_constant_row mlt_stages[] = {
#define MLT_STAGE(symbol, value, letter) {#symbol, value, letter},
#include "protocol.def"
    {NULL, 0, 0},
};

const mlt_packet_row *mlt_protocol_command(int letter)
{
    switch (letter) {
#define MLT_COMMAND(symbol, letter, shape, answer, since)                          \
    case letter: {                                                                 \
        static const mlt_packet_row row = {#symbol, letter, shape, answer, since}; \
        return &row;                                                               \
    }
#include "protocol.def"
    default:
        return NULL;
    }
}

const mlt_packet_row *mlt_protocol_reply(int letter)
{
    for (const mlt_packet_row *row = mlt_replies; row->symbol != NULL; row++) {
        if (row->letter == letter)
            return row;
    }
    return NULL;
}

int mlt_protocol_step(int letter)
{
    switch (letter) {
#define MLT_STEP(symbol, callback, method, letter, no_bit, nr_bit, stage, rank, repeats, state) \
    case letter:                                                                                \
        return symbol;
#include "protocol.def"
    default:
        return -1;
    }
}

int mlt_protocol_stage(int letter)
{
    switch (letter) {
#define MLT_STAGE(symbol, value, letter) \
    case letter:                         \
        return symbol;
#include "protocol.def"
    default:
        return -1;
    }
}

int mlt_protocol_verdict(int verdict)
{
    switch (verdict) {
#define MLT_VERDICT(symbol, value, reply) \
    case symbol:                          \
        return reply;
#include "protocol.def"
    default:
        return -1;
    }
}

uint32_t mlt_protocol_no_bits(void)
{
    return 0
#define MLT_STEP(symbol, callback, method, letter, no_bit, nr_bit, stage, rank, repeats, state) \
    | (no_bit)
#include "protocol.def"
        ;
}

uint32_t mlt_protocol_nr_bits(void)
{
    return 0
#define MLT_STEP(symbol, callback, method, letter, no_bit, nr_bit, stage, rank, repeats, state) \
    | (nr_bit)
#include "protocol.def"
        ;
}

uint32_t mlt_protocol_actions(void)
{
    return 0
#define MLT_ACTION(symbol, value) | (value)
#include "protocol.def"
        ;
}
