/*
 * test_protocol.c - the tables of protocol.def against the numbers of wire spec 1.3 to 1.5, 2.2,
 * 2.3 and 3.4, typed here a second time on purpose.
 */
#include "../protocol.h"

#include <string.h>

#include "test.h"

/* Every command has the letter, the answer and the first version that wire spec 1.3 gives. */
TEST(protocol_commands)
{
    static const struct {
        int letter;
        int answer;
        uint32_t since;
    } rows[] = {
        {0x4F, MLT_ANSWER_OPTIONS, 2}, {0x44, MLT_ANSWER_NONE, 2}, {0x43, MLT_ANSWER_ONE, 2},
        {0x48, MLT_ANSWER_ONE, 2},     {0x4D, MLT_ANSWER_ONE, 2},  {0x52, MLT_ANSWER_ONE, 2},
        {0x54, MLT_ANSWER_ONE, 4},     {0x4C, MLT_ANSWER_ONE, 2},  {0x4E, MLT_ANSWER_ONE, 2},
        {0x42, MLT_ANSWER_ONE, 2},     {0x45, MLT_ANSWER_MODS, 2}, {0x41, MLT_ANSWER_NONE, 2},
        {0x51, MLT_ANSWER_NONE, 2},    {0x4B, MLT_ANSWER_NONE, 6}, {0x55, MLT_ANSWER_ONE, 3},
    };
    size_t count = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const mlt_packet_row *row = mlt_protocol_command(rows[i].letter);
        REQUIRE(row != NULL);
        test_row(row->symbol);
        CHECK_INT(rows[i].letter, row->letter);
        CHECK_INT(rows[i].answer, row->kind);
        CHECK_INT(rows[i].since, row->action);
    }
    while (mlt_commands[count].symbol != NULL)
        count++;
    CHECK_INT(15, count);
}

/* Every reply has the letter, the kind and the action bit that wire spec 1.4 and 1.5 give. */
TEST(protocol_replies)
{
    static const struct {
        int letter;
        int kind;
        uint32_t action;
    } rows[] = {
        {0x4F, MLT_REPLY_OPTIONS, 0},         {0x63, MLT_REPLY_VERDICT, 0},
        {0x61, MLT_REPLY_VERDICT, 0},         {0x72, MLT_REPLY_VERDICT, 0},
        {0x74, MLT_REPLY_VERDICT, 0},         {0x64, MLT_REPLY_VERDICT, 0},
        {0x79, MLT_REPLY_VERDICT, 0},         {0x73, MLT_REPLY_VERDICT, 0},
        {0x70, MLT_REPLY_PROGRESS, 0},        {0x68, MLT_REPLY_MODIFICATION, 0x01},
        {0x69, MLT_REPLY_MODIFICATION, 0x01}, {0x6D, MLT_REPLY_MODIFICATION, 0x10},
        {0x62, MLT_REPLY_MODIFICATION, 0x02}, {0x2B, MLT_REPLY_MODIFICATION, 0x04},
        {0x32, MLT_REPLY_MODIFICATION, 0x80}, {0x2D, MLT_REPLY_MODIFICATION, 0x08},
        {0x65, MLT_REPLY_MODIFICATION, 0x40}, {0x71, MLT_REPLY_MODIFICATION, 0x20},
        {0x34, MLT_REPLY_NEVER, 0},           {0x66, MLT_REPLY_NEVER, 0},
    };
    size_t count = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const mlt_packet_row *row = mlt_protocol_reply(rows[i].letter);
        REQUIRE(row != NULL);
        test_row(row->symbol);
        CHECK_INT(rows[i].letter, row->letter);
        CHECK_INT(rows[i].kind, row->kind);
        CHECK_INT(rows[i].action, row->action);
    }
    while (mlt_replies[count].symbol != NULL)
        count++;
    CHECK_INT(20, count);
}

/* Every step has the letter, NO bit, NR bit (2.2, 2.3), macro stage (1.5), rank (3.4) and libmilter
 * state number (2.3) of the wire spec. */
TEST(protocol_steps)
{
    static const struct {
        int step;
        int letter;
        uint32_t no_bit;
        uint32_t nr_bit;
        int stage;
        int rank;
        int repeats;
        int state;
    } rows[] = {
        {MLT_STEP_NEGOTIATE, 'O', 0, 0, -1, -1, 0, 1},
        {MLT_STEP_CONNECT, 'C', 0x1, 0x1000, 0, -1, 0, 2},
        {MLT_STEP_HELO, 'H', 0x2, 0x2000, 1, -1, 1, 3},
        {MLT_STEP_MAIL, 'M', 0x4, 0x4000, 2, 0, 0, 4},
        {MLT_STEP_RCPT, 'R', 0x8, 0x8000, 3, 1, 1, 5},
        {MLT_STEP_DATA, 'T', 0x200, 0x10000, 4, 2, 0, 6},
        {MLT_STEP_HEADER, 'L', 0x20, 0x80, -1, 3, 1, 7},
        {MLT_STEP_EOH, 'N', 0x40, 0x40000, 6, 4, 0, 8},
        {MLT_STEP_BODY, 'B', 0x10, 0x80000, -1, 5, 1, 9},
        {MLT_STEP_EOM, 'E', 0, 0, 5, 6, 0, 10},
        {MLT_STEP_ABORT, 'A', 0, 0, -1, -1, 0, 12},
        {MLT_STEP_CLOSE, 'Q', 0, 0, -1, -1, 0, 11},
        {MLT_STEP_UNKNOWN, 'U', 0x100, 0x20000, -1, -1, 1, 13},
    };
    CHECK_INT(MLT_STEPS, sizeof rows / sizeof *rows);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const mlt_step_row *row = &mlt_steps[rows[i].step];
        test_row(row->symbol);
        CHECK_INT(rows[i].letter, row->letter);
        CHECK_INT(rows[i].no_bit, row->no_bit);
        CHECK_INT(rows[i].nr_bit, row->nr_bit);
        CHECK_INT(rows[i].stage, row->stage);
        CHECK_INT(rows[i].rank, row->rank);
        CHECK_INT(rows[i].repeats, row->repeats);
        CHECK_INT(rows[i].state, row->state);
        CHECK_INT(rows[i].step, mlt_protocol_step(rows[i].letter));
    }
    test_row(NULL);
    CHECK(mlt_steps[MLT_STEPS].symbol == NULL);
    CHECK_TEXT("envfrom", mlt_steps[MLT_STEP_MAIL].callback);
    CHECK_TEXT("hello", mlt_steps[MLT_STEP_HELO].method);
}

/* Letters that are none, and those without a step of their own, are told apart from the others. */
TEST(protocol_letters_that_do_not_exist)
{
    for (int letter = -1; letter <= 256; letter++) {
        bool command = letter > 0 && letter < 256 && strchr("ODCHMRTLNBEAQKU", letter) != NULL;
        bool reply = letter > 0 && letter < 256 && strchr("Ocartdysphimb+2-eq4f", letter) != NULL;
        bool step = command && letter != 'D' && letter != 'K';
        CHECK_INT(command, mlt_protocol_command(letter) != NULL);
        CHECK_INT(reply, mlt_protocol_reply(letter) != NULL);
        CHECK_INT(step, mlt_protocol_step(letter) >= 0);
    }
}

/* Macro stages by letter: wire spec 1.5 (note the order of EOM and EOH); the seven of 1.3. */
TEST(protocol_stages)
{
    static const struct {
        char letter;
        int stage;
    } rows[] = {{'C', 0}, {'H', 1}, {'M', 2}, {'R', 3}, {'T', 4}, {'E', 5}, {'N', 6}};
    for (int letter = -1; letter <= 256; letter++) {
        int expected = -1;
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            if (rows[i].letter == letter)
                expected = rows[i].stage;
        }
        CHECK_INT(expected, mlt_protocol_stage(letter));
    }
    /* From first to last in time, which a look-up goes through backwards. */
    const char *order = "CHMRTNE";
    for (size_t i = 0; i < 7; i++)
        CHECK_INT(order[i], mlt_stages[i].letter);
    CHECK(mlt_stages[7].symbol == NULL);
}

/* The letter of each verdict: wire spec 1.5 and 4.1; all other values are no verdicts. */
TEST(protocol_verdicts)
{
    static const int letters[] = {'c', 'r', 'd', 'a', 't', -1, -1, 0, 's', -1, 0, -1};
    for (int verdict = 0; verdict < 12; verdict++)
        CHECK_INT(letters[verdict], mlt_protocol_verdict(verdict));
    CHECK_INT(-1, mlt_protocol_verdict(-1));
    CHECK_INT(-1, mlt_protocol_verdict(20));
    CHECK_INT(-1, mlt_protocol_verdict(99));
}

/* The sums of the bits are the words that wire spec 1.5 and 2.2 name. */
TEST(protocol_words)
{
    CHECK_INT(0x1FF, mlt_protocol_actions());
    CHECK_INT(0x37F, mlt_protocol_no_bits());
    CHECK_INT(0xFF080, mlt_protocol_nr_bits());
    uint32_t all = 0;
    for (const mlt_constant_row *row = mlt_protocol_bits; row->symbol != NULL; row++)
        all |= (uint32_t)row->value;
    CHECK_INT(0x301FFFFF, all);
    CHECK_INT(0x01000001, SMFI_VERSION);
}
