/*
 * test_session.c - what may follow what, which reply is legal, who is owed one, macro scope.
 *
 * Most cases are dialogues (dialogue.h), played without a socket and over one. Numbers are the rows
 * of wire spec 8, Q numbers those of 3.3. Where the wire spec lets an engine choose between
 * dropping a packet that makes no sense and closing ("D/C"), this engine closes.
 */
#include "../session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../frame.h"
#include "dialogue.h"
#include "test.h"

#define NO_STEPS                                                                                  \
    (SMFIP_NOCONNECT | SMFIP_NOHELO | SMFIP_NOMAIL | SMFIP_NORCPT | SMFIP_NODATA | SMFIP_NOHDRS | \
     SMFIP_NOEOH | SMFIP_NOBODY | SMFIP_NOUNKNOWN)
#define NR_ALL 0xFF080
#define NR_ENVELOPE (SMFIP_NR_CONN | SMFIP_NR_HELO | SMFIP_NR_MAIL | SMFIP_NR_RCPT)
#define NR_CONTENT (SMFIP_NR_HDR | SMFIP_NR_EOH | SMFIP_NR_BODY)

/* ------------------------------------------------------------------------------------------ */
/* Order of commands (wire spec 3.1 to 3.4) */

/* Messages in the ordinary order, also with parts left out, are reported and answered one by one.
 */
TEST(session_ordinary_messages)
{
    static const dialogue rows[] = {
        {.name = "91: a whole message",
         .script = "C H M R T L N B E",
         .trace = "connect>c helo>c envfrom>c envrcpt>c data>c header>c eoh>c body>c eom>c close"},
        {.name = "91: with a goodbye",
         .script = "C H M R T L N B E Q",
         .trace = "connect>c helo>c envfrom>c envrcpt>c data>c header>c eoh>c body>c eom>c close"},
        {.name = "two messages",
         .script = "C H M R T L N B E M R T N E Q",
         .trace = "connect>c helo>c envfrom>c envrcpt>c data>c header>c eoh>c body>c eom>c "
                  "envfrom>c envrcpt>c data>c eoh>c eom>c close"},
        {.name = "several recipients, headers and chunks",
         .script = "M R R R T L L N B B B E",
         .trace = "envfrom>c envrcpt>c envrcpt>c envrcpt>c data>c header>c header>c eoh>c body>c "
                  "body>c body>c eom>c close"},
        {.name = "99: R E",
         .script = "C H M R E",
         .trace = "connect>c helo>c envfrom>c envrcpt>c eom>c close"},
        {.name = "99: R B B E",
         .script = "M R B B E",
         .trace = "envfrom>c envrcpt>c body>c body>c eom>c close"},
        {.name = "99: R N E",
         .script = "M R N E",
         .trace = "envfrom>c envrcpt>c eoh>c eom>c close"},
        {.name = "99: R L L N B E",
         .script = "M R L L N B E",
         .trace = "envfrom>c envrcpt>c header>c header>c eoh>c body>c eom>c close"},
        {.name = "16: data where there is none",
         .script = "M R [54 78 79 7A] [4E 7A 7A] E [51 78 79 7A]",
         .trace = "envfrom>c envrcpt>c data>c eoh>c eom>c close"},
    };
    PLAY(rows);
}

/* Q3, 115 to 117: any later part of a message may follow any earlier one, whatever was negotiated
 * away between them. */
TEST(session_forward_moves)
{
    static const dialogue rows[] = {
        {.name = "115",
         .absent = SMFIP_NOEOH,
         .script = "M R T L B E",
         .trace = "envfrom>c envrcpt>c data>c header>c body>c eom>c close"},
        {.name = "116",
         .absent = SMFIP_NOHDRS | SMFIP_NOEOH,
         .script = "M R T B E",
         .trace = "envfrom>c envrcpt>c data>c body>c eom>c close"},
        {.name = "116, no body",
         .absent = SMFIP_NOHDRS | SMFIP_NOEOH | SMFIP_NOBODY,
         .script = "M R T E",
         .trace = "envfrom>c envrcpt>c data>c eom>c close"},
        {.name = "117",
         .absent = SMFIP_NOEOH,
         .script = "M R T B E",
         .trace = "envfrom>c envrcpt>c data>c body>c eom>c close"},
        {.name = "117, no body",
         .absent = SMFIP_NOEOH | SMFIP_NOBODY,
         .script = "M R T E",
         .trace = "envfrom>c envrcpt>c data>c eom>c close"},
        {.name = "nothing away, T B E",
         .script = "M R T B E",
         .trace = "envfrom>c envrcpt>c data>c body>c eom>c close"},
        {.name = "nothing away, T L E",
         .script = "M R T L E",
         .trace = "envfrom>c envrcpt>c data>c header>c eom>c close"},
    };
    PLAY(rows);
}

/* 118, 122, 140: where the steps that open a message are negotiated away, a later one opens it. */
TEST(session_messages_opened_late)
{
    static const dialogue rows[] = {
        {.name = "118: no rcpt",
         .absent = SMFIP_NORCPT,
         .script = "M T L N E",
         .trace = "envfrom>c data>c header>c eoh>c eom>c close"},
        {.name = "118: no mail",
         .absent = SMFIP_NOMAIL,
         .script = "H R T L N E",
         .trace = "helo>c envrcpt>c data>c header>c eoh>c eom>c close"},
        {.name = "118: neither",
         .absent = SMFIP_NOMAIL | SMFIP_NORCPT,
         .script = "H T L N E",
         .trace = "helo>c data>c header>c eoh>c eom>c close"},
        {.name = "no mail: hanging up in an opened message aborts it",
         .absent = SMFIP_NOMAIL,
         .script = "H R",
         .trace = "helo>c envrcpt>c abort close"},
        {.name = "no mail: DATA cannot open",
         .absent = SMFIP_NOMAIL,
         .script = "H T",
         .trace = "helo>c FAIL close"},
        {.name = "no rcpt: DATA cannot open",
         .absent = SMFIP_NORCPT,
         .script = "H T",
         .trace = "helo>c FAIL close"},
        {.name = "122: only eom", .absent = NO_STEPS, .script = "E", .trace = "eom>c close"},
        {.name = "only eom, twice",
         .absent = NO_STEPS,
         .script = "E E",
         .trace = "eom>c eom>c close"},
        {.name = "no mail: two messages",
         .absent = SMFIP_NOMAIL,
         .script = "R E R E",
         .trace = "envrcpt>c eom>c envrcpt>c eom>c close"},
    };
    PLAY(rows);
}

/* 121, 62: a command whose step has no callback is answered all the same; a CONNECT is then not
 * even looked at. */
TEST(session_absent_steps_are_answered)
{
    static const dialogue rows[] = {
        {.name = "121",
         .absent = NO_STEPS,
         .script = "C H M R T L N B E U",
         .trace = ">c >c >c >c >c >c >c >c eom>c >c close"},
        {.name = "live list of unwanted steps",
         .unwanted = 1u << MLT_STEP_HELO | 1u << MLT_STEP_HEADER | 1u << MLT_STEP_EOM,
         .script = "C H M R T L N B E",
         .trace = "connect>c >c envfrom>c envrcpt>c data>c >c eoh>c body>c >c close"},
        {.name = "unwanted mail still opens",
         .unwanted = 1u << MLT_STEP_MAIL,
         .script = "M",
         .trace = ">c abort close"},
        {.name = "62: a bad C is not looked at",
         .absent = SMFIP_NOCONNECT,
         .script = "[43 68] H",
         .trace = ">c helo>c close"},
        {.name = "62: nor an empty one",
         .absent = SMFIP_NOCONNECT,
         .script = "[43] H",
         .trace = ">c helo>c close"},
        {.name = "but other packets are",
         .absent = SMFIP_NOHELO,
         .script = "C [48]",
         .trace = "connect>c FAIL close"},
    };
    PLAY(rows);
}

/* 94 to 101: what comes out of order ends the connection, with abort where a message is open. */
TEST(session_out_of_order)
{
    static const dialogue rows[] = {
        {.name = "92: no O", .raw = true, .script = "H M R", .trace = "FAIL close"},
        {.name = "93: no O, C", .raw = true, .script = "C", .trace = "FAIL close"},
        {.name = "93: no O, E", .raw = true, .script = "E", .trace = "FAIL close"},
        {.name = "52: second O", .script = "C H O", .trace = "connect>c helo>c FAIL close"},
        {.name = "52: second O in a message",
         .script = "C H M R O",
         .trace = "connect>c helo>c envfrom>c envrcpt>c FAIL abort close"},
        {.name = "94: C C H", .script = "C C H", .trace = "connect>c FAIL close"},
        {.name = "94: H C M", .script = "H C M", .trace = "helo>c FAIL close"},
        {.name = "94: M C", .script = "M C", .trace = "envfrom>c FAIL abort close"},
        {.name = "94: C after a message",
         .script = "C H M R E C",
         .trace = "connect>c helo>c envfrom>c envrcpt>c eom>c FAIL close"},
        {.name = "94: C after a message without C",
         .script = "H M R E C",
         .trace = "helo>c envfrom>c envrcpt>c eom>c FAIL close"},
        {.name = "94: C in a message opened late",
         .absent = SMFIP_NOMAIL,
         .script = "R C",
         .trace = "envrcpt>c FAIL abort close"},
        {.name = "97: C H R M", .script = "C H R M", .trace = "connect>c helo>c FAIL close"},
        {.name = "98: C H M T",
         .script = "C H M T",
         .trace = "connect>c helo>c envfrom>c FAIL abort close"},
        {.name = "M L", .script = "M L", .trace = "envfrom>c FAIL abort close"},
        {.name = "M N", .script = "M N", .trace = "envfrom>c FAIL abort close"},
        {.name = "M B", .script = "M B", .trace = "envfrom>c FAIL abort close"},
        {.name = "M E", .script = "M E", .trace = "envfrom>c FAIL abort close"},
        {.name = "100: R T R",
         .script = "M R T R",
         .trace = "envfrom>c envrcpt>c data>c FAIL abort close"},
        {.name = "100: T T",
         .script = "M R T T",
         .trace = "envfrom>c envrcpt>c data>c FAIL abort close"},
        {.name = "100: N N",
         .script = "M R N N",
         .trace = "envfrom>c envrcpt>c eoh>c FAIL abort close"},
        {.name = "100: N L",
         .script = "M R N L",
         .trace = "envfrom>c envrcpt>c eoh>c FAIL abort close"},
        {.name = "100: B L",
         .script = "M R B L",
         .trace = "envfrom>c envrcpt>c body>c FAIL abort close"},
        {.name = "101: E E M",
         .script = "M R E E M",
         .trace = "envfrom>c envrcpt>c eom>c FAIL close"},
        {.name = "Q5: R after A",
         .absent = SMFIP_NOUNKNOWN,
         .script = "M R A R",
         .trace = "envfrom>c envrcpt>c abort FAIL close"},
        {.name = "Q5: B after A",
         .absent = SMFIP_NOUNKNOWN,
         .script = "M R A B",
         .trace = "envfrom>c envrcpt>c abort FAIL close"},
    };
    PLAY(rows);
}

/* 95, 96, 102 to 107, Q4, Q6: a message that is not completed gets exactly one abort, when it ends
 * for whatever reason; without an open message there is none. */
TEST(session_abort)
{
    static const dialogue rows[] = {
        {.name = "95",
         .script = "C H M R H M",
         .trace = "connect>c helo>c envfrom>c envrcpt>c abort helo>c envfrom>c abort close"},
        {.name = "96",
         .script = "C H M R M R",
         .trace = "connect>c helo>c envfrom>c envrcpt>c abort envfrom>c envrcpt>c abort close"},
        {.name = "102: in MAIL",
         .script = "M A M",
         .trace = "envfrom>c abort envfrom>c abort close"},
        {.name = "102: in RCPT",
         .script = "M R A M",
         .trace = "envfrom>c envrcpt>c abort envfrom>c abort close"},
        {.name = "102: in DATA",
         .script = "M R T A M",
         .trace = "envfrom>c envrcpt>c data>c abort envfrom>c abort close"},
        {.name = "102: in HEADER",
         .script = "M R T L A M",
         .trace = "envfrom>c envrcpt>c data>c header>c abort envfrom>c abort close"},
        {.name = "102: in EOH",
         .script = "M R T L N A M",
         .trace = "envfrom>c envrcpt>c data>c header>c eoh>c abort envfrom>c abort close"},
        {.name = "102: in BODY",
         .script = "M R T L N B A M",
         .trace = "envfrom>c envrcpt>c data>c header>c eoh>c body>c abort envfrom>c abort close"},
        {.name = "103",
         .script = "A C A H A M R E A A Q",
         .trace = "- connect>c - helo>c - envfrom>c envrcpt>c eom>c - - close"},
        {.name = "104",
         .script = "C H M A A Q",
         .trace = "connect>c helo>c envfrom>c abort - close"},
        {.name = "104: no unknown",
         .absent = SMFIP_NOUNKNOWN,
         .script = "C H M A A Q",
         .trace = "connect>c helo>c envfrom>c abort - close"},
        {.name = "105", .script = "C H M A", .trace = "connect>c helo>c envfrom>c abort close"},
        {.name = "106: Q after O", .script = "Q", .trace = "close"},
        {.name = "106: Q after C", .script = "C Q", .trace = "connect>c close"},
        {.name = "106: Q after H", .script = "C H Q", .trace = "connect>c helo>c close"},
        {.name = "106: Q after E", .script = "M R E Q", .trace = "envfrom>c envrcpt>c eom>c close"},
        {.name = "107: Q after M", .script = "M Q", .trace = "envfrom>c abort close"},
        {.name = "107: Q after R", .script = "M R Q", .trace = "envfrom>c envrcpt>c abort close"},
        {.name = "107: Q after B",
         .script = "M R B Q",
         .trace = "envfrom>c envrcpt>c body>c abort close"},
        {.name = "12: nothing at all", .raw = true, .script = "", .trace = "close"},
        {.name = "13: only O", .script = "", .trace = "close"},
        {.name = "15: after eom", .script = "M R E", .trace = "envfrom>c envrcpt>c eom>c close"},
        {.name = "Q6, 119: no mail, H A H",
         .absent = SMFIP_NOMAIL,
         .script = "H A H",
         .trace = "helo>c - helo>c close"},
        {.name = "Q6, 120: no mail, A after E",
         .absent = SMFIP_NOMAIL,
         .script = "R E A A",
         .trace = "envrcpt>c eom>c - - close"},
        {.name = "A whose text is not looked at",
         .script = "M [41 78 79]",
         .trace = "envfrom>c abort close"},
    };
    PLAY(rows);
}

/* Q1, Q2, 111 to 114: UNKNOWN may come at any time, before CONNECT too, and changes nothing. */
TEST(session_unknown_changes_nothing)
{
    static const dialogue rows[] = {
        {.name = "111",
         .script = "U C U H U M U R U T U L U L U N U B U E U Q",
         .trace = "unknown>c connect>c unknown>c helo>c unknown>c envfrom>c unknown>c envrcpt>c "
                  "unknown>c data>c unknown>c header>c unknown>c header>c unknown>c eoh>c "
                  "unknown>c body>c unknown>c eom>c unknown>c close"},
        {.name = "Q1, 112: no data",
         .absent = SMFIP_NODATA,
         .script = "C H M R U L N B E",
         .trace =
             "connect>c helo>c envfrom>c envrcpt>c unknown>c header>c eoh>c body>c eom>c close"},
        {.name = "Q2, 113: EOF",
         .script = "C H M R U",
         .trace = "connect>c helo>c envfrom>c envrcpt>c unknown>c abort close"},
        {.name = "Q2, 113: Q",
         .script = "C H M R U Q",
         .trace = "connect>c helo>c envfrom>c envrcpt>c unknown>c abort close"},
        {.name = "114",
         .script = "C H M R T U L",
         .trace = "connect>c helo>c envfrom>c envrcpt>c data>c unknown>c header>c abort close"},
        {.name = "whatever its verdict",
         .script = "M U=r R U=a T U=d N U=t B U=y E",
         .trace = "envfrom>c unknown>r envrcpt>c unknown>a data>c unknown>d eoh>c unknown>t body>c "
                  "unknown>y(550 5.7.1 no) eom>c close"},
    };
    PLAY(rows);
}

/* Q7, Q8, 108 to 110: QUIT_NC ends the session in any state and a new one may begin; close is told
 * once for each. */
TEST(session_quit_nc)
{
    static const dialogue rows[] = {
        {.name = "108",
         .script = "C H M R E K C H M",
         .trace = "connect>c helo>c envfrom>c envrcpt>c eom>c close connect>c helo>c envfrom>c "
                  "abort close"},
        {.name = "109: after O", .script = "K C", .trace = "close connect>c close"},
        {.name = "109: after C", .script = "C K C", .trace = "connect>c close connect>c close"},
        {.name = "109: after H",
         .script = "C H K C",
         .trace = "connect>c helo>c close connect>c close"},
        {.name = "109: after M",
         .script = "C H M K C",
         .trace = "connect>c helo>c envfrom>c abort close connect>c close"},
        {.name = "109: after A",
         .script = "C H M A K C",
         .trace = "connect>c helo>c envfrom>c abort close connect>c close"},
        {.name = "109: after E accepted",
         .script = "C H M R E=a K C",
         .trace = "connect>c helo>c envfrom>c envrcpt>c eom>a close connect>c close"},
        {.name = "109: after E rejected",
         .script = "C H M R E=r K C",
         .trace = "connect>c helo>c envfrom>c envrcpt>c eom>r close connect>c close"},
        {.name = "109: after M rejected",
         .script = "C H M=r K C H M R",
         .trace = "connect>c helo>c envfrom>r close connect>c helo>c envfrom>c envrcpt>c abort "
                  "close"},
        {.name = "Q8, 110: then EOF",
         .script = "C H M R E K",
         .trace = "connect>c helo>c envfrom>c envrcpt>c eom>c close"},
        {.name = "Q8, 110: then Q",
         .script = "C H M R E K Q",
         .trace = "connect>c helo>c envfrom>c envrcpt>c eom>c close"},
        {.name = "Q8: K K", .script = "C K K C K", .trace = "connect>c close - connect>c close"},
        {.name = "Q8, 110: an A begins no session",
         .script = "C H M R E K A Q",
         .trace = "connect>c helo>c envfrom>c envrcpt>c eom>c close -"},
        {.name = "before O", .raw = true, .script = "K O", .trace = "close >O"},
        {.name = "before O, and a filter that negotiates",
         .raw = true,
         .want = SMFIP_SKIP,
         .script = "K O",
         .trace = "close negotiate>O close"},
        {.name = "109: and bad bytes begin none",
         .script = "C K {00 00 00 00}",
         .trace = "connect>c close FAIL"},
    };
    PLAY(rows);
}

/* 5 to 11, 65, 69, 75: what is no packet, or no good one, ends the connection; abort comes before
 * close only where a message is open. */
TEST(session_bad_packets)
{
    static const dialogue rows[] = {
        {.name = "5", .script = "{00 00 00 00 48}", .trace = "FAIL close"},
        {.name = "6",
         .script = "M R {FF FF FF FF 4E}",
         .trace = "envfrom>c envrcpt>c FAIL abort close"},
        {.name = "6, small",
         .script = "M R {80 00 00 01 45}",
         .trace = "envfrom>c envrcpt>c FAIL abort close"},
        {.name = "7",
         .script = "M R {80 00 00 00 45}",
         .trace = "envfrom>c envrcpt>c FAIL abort close"},
        {.name = "4: at the limit",
         .bytes = 13,
         .script = "M R N [42 30 31 32 33 34 35 36 37 38 39 30 31]",
         .trace = "envfrom>c envrcpt>c eoh>c body>c abort close"},
        {.name = "4: above the limit",
         .bytes = 13,
         .script = "M R N [42 30 31 32 33 34 35 36 37 38 39 30 31 32]",
         .trace = "envfrom>c envrcpt>c eoh>c FAIL abort close"},
        {.name = "8: empty B",
         .script = "M R N [42]",
         .trace = "envfrom>c envrcpt>c eoh>c FAIL abort close"},
        {.name = "9: C", .script = "[43]", .trace = "FAIL close"},
        {.name = "9: H", .script = "[48]", .trace = "FAIL close"},
        {.name = "9: M, without abort", .script = "[4D]", .trace = "FAIL close"},
        {.name = "9: R", .script = "M [52]", .trace = "envfrom>c FAIL abort close"},
        {.name = "9: L", .script = "M R [4C]", .trace = "envfrom>c envrcpt>c FAIL abort close"},
        {.name = "9: U", .script = "[55]", .trace = "FAIL close"},
        {.name = "9: U in a message", .script = "M [55]", .trace = "envfrom>c FAIL abort close"},
        {.name = "9: D", .script = "[44]", .trace = "FAIL close"},
        {.name = "9: D in a message", .script = "M [44]", .trace = "envfrom>c FAIL abort close"},
        {.name = "10: X", .script = "[58]", .trace = "FAIL close"},
        {.name = "10: 01", .script = "[01]", .trace = "FAIL close"},
        {.name = "10: 80", .script = "[80]", .trace = "FAIL close"},
        {.name = "10: X before O", .raw = true, .script = "[58]", .trace = "FAIL close"},
        {.name = "11: X in a message", .script = "M [58]", .trace = "envfrom>c FAIL abort close"},
        {.name = "Q11, 65: H without NUL", .script = "[48 68]", .trace = "FAIL close"},
        {.name = "Q12, 75: U without NUL",
         .script = "M [55 46 4F 4F]",
         .trace = "envfrom>c FAIL abort close"},
        {.name = "69: M without NUL", .script = "[4D 3C 61 3E]", .trace = "FAIL close"},
        {.name = "69: second M without NUL",
         .script = "M [4D 3C 61 3E]",
         .trace = "envfrom>c FAIL abort close"},
        {.name = "61: C without address", .script = "[43 68 00]", .trace = "FAIL close"},
        {.name = "72: L without value",
         .script = "M R [4C 41 00]",
         .trace = "envfrom>c envrcpt>c FAIL abort close"},
    };
    PLAY(rows);
}

/* ------------------------------------------------------------------------------------------ */
/* Verdicts (wire spec 4.1) */

/* 124, 130, 131: each verdict has its letter at each step; what is no verdict becomes TEMPFAIL, and
 * NOREPLY that was not negotiated CONTINUE, so that the MTA is never left waiting. SKIP is CONTINUE
 * too, but for a body chunk where it was negotiated: elsewhere no MTA expects it (2.4). */
TEST(session_letter_of_each_verdict)
{
    static const struct {
        const char *before;
        const char *trace;
        const char *packet;
        const char *callback;
    } steps[] = {
        {"", "", "C", "connect"},
        {"", "", "H", "helo"},
        {"", "", "M", "envfrom"},
        {"M", "envfrom>c", "R", "envrcpt"},
        {"M R", "envfrom>c envrcpt>c", "T", "data"},
        {"M R", "envfrom>c envrcpt>c", "L", "header"},
        {"M R", "envfrom>c envrcpt>c", "N", "eoh"},
        {"M R", "envfrom>c envrcpt>c", "B", "body"},
        {"M R", "envfrom>c envrcpt>c", "E", "eom"},
        {"", "", "U", "unknown"},
    };
    static const struct {
        char answer;
        const char *reply;
        bool decides;
    } verdicts[] = {
        {'c', ">c", false},
        {'r', ">r", true},
        {'d', ">d", true},
        {'a', ">a", true},
        {'t', ">t", true},
        {'s', ">c", false},
        {'n', ">c", false},
        {'?', ">t", true},
        {'o', ">t", true},
        {'y', ">y(550 5.7.1 no)", true},
        {'z', ">y(450 4.7.1 later)", true},
    };
    for (size_t s = 0; s < sizeof steps / sizeof *steps; s++) {
        for (size_t v = 0; v < sizeof verdicts / sizeof *verdicts; v++) {
            char script[100], trace[200], name[40];
            const char *step = steps[s].callback;
            bool open = steps[s].packet[0] != 'E' &&
                        (steps[s].packet[0] == 'M' || *steps[s].before != '\0');
            /* Final verdicts close the message for the filter; not those about one recipient. */
            if (verdicts[v].decides && open)
                open = steps[s].packet[0] == 'R' && verdicts[v].answer != 'a';
            snprintf(name, sizeof name, "124: %s=%c", step, verdicts[v].answer);
            snprintf(script, sizeof script, "%s %s=%c", steps[s].before, steps[s].packet,
                     verdicts[v].answer);
            snprintf(trace, sizeof trace, "%s%s%s%s%s close", steps[s].trace,
                     *steps[s].trace != '\0' ? " " : "", step, verdicts[v].reply,
                     open ? " abort" : "");
            dialogue row = {.name = name, .script = script, .trace = trace};
            dialogue_play(&row, 1);
            if (verdicts[v].answer == 's') {
                row.want = SMFIP_SKIP;
                if (steps[s].packet[0] == 'B')
                    row.trace = "envfrom>c envrcpt>c body>s abort close";
                dialogue_play(&row, 1);
            }
        }
    }
}

/* 125 to 129: after a verdict on the message its remaining packets are dropped, without an abort,
 * and the connection stays; verdicts on a recipient, HELO or CONNECT leave the message alone. */
TEST(session_after_a_verdict)
{
    static const dialogue rows[] = {
        {.name = "125: reject",
         .script = "M=r R A M",
         .trace = "envfrom>r - - envfrom>c abort close"},
        {.name = "125: discard",
         .script = "M=d R A M",
         .trace = "envfrom>d - - envfrom>c abort close"},
        {.name = "125: accept",
         .script = "M=a R A M",
         .trace = "envfrom>a - - envfrom>c abort close"},
        {.name = "125: tempfail",
         .script = "M=t R A M",
         .trace = "envfrom>t - - envfrom>c abort close"},
        {.name = "125: and hanging up", .script = "M=r R", .trace = "envfrom>r - close"},
        {.name = "126: reject",
         .script = "M R=r R T A",
         .trace = "envfrom>c envrcpt>r envrcpt>c data>c abort close"},
        {.name = "126: discard",
         .script = "M R=d R T A",
         .trace = "envfrom>c envrcpt>d envrcpt>c data>c abort close"},
        {.name = "126: tempfail",
         .script = "M R=t R T A",
         .trace = "envfrom>c envrcpt>t envrcpt>c data>c abort close"},
        {.name = "127",
         .script = "M R=a R M",
         .trace = "envfrom>c envrcpt>a - envfrom>c abort close"},
        {.name = "128: header",
         .script = "M R T L=r L N B E M",
         .trace = "envfrom>c envrcpt>c data>c header>r - - - - envfrom>c abort close"},
        {.name = "128: eoh",
         .script = "M R N=a B E M",
         .trace = "envfrom>c envrcpt>c eoh>a - - envfrom>c abort close"},
        {.name = "128: body",
         .script = "M R B=t B E M",
         .trace = "envfrom>c envrcpt>c body>t - - envfrom>c abort close"},
        {.name = "128: data",
         .script = "M R T=d L E M",
         .trace = "envfrom>c envrcpt>c data>d - - envfrom>c abort close"},
        {.name = "128: skip goes on",
         .want = SMFIP_SKIP,
         .script = "M R B=s E",
         .trace = "envfrom>c envrcpt>c body>s eom>c close"},
        {.name = "129: helo rejected",
         .script = "H=r H M",
         .trace = "helo>r helo>c envfrom>c abort close"},
        {.name = "129: helo accepted",
         .script = "H=a H M",
         .trace = "helo>a helo>c envfrom>c abort close"},
        {.name = "connect rejected",
         .script = "C=r H M",
         .trace = "connect>r helo>c envfrom>c abort close"},
        {.name = "eom rejected, next message",
         .script = "M R E=r M R E",
         .trace = "envfrom>c envrcpt>c eom>r envfrom>c envrcpt>c eom>c close"},
        {.name = "new message in the same one's place",
         .script = "M R T=r M R T",
         .trace = "envfrom>c envrcpt>c data>r envfrom>c envrcpt>c data>c abort close"},
    };
    PLAY(rows);
}

/* 136 to 140: BODYEOB with data is a body event and then the end of message, with one verdict. */
TEST(session_end_of_message_with_data)
{
    static const dialogue rows[] = {
        {.name = "136", .script = "M R E+", .trace = "envfrom>c envrcpt>c body eom>c close"},
        {.name = "136: eom rejects",
         .script = "M R E+=cr",
         .trace = "envfrom>c envrcpt>c body eom>r close"},
        {.name = "136: after a chunk",
         .script = "M R B E+=cy",
         .trace = "envfrom>c envrcpt>c body>c body eom>y(550 5.7.1 no) close"},
        {.name = "137: reject", .script = "M R E+=r", .trace = "envfrom>c envrcpt>c body>r close"},
        {.name = "137: discard", .script = "M R E+=d", .trace = "envfrom>c envrcpt>c body>d close"},
        {.name = "137: accept", .script = "M R E+=a", .trace = "envfrom>c envrcpt>c body>a close"},
        {.name = "137: tempfail with text",
         .script = "M R E+=z",
         .trace = "envfrom>c envrcpt>c body>y(450 4.7.1 later) close"},
        {.name = "137: no verdict",
         .script = "M R E+=?",
         .trace = "envfrom>c envrcpt>c body>t close"},
        {.name = "137: the next message",
         .script = "M R E+=r M R E+",
         .trace = "envfrom>c envrcpt>c body>r envfrom>c envrcpt>c body eom>c close"},
        {.name = "138: skip",
         .script = "M R E+=sa",
         .trace = "envfrom>c envrcpt>c body eom>a close"},
        {.name = "138: noreply, negotiated",
         .want = SMFIP_NR_BODY,
         .script = "M R E+=nr",
         .trace = "envfrom>c envrcpt>c body eom>r close"},
        {.name = "138: reject, answers negotiated away",
         .want = SMFIP_NR_BODY,
         .script = "M R B E+=r M R E",
         .trace = "envfrom>c envrcpt>c body body>r envfrom>c envrcpt>c eom>c close"},
        {.name = "139: no body callback",
         .absent = SMFIP_NOBODY,
         .script = "M R E+=ca",
         .trace = "envfrom>c envrcpt>c eom>a close"},
        {.name = "139: body unwanted",
         .unwanted = 1u << MLT_STEP_BODY,
         .script = "M R E+=ca",
         .trace = "envfrom>c envrcpt>c eom>a close"},
        {.name = "140: eom unwanted",
         .unwanted = 1u << MLT_STEP_EOM,
         .script = "M R E+",
         .trace = "envfrom>c envrcpt>c body >c close"},
        {.name = "140: both unwanted",
         .unwanted = 1u << MLT_STEP_EOM | 1u << MLT_STEP_BODY,
         .script = "M R E+",
         .trace = "envfrom>c envrcpt>c >c close"},
        {.name = "out of order", .script = "M E+", .trace = "envfrom>c FAIL abort close"},
    };
    PLAY(rows);
}

/* ------------------------------------------------------------------------------------------ */
/* No-reply steps (wire spec 2.3) */

/* 132, 133: nothing is sent for a step whose answers were negotiated away; where the MTA did not
 * offer that, it gets CONTINUE. */
TEST(session_no_reply)
{
    static const dialogue rows[] = {
        {.name = "132: all",
         .want = NR_ALL,
         .script = "C=n H=n M=n R=n T=n L=n N=n B=n U=n E",
         .trace = "connect helo envfrom envrcpt data header eoh body unknown eom>c close"},
        {.name = "132: answered CONTINUE",
         .want = NR_ALL,
         .script = "C H M R T L N B U E",
         .trace = "connect helo envfrom envrcpt data header eoh body unknown eom>c close"},
        {.name = "132: some",
         .want = SMFIP_NR_HDR | SMFIP_NR_BODY,
         .script = "M R L L=n N B B=n E",
         .trace = "envfrom>c envrcpt>c header header eoh>c body body eom>c close"},
        {.name = "134: skip",
         .want = SMFIP_NR_BODY,
         .script = "M R B=s B E",
         .trace = "envfrom>c envrcpt>c body body eom>c close"},
        {.name = "133: not offered",
         .want = NR_ALL,
         .offer = 0x7F,
         .absent = 0,
         .script = "C=n H M=n R T=n L N=n B U=n E",
         .trace = "connect>c helo>c envfrom>c envrcpt>c data>c header>c eoh>c body>c unknown>c "
                  "eom>c close"},
        {.name = "133: one offered",
         .want = NR_ALL,
         .offer = 0x3FF,
         .script = "M=n R L=n N=n E",
         .trace = "envfrom>c envrcpt>c header eoh>c eom>c close"},
        {.name = "absent and silent",
         .want = NR_ALL | SMFIP_NOHDRS,
         .absent = SMFIP_NOHDRS,
         .script = "M R L N E",
         .trace = "envfrom envrcpt - eoh eom>c close"},
    };
    PLAY(rows);
}

/* 135: a verdict on the message out of a step that is not answered is told at the next step that
 * is, without asking the filter again, and only once. */
TEST(session_pending_verdict_on_a_message)
{
    static const dialogue rows[] = {
        {.name = "135: data, told at header",
         .want = SMFIP_NR_DATA,
         .script = "M R T=r L",
         .trace = "envfrom>c envrcpt>c data >r close"},
        {.name = "mail, told at each recipient and at data",
         .want = SMFIP_NR_MAIL,
         .script = "M=r R R R T L E",
         .trace = "envfrom >r >r >r >r - - close"},
        {.name = "mail, with text",
         .want = SMFIP_NR_MAIL,
         .script = "M=y R R",
         .trace = "envfrom >y(550 5.7.1 no) >y(550 5.7.1 no) close"},
        {.name = "mail, tempfail with text",
         .want = SMFIP_NR_MAIL,
         .script = "M=z R",
         .trace = "envfrom >y(450 4.7.1 later) close"},
        {.name = "mail, accept: once",
         .want = SMFIP_NR_MAIL,
         .script = "M=a R R T",
         .trace = "envfrom >a - - close"},
        {.name = "mail, discard: once",
         .want = SMFIP_NR_MAIL,
         .script = "M=d R R T",
         .trace = "envfrom >d - - close"},
        {.name = "mail, no verdict",
         .want = SMFIP_NR_MAIL,
         .script = "M=? R",
         .trace = "envfrom >t close"},
        {.name = "mail, hanging up",
         .want = SMFIP_NR_MAIL,
         .script = "M=r",
         .trace = "envfrom close"},
        {.name = "mail, abort forgets it",
         .want = SMFIP_NR_MAIL,
         .script = "M=r A M R",
         .trace = "envfrom - envfrom envrcpt>c abort close"},
        {.name = "mail, next message forgets it",
         .want = SMFIP_NR_MAIL,
         .script = "M=r M R",
         .trace = "envfrom envfrom envrcpt>c abort close"},
        {.name = "mail, told, next message",
         .want = SMFIP_NR_MAIL,
         .script = "M=r R A M R",
         .trace = "envfrom >r - envfrom envrcpt>c abort close"},
        {.name = "mail, helo forgets it",
         .want = SMFIP_NR_MAIL,
         .script = "M=r H M R",
         .trace = "envfrom helo>c envfrom envrcpt>c abort close"},
        {.name = "mail, K forgets it",
         .want = SMFIP_NR_MAIL,
         .script = "C M=r K C M R",
         .trace = "connect>c envfrom close connect>c envfrom envrcpt>c abort close"},
        {.name = "all silent, told at the end",
         .want = NR_ALL,
         .script = "C H M=r R T L N B B E M R E",
         .trace = "connect helo envfrom - - - - - - >r envfrom envrcpt eom>c close"},
        {.name = "header, told at eoh",
         .want = SMFIP_NR_HDR,
         .script = "M R L=t L L N B",
         .trace = "envfrom>c envrcpt>c header - - >t - close"},
        {.name = "second header",
         .want = SMFIP_NR_HDR,
         .script = "M R L L=r L N",
         .trace = "envfrom>c envrcpt>c header header - >r close"},
        {.name = "eoh, told at body",
         .want = SMFIP_NR_EOH,
         .script = "M R N=y B B E",
         .trace = "envfrom>c envrcpt>c eoh >y(550 5.7.1 no) - - close"},
        {.name = "body, told at the end",
         .want = SMFIP_NR_BODY,
         .script = "M R B=r B B E",
         .trace = "envfrom>c envrcpt>c body - - >r close"},
        {.name = "last header of a burst",
         .want = NR_CONTENT,
         .script = "M R L L L=d N B E",
         .trace = "envfrom>c envrcpt>c header header header - - >d close"},
        {.name = "first header of a burst",
         .want = NR_CONTENT,
         .script = "M R L=a L L N B B E M R E",
         .trace = "envfrom>c envrcpt>c header - - - - - >a envfrom>c envrcpt>c eom>c close"},
        {.name = "told at the end with data",
         .want = NR_CONTENT,
         .script = "M R L=r N E+",
         .trace = "envfrom>c envrcpt>c header - >r close"},
        {.name = "not offered: the MTA waits at the next header",
         .want = SMFIP_NR_HDR,
         .offer = 0x37F,
         .script = "M R L=r L N",
         .trace = "envfrom>c envrcpt>c header>c >r - close"},
        {.name = "unknown is never kept",
         .want = SMFIP_NR_UNKN,
         .script = "M U=r R U=a T",
         .trace = "envfrom>c unknown envrcpt>c unknown data>c abort close"},
        {.name = "unknown between",
         .want = SMFIP_NR_UNKN | SMFIP_NR_DATA,
         .script = "M R T=r U L",
         .trace = "envfrom>c envrcpt>c data unknown >r close"},
        {.name = "unknown between, told at the end",
         .want = NR_ALL,
         .script = "M=y R U T U L U E",
         .trace = "envfrom - unknown - unknown - unknown >y(550 5.7.1 no) close"},
    };
    PLAY(rows);
}

/* A recipient that could not be refused in time: the message ends for the filter with abort, and
 * for the MTA at the next step that is answered. */
TEST(session_pending_verdict_on_a_recipient)
{
    static const dialogue rows[] = {
        {.name = "reject",
         .want = SMFIP_NR_RCPT,
         .script = "M R R=r R T L",
         .trace = "envfrom>c envrcpt envrcpt - abort >r - close"},
        {.name = "tempfail with text",
         .want = SMFIP_NR_RCPT,
         .script = "M R=z T",
         .trace = "envfrom>c envrcpt abort >y(450 4.7.1 later) close"},
        {.name = "discard",
         .want = SMFIP_NR_RCPT,
         .script = "M R=d R T",
         .trace = "envfrom>c envrcpt - abort >d close"},
        {.name = "accept",
         .want = SMFIP_NR_RCPT,
         .script = "M R=a R T L",
         .trace = "envfrom>c envrcpt - >a - close"},
        {.name = "hanging up",
         .want = SMFIP_NR_RCPT,
         .script = "M R=r",
         .trace = "envfrom>c envrcpt abort close"},
        {.name = "abort forgets it",
         .want = SMFIP_NR_RCPT,
         .script = "M R=r A M R T",
         .trace = "envfrom>c envrcpt abort envfrom>c envrcpt data>c abort close"},
        {.name = "next message forgets it",
         .want = SMFIP_NR_RCPT,
         .script = "M R=r M R T",
         .trace = "envfrom>c envrcpt abort envfrom>c envrcpt data>c abort close"},
        {.name = "told at the end",
         .want = NR_ALL,
         .script = "M R=r R T L N B E M R E",
         .trace = "envfrom envrcpt - - - - - abort >r envfrom envrcpt eom>c close"},
        {.name = "told at the end with data",
         .want = NR_ALL,
         .script = "M R=r E+",
         .trace = "envfrom envrcpt abort >r close"},
        {.name = "unknown between",
         .want = SMFIP_NR_RCPT | SMFIP_NR_UNKN,
         .script = "M R=r U T",
         .trace = "envfrom>c envrcpt unknown abort >r close"},
        {.name = "forgotten with the message's end, where R begins the next",
         .absent = SMFIP_NOMAIL,
         .want = SMFIP_NR_RCPT,
         .script = "R=r E R E",
         .trace = "envrcpt abort >r envrcpt eom>c close"},
    };
    PLAY(rows);
}

/* A verdict on the session is told at the next step that is answered; where that is in a message,
 * it is told anew in each message. */
TEST(session_pending_verdict_on_a_session)
{
    static const dialogue rows[] = {
        {.name = "connect, told at helo",
         .want = SMFIP_NR_CONN,
         .script = "C=r H",
         .trace = "connect >r close"},
        {.name = "connect, told at helo, whose answer the MTA keeps",
         .want = SMFIP_NR_CONN,
         .script = "C=y H M R",
         .trace = "connect >y(550 5.7.1 no) envfrom>c envrcpt>c abort close"},
        {.name = "connect, no helo",
         .want = SMFIP_NR_CONN,
         .script = "C=r M R M R",
         .trace = "connect >r - >r - close"},
        {.name = "connect, accepted",
         .want = SMFIP_NR_CONN | SMFIP_NR_HELO,
         .script = "C=a H M R M",
         .trace = "connect - >a - >a close"},
        {.name = "connect, told at mail",
         .want = SMFIP_NR_CONN | SMFIP_NR_HELO,
         .script = "C=y H M R A M A M",
         .trace = "connect - >y(550 5.7.1 no) - - >y(550 5.7.1 no) - >y(550 5.7.1 no) close"},
        {.name = "connect, a second helo changes nothing",
         .want = SMFIP_NR_CONN | SMFIP_NR_HELO,
         .script = "C=r H H M",
         .trace = "connect - - >r close"},
        {.name = "connect, told at each recipient",
         .want = NR_ENVELOPE & ~(uint32_t)SMFIP_NR_RCPT,
         .script = "C=r H M R R T M R",
         .trace = "connect - - >r >r >r - >r close"},
        {.name = "connect, told at data",
         .want = NR_ENVELOPE,
         .script = "C=t H M R T L M R T",
         .trace = "connect - - - >t - - - >t close"},
        {.name = "connect, told at the end",
         .want = NR_ALL,
         .script = "C=r H M R T L N B E M R E",
         .trace = "connect - - - - - - - >r - - >r close"},
        {.name = "helo, told at mail, and at the next",
         .want = SMFIP_NR_HELO,
         .script = "C H=r M R M",
         .trace = "connect>c helo >r - >r close"},
        {.name = "helo, a second one replaces it",
         .want = SMFIP_NR_HELO,
         .script = "C H=r H M",
         .trace = "connect>c helo helo envfrom>c abort close"},
        {.name = "helo, told, a second one replaces it",
         .want = SMFIP_NR_HELO,
         .script = "C H=r M A H M",
         .trace = "connect>c helo >r - helo envfrom>c abort close"},
        {.name = "helo, told at each recipient",
         .want = SMFIP_NR_HELO | SMFIP_NR_MAIL,
         .script = "C H=z M R R A M R",
         .trace = "connect>c helo - >y(450 4.7.1 later) >y(450 4.7.1 later) - - "
                  ">y(450 4.7.1 later) close"},
        {.name = "helo, discard",
         .want = SMFIP_NR_HELO | SMFIP_NR_MAIL,
         .script = "C H=d M R R M R",
         .trace = "connect>c helo - >d - - >d close"},
        {.name = "K forgets it",
         .want = SMFIP_NR_CONN | SMFIP_NR_HELO,
         .script = "C=r H K C M",
         .trace = "connect - close connect envfrom>c abort close"},
        {.name = "K forgets it, told",
         .want = SMFIP_NR_CONN | SMFIP_NR_HELO,
         .script = "C=r M K C M",
         .trace = "connect >r close connect envfrom>c abort close"},
        {.name = "told anew where R begins the next message",
         .absent = SMFIP_NOMAIL,
         .want = SMFIP_NR_CONN | SMFIP_NR_HELO | SMFIP_NR_RCPT,
         .script = "C=r H R T E R T E",
         .trace = "connect - - >r - - >r - close"},
        {.name = "not offered: helo",
         .want = SMFIP_NR_CONN | SMFIP_NR_HELO,
         .offer = 0x7F,
         .script = "C=r H M M",
         .trace = "connect>c >r envfrom>c abort envfrom>c abort close"},
    };
    PLAY(rows);
}

/* Q10: without MAIL the macros of the next MAIL are all that tells of a new transaction; what was
 * decided about the one before does not concern it. */
TEST(session_macros_of_mail_end_a_transaction)
{
    static const dialogue rows[] = {
        {.name = "Q10",
         .absent = SMFIP_NOMAIL,
         .script = "H D:M R D:M R E",
         .trace = "helo>c envrcpt>c abort envrcpt>c eom>c close"},
        {.name = "Q10: an empty set will do",
         .absent = SMFIP_NOMAIL,
         .script = "H d:M R d:M R E",
         .trace = "helo>c envrcpt>c abort envrcpt>c eom>c close"},
        {.name = "Q10: not those of others",
         .absent = SMFIP_NOMAIL,
         .script = "H D:M R D:R R D:T T",
         .trace = "helo>c envrcpt>c envrcpt>c data>c abort close"},
        {.name = "with MAIL they tell nothing",
         .script = "H M R D:M R",
         .trace = "helo>c envfrom>c envrcpt>c envrcpt>c abort close"},
        {.name = "after a verdict",
         .absent = SMFIP_NOMAIL,
         .script = "D:M R T=r D:M R T",
         .trace = "envrcpt>c data>r envrcpt>c data>c abort close"},
        {.name = "a recipient's pending verdict",
         .absent = SMFIP_NOMAIL,
         .want = SMFIP_NR_RCPT,
         .script = "D:M R=r D:M R T",
         .trace = "envrcpt abort envrcpt data>c abort close"},
        {.name = "a message's pending verdict",
         .absent = SMFIP_NOMAIL,
         .want = SMFIP_NR_DATA,
         .script = "D:M R T=r D:M R T L",
         .trace = "envrcpt>c data envrcpt>c data header>c abort close"},
        {.name = "a session's stays",
         .absent = SMFIP_NOMAIL,
         .want = SMFIP_NR_CONN | SMFIP_NR_HELO,
         .script = "C=r H D:M R T D:M R T",
         .trace = "connect - >r >r >r >r close"},
    };
    PLAY(rows);
}

/* A message is under way from MAIL to BODYEOB, also while a verdict waits to be told; before,
 * after, and once the MTA knows, none is. That is what a stop goes by. */
TEST(session_in_message)
{
    static const struct {
        const char *name;
        const char *script;
        uint32_t want;
        bool inside;
    } rows[] = {
        {"nothing yet", "", 0, false},
        {"connect", "C", 0, false},
        {"mail", "C H M", 0, true},
        {"recipient", "M R", 0, true},
        {"body", "M R T L N B", 0, true},
        {"done", "M R E", 0, false},
        {"aborted", "M R A", 0, false},
        {"rejected", "M=r", 0, false},
        {"recipient rejected", "M R=r", 0, true},
        {"rejected, not told", "M=r", SMFIP_NR_MAIL, true},
        {"rejected, told", "M=r R T", SMFIP_NR_MAIL, false},
        {"rejected, not told, aborted", "M=r A", SMFIP_NR_MAIL, false},
        {"session rejected, not told", "C=r H", SMFIP_NR_CONN | SMFIP_NR_HELO, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        static dialogue_script script;
        dialogue one = {.name = rows[i].name, .script = rows[i].script, .want = rows[i].want};
        mlt_settings settings = {.receive_frame = 65536,
                                 .version = SMFI_VERSION,
                                 .macros_per_stage = 10,
                                 .macro_bytes = 100};
        mlt_view *view = calloc(1, sizeof *view);
        REQUIRE(view != NULL);
        mlt_session session;
        test_row(rows[i].name);
        dialogue_parse(&one, &script);
        dialogue_settings(&one, &settings);
        mlt_session_init(&session, &settings, view);
        mlt_session_reset(&session);
        CHECK(!mlt_session_in_message(&session));
        size_t at = 0;
        for (size_t n = 0; n < script.count; n++) {
            mlt_packet packet;
            mlt_event event;
            mlt_span text;
            bool lists;
            CHECK_INT(MLT_OK, mlt_frame_next(script.data + at, script.len - at, 65536, &packet));
            at += packet.used;
            if (mlt_session_receive(&session, &packet, &event) != MLT_TAKE_EVENT)
                continue;
            if (event.step == MLT_STEP_NEGOTIATE) {
                view->protocol = rows[i].want;
                CHECK_INT(MLT_OK, mlt_session_negotiate(&session, SMFIS_CONTINUE, 0, &lists));
            } else {
                int verdict = dialogue_verdict(script.answers[n][0], &text);
                mlt_session_verdict(&session, event.step, verdict, text);
            }
        }
        CHECK_INT(rows[i].inside, mlt_session_in_message(&session));
        mlt_session_free(&session);
        free(view);
    }
}

/* ------------------------------------------------------------------------------------------ */
/* Negotiation (wire spec 2.1) */

/* Makes a session and puts in an OPTNEG. */
typedef struct negotiation {
    mlt_settings settings;
    mlt_view view;
    mlt_session session;
    mlt_event event;
    mlt_take take;
} negotiation;

static void offer(negotiation *it, uint32_t version, uint32_t actions, uint32_t protocol)
{
    char frame[17] = {0, 0, 0, 13, 'O'};
    mlt_packet packet;
    mlt_frame_put_u32(frame + 5, version);
    mlt_frame_put_u32(frame + 9, actions);
    mlt_frame_put_u32(frame + 13, protocol);
    it->view = (mlt_view){.id = 7};
    mlt_session_init(&it->session, &it->settings, &it->view);
    mlt_session_reset(&it->session);
    CHECK_INT(MLT_OK, mlt_frame_next(guarded(frame, sizeof frame), sizeof frame, 100, &packet));
    it->take = mlt_session_receive(&it->session, &packet, &it->event);
}

/* 17 to 33, 46: what a filter without a negotiate callback agrees to. */
TEST(session_negotiation_by_descriptor)
{
    static const struct {
        const char *name;
        uint32_t offer[3];
        uint32_t version; /* of the descriptor; 0: the current one */
        uint32_t flags;
        uint32_t absent;
        const char *reply; /* NULL: refused */
    } rows[] = {
        {"17: version 0", {0, 0x1FF, 0x1FFFFF}, 0, 0x1FF, 0, NULL},
        {"17: version 1", {1, 0x1FF, 0x1FFFFF}, 0, 0x1FF, 0, NULL},
        {"18: version 2", {2, 0x1FF, 0x1FFFFF}, 0, 0x1FF, 0, "00000002 000001FF 00000000"},
        {"18: version 5", {5, 0x1FF, 0x1FFFFF}, 0, 0x1FF, 0, "00000005 000001FF 00000000"},
        {"18: version 6", {6, 0x1FF, 0x1FFFFF}, 0, 0x1FF, 0, "00000006 000001FF 00000000"},
        {"19: version 7", {7, 0x1FF, 0x1FFFFF}, 0, 0x1FF, 0, "00000006 000001FF 00000000"},
        {"19: 01000001", {0x01000001, 0x1FF, 0x1FFFFF}, 0, 0x1FF, 0, "00000006 000001FF 00000000"},
        {"19: 7FFFFFFF", {0x7FFFFFFF, 0x1FF, 0x1FFFFF}, 0, 0x1FF, 0, "00000006 000001FF 00000000"},
        {"20: 80000000", {0x80000000, 0x1FF, 0x1FFFFF}, 0, 0x1FF, 0, NULL},
        {"20: FFFFFFFF", {0xFFFFFFFF, 0x1FF, 0x1FFFFF}, 0, 0x1FF, 0, NULL},
        {"23", {6, 0x1FF, 0x1FFFFF}, 0, 0, 0, "00000006 00000000 00000000"},
        {"24, 25", {6, 0x1FF, 0x1FFFFF}, 0, 0, 0x37F, "00000006 00000000 0000037F"},
        {"26: descriptor 2", {6, 0x1FF, 0x1FFFFF}, 2, 0, 0, "00000006 00000000 00000300"},
        {"26: descriptor 3", {6, 0x1FF, 0x1FFFFF}, 3, 0, 0, "00000006 00000000 00000200"},
        {"26: descriptor 4", {6, 0x1FF, 0x1FFFFF}, 4, 0, 0, "00000006 00000000 00000000"},
        {"27", {6, 0, 0x1FFFFF}, 0, 0xF, 0, "00000006 0000000F 00000000"},
        {"28", {6, 0, 0x1FFFFF}, 0, 0x1F, 0, NULL},
        {"29", {2, 0x1FF, 0}, 0, 0, SMFIP_NOEOH, NULL},
        {"30", {2, 0x1FF, 0}, 0, 0, SMFIP_NOHDRS | SMFIP_NOBODY, "00000002 00000000 00000030"},
        {"31",
         {2, 0x1FF, 0x7F},
         0,
         0,
         SMFIP_NODATA | SMFIP_NOUNKNOWN,
         "00000002 00000000 00000000"},
        {"31: and NOEOH", {2, 0x1FF, 0x3F}, 0, 0, SMFIP_NODATA | SMFIP_NOEOH, NULL},
        {"31: only one is missing",
         {3, 0x1FF, 0x17F},
         0,
         0,
         SMFIP_NODATA | SMFIP_NOUNKNOWN,
         "00000003 00000000 00000100"},
        {"32", {6, 0x3F, 0x1FFFFF}, 0, 0x40, 0, NULL},
        {"33", {6, 0x3FF, 0x1FFFFF}, 0, 0x200, 0, "00000006 00000200 00000000"},
        {"46", {6, 0x1FF, 0x301FFFFF}, 0, 0x1FF, 0, "00000006 000001FF 00000000"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        static negotiation it;
        it.settings =
            (mlt_settings){.version = rows[i].version != 0 ? rows[i].version : SMFI_VERSION,
                           .flags = rows[i].flags,
                           .absent = rows[i].absent,
                           .send_payload = 65535};
        test_row(rows[i].name);
        offer(&it, rows[i].offer[0], rows[i].offer[1], rows[i].offer[2]);
        if (rows[i].reply == NULL) {
            CHECK_INT(MLT_TAKE_FAILED, it.take);
            CHECK(it.view.status < 0);
            CHECK(strncmp(it.view.error, "st_optionneg[7]: ", 17) == 0);
        } else {
            CHECK_INT(MLT_TAKE_ANSWER, it.take);
            CHECK_INT('O', it.session.answer.letter);
            CHECK(!it.session.answer.nul);
            CHECK_HEX(rows[i].reply, it.session.answer.text.data, it.session.answer.text.len);
        }
        mlt_session_free(&it.session);
    }
}

/* 34, 35, 38, 47: what the negotiate callback is shown, and that old descriptors have none. */
TEST(session_negotiation_shows_the_offer)
{
    static const struct {
        const char *name;
        uint32_t offer[3];
        uint32_t absent;
        uint32_t actions, protocol;           /* shown as offered */
        uint32_t want_actions, want_protocol; /* preset */
    } rows[] = {
        {"34", {6, 0x1FF, 0x1FFFFF}, 0, 0x1FF, 0x1FFFFF, 0x1FF, 0x400},
        {"35", {2, 0x3F, 0x7F}, 0, 0x3F, 0xFF0FF, 0x3F, 0},
        {"38", {6, 0x1FF, 0x1FFFFF}, 0x36F, 0x1FF, 0x1FFFFF, 0x1FF, 0x76F},
        {"0 is version 1", {6, 0, 0}, 0, 0xF, 0xFF0BF, 0xF, 0},
        {"46", {6, 0x1FF, 0x701FFFFF}, 0, 0x1FF, 0x1FFFFF, 0x1FF, 0x400},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        static negotiation it;
        it.settings =
            (mlt_settings){.version = SMFI_VERSION, .absent = rows[i].absent, .negotiate = true};
        test_row(rows[i].name);
        offer(&it, rows[i].offer[0], rows[i].offer[1], rows[i].offer[2]);
        CHECK_INT(MLT_TAKE_EVENT, it.take);
        CHECK_INT(MLT_STEP_NEGOTIATE, it.event.step);
        CHECK_INT(MLT_OWED_VERDICT, it.event.owed);
        CHECK_INT(rows[i].actions, it.view.offered_actions);
        CHECK_INT(rows[i].protocol, it.view.offered_protocol);
        CHECK_INT(rows[i].want_actions, it.view.actions);
        CHECK_INT(rows[i].want_protocol, it.view.protocol);
        mlt_session_free(&it.session);
    }
    test_row("47");
    for (uint32_t version = 2; version <= 4; version++) {
        static negotiation it;
        it.settings = (mlt_settings){.version = version, .negotiate = true};
        offer(&it, 6, 0x1FF, 0x1FFFFF);
        CHECK_INT(MLT_TAKE_ANSWER, it.take);
        mlt_session_free(&it.session);
    }
}

/* 36 to 46: what comes of the negotiate callback's words and verdict. */
TEST(session_negotiation_by_callback)
{
    static const struct {
        const char *name;
        uint32_t offer[3];
        uint32_t absent;
        uint64_t actions, protocol; /* -1: as preset */
        int verdict;
        const char *reply; /* NULL: refused */
    } rows[] = {
        {"36", {6, 0x1FF, 0x1FFFFF}, 0, 1, 1, SMFIS_ALL_OPTS, "00000006 000001FF 00000400"},
        {"37", {6, 0x1FF, 0x3FF}, 0, 1, 1, SMFIS_ALL_OPTS, "00000006 000001FF 00000000"},
        {"38: ALL_OPTS",
         {6, 0x1FF, 0x1FFFFF},
         0x36F,
         0,
         0,
         SMFIS_ALL_OPTS,
         "00000006 000001FF 0000076F"},
        {"38: CONTINUE",
         {6, 0x1FF, 0x1FFFFF},
         0x36F,
         UINT64_MAX,
         UINT64_MAX,
         SMFIS_CONTINUE,
         "00000006 000001FF 0000076F"},
        {"39", {6, 0x1FF, 0x1FFFFF}, 0, 1, 0, SMFIS_CONTINUE, "00000006 00000001 00000000"},
        {"40", {6, 0x1FF, 0x1FFFFF}, 0, 1, 0xFF080, SMFIS_CONTINUE, "00000006 00000001 000FF080"},
        {"41: none offered",
         {6, 0x1FF, 0x7F},
         0,
         1,
         0xFF080,
         SMFIS_CONTINUE,
         "00000006 00000001 00000000"},
        {"41: one offered",
         {6, 0x1FF, 0x3FF},
         0,
         1,
         0xFF080,
         SMFIS_CONTINUE,
         "00000006 00000001 00000080"},
        {"42", {6, 0x1FF, 0x3FF}, 0, 0, 0x400, SMFIS_CONTINUE, NULL},
        {"43", {6, 0x1FF, 0x1FFFFF}, 0, 0x3FF, 0, SMFIS_CONTINUE, NULL},
        {"43: above 32 bits", {6, 0x1FF, 0x1FFFFF}, 0, 0x100000001, 0, SMFIS_CONTINUE, NULL},
        {"44: 00200000", {6, 0x1FF, 0x1FFFFF}, 0, 0, 0x200000, SMFIS_CONTINUE, NULL},
        {"44: 80000000", {6, 0x1FF, 0x1FFFFF}, 0, 0, 0x80000000, SMFIS_CONTINUE, NULL},
        {"44: 70000000", {6, 0x1FF, 0x1FFFFF}, 0, 0, 0x70000000, SMFIS_CONTINUE, NULL},
        {"44: 70000000 offered", {6, 0x1FF, 0x701FFFFF}, 0, 0, 0x70000000, SMFIS_CONTINUE, NULL},
        {"low 32 bits",
         {6, 0x1FF, 0x1FFFFF},
         0,
         0,
         0x700000001,
         SMFIS_CONTINUE,
         "00000006 00000000 00000001"},
        {"45: REJECT", {6, 0x1FF, 0x1FFFFF}, 0, 0, 0, SMFIS_REJECT, NULL},
        {"45: ACCEPT", {6, 0x1FF, 0x1FFFFF}, 0, 0, 0, SMFIS_ACCEPT, NULL},
        {"45: TEMPFAIL", {6, 0x1FF, 0x1FFFFF}, 0, 0, 0, SMFIS_TEMPFAIL, NULL},
        {"45: NOREPLY", {6, 0x1FF, 0x1FFFFF}, 0, 0, 0, SMFIS_NOREPLY, NULL},
        {"45: 99", {6, 0x1FF, 0x1FFFFF}, 0, 0, 0, 99, NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        static negotiation it;
        bool lists;
        it.settings =
            (mlt_settings){.version = SMFI_VERSION, .absent = rows[i].absent, .negotiate = true};
        test_row(rows[i].name);
        offer(&it, rows[i].offer[0], rows[i].offer[1], rows[i].offer[2]);
        if (rows[i].actions != UINT64_MAX)
            it.view.actions = rows[i].actions;
        if (rows[i].protocol != UINT64_MAX)
            it.view.protocol = rows[i].protocol;
        int status = mlt_session_negotiate(&it.session, rows[i].verdict, 0, &lists);
        if (rows[i].reply == NULL) {
            CHECK_INT(MLT_ERR_CALLER, status);
            CHECK_INT(MLT_ERR_CALLER, it.view.status);
        } else {
            CHECK_INT(MLT_OK, status);
            CHECK(!lists);
            CHECK_HEX(rows[i].reply, it.session.options, sizeof it.session.options);
        }
        mlt_session_free(&it.session);
    }
}

/* 48, 50: macro lists go out, and with them SETSYMLIST, only where the MTA offered that. */
TEST(session_negotiation_macro_lists)
{
    static negotiation it;
    bool lists;
    it.settings = (mlt_settings){.version = SMFI_VERSION, .negotiate = true};
    offer(&it, 6, 0x1FF, 0x1FFFFF);
    it.view.actions = 1;
    CHECK_INT(MLT_OK, mlt_session_negotiate(&it.session, SMFIS_CONTINUE, 10, &lists));
    CHECK(lists);
    CHECK_HEX("00000006 00000101 00000400", it.session.options, sizeof it.session.options);
    mlt_session_free(&it.session);
    offer(&it, 6, 0xFF, 0x1FFFFF);
    it.view.actions = 1;
    CHECK_INT(MLT_OK, mlt_session_negotiate(&it.session, SMFIS_CONTINUE, 10, &lists));
    CHECK(!lists);
    CHECK_HEX("00000006 00000001 00000400", it.session.options, sizeof it.session.options);
    mlt_session_free(&it.session);
}

/* 53, 54: larger packets are agreed on where both sides can; the bit is not the filter's to touch,
 * and the next connection starts anew. */
TEST(session_negotiation_larger_packets)
{
    static const struct {
        uint32_t protocol;
        size_t payload;
        const char *reply;
    } rows[] = {
        {0x101FFFFF, 262143, "00000006 000001FF 10000400"},
        {0x201FFFFF, 1048575, "00000006 000001FF 20000400"},
        {0x301FFFFF, 1048575, "00000006 000001FF 20000400"},
        {0x001FFFFF, 65535, "00000006 000001FF 00000400"},
    };
    for (size_t i = 0; i < 2 * sizeof rows / sizeof *rows; i++) {
        static negotiation it;
        bool lists;
        size_t row = i / 2;
        bool touch = i % 2 != 0;
        it.settings = (mlt_settings){
            .version = SMFI_VERSION, .negotiate = true, .mds = true, .send_payload = 65535};
        offer(&it, 6, 0x1FF, rows[row].protocol);
        CHECK_INT(65535, it.view.send_payload);
        if (touch)
            it.view.protocol &= 0x1FFFFF;
        CHECK_INT(MLT_OK, mlt_session_negotiate(&it.session, SMFIS_CONTINUE, 0, &lists));
        CHECK_HEX(rows[row].reply, it.session.options, sizeof it.session.options);
        CHECK_INT(rows[row].payload, it.view.send_payload);
        mlt_session_reset(&it.session);
        CHECK_INT(65535, it.view.send_payload);
        mlt_session_free(&it.session);
    }
}

/* The texts that administrators search for (wire spec 2.1). */
TEST(session_negotiation_texts)
{
    static negotiation it;
    bool lists;
    it.settings = (mlt_settings){.version = SMFI_VERSION, .flags = 0x40};
    offer(&it, 6, 0x3F, 0x1FFFFF);
    CHECK_TEXT("st_optionneg[7]: 0x3f does not fulfill action requirements 0x40", it.view.error);
    mlt_session_free(&it.session);
    it.settings = (mlt_settings){.version = SMFI_VERSION, .absent = SMFIP_NOEOH};
    offer(&it, 2, 0x3F, 0x3F);
    CHECK_TEXT("st_optionneg[7]: 0x3f does not fulfill protocol requirements 0x40", it.view.error);
    mlt_session_free(&it.session);
    offer(&it, 1, 0x3F, 0x3F);
    CHECK_TEXT("st_optionneg[7]: protocol version too old 1 < 2", it.view.error);
    mlt_session_free(&it.session);
    it.settings = (mlt_settings){.version = SMFI_VERSION, .negotiate = true};
    offer(&it, 6, 0x1FF, 0x1FFFFF);
    CHECK_INT(MLT_ERR_CALLER, mlt_session_negotiate(&it.session, SMFIS_REJECT, 0, &lists));
    CHECK_TEXT("st_optionneg[7]: xxfi_negotiate returned 1 (protocol options=0x1fffff, "
               "actions=0x1ff)",
               it.view.error);
    mlt_session_free(&it.session);
}

/* ------------------------------------------------------------------------------------------ */
/* Macros (wire spec 3.5) */

enum { STAGE_C, STAGE_H, STAGE_M, STAGE_R, STAGE_T, STAGE_E, STAGE_N };

/* Plays a script and checks which stages have macros after it, in the order CHMRTNE of time. */
static void check_stages(const char *text, uint32_t absent, const char *stages)
{
    static dialogue_script script;
    static const int order[] = {STAGE_C, STAGE_H, STAGE_M, STAGE_R, STAGE_T, STAGE_N, STAGE_E};
    dialogue one = {.name = text, .script = text, .absent = absent};
    mlt_settings settings = {.receive_frame = 65536,
                             .version = SMFI_VERSION,
                             .macros_per_stage = 10,
                             .macro_bytes = 100};
    mlt_view *view = calloc(1, sizeof *view);
    REQUIRE(view != NULL);
    mlt_session session;
    char found[8] = "";
    size_t count = 0;
    test_row(text);
    dialogue_parse(&one, &script);
    dialogue_settings(&one, &settings);
    mlt_session_init(&session, &settings, view);
    mlt_session_reset(&session);
    for (size_t n = 0, at = 0; n < script.count; n++) {
        mlt_packet packet;
        mlt_event event;
        mlt_take take;
        CHECK_INT(MLT_OK, mlt_frame_next(script.data + at, script.len - at, 65536, &packet));
        at += packet.used;
        do {
            take = mlt_session_receive(&session, &packet, &event);
            if (take == MLT_TAKE_EVENT)
                mlt_session_verdict(&session, event.step, SMFIS_CONTINUE, (mlt_span){NULL, 0});
            CHECK(take != MLT_TAKE_FAILED);
        } while (take == MLT_TAKE_FIRST);
    }
    for (size_t i = 0; i < 7; i++) {
        if (view->macros[order[i]].len > 0) {
            CHECK_BYTES("i\0001\0", 4, view->macros[order[i]].data, view->macros[order[i]].len);
            found[count++] = "CHMRTNE"[i];
        }
    }
    found[count] = '\0';
    CHECK_TEXT(stages, found);
    mlt_session_free(&session);
    free(view);
}

/* 84 to 90: which stages' macros are left after which command. */
TEST(session_macro_scope)
{
    check_stages("D:C D:H D:M D:R D:T D:N D:E", 0, "CHMRTNE");
    check_stages("D:C C D:H H D:M M D:R R D:T T D:N L N B D:E E", 0, "CHMRTNE");
    /* Each of C, H, M and R clears what comes after it. */
    check_stages("D:C D:H D:M D:R D:T D:N D:E C", 0, "C");
    check_stages("D:C D:H D:M D:R D:T D:N D:E H", 0, "CH");
    check_stages("D:C D:H D:M D:R D:T D:N D:E M", 0, "CHM");
    check_stages("M D:C D:H D:M D:R D:T D:N D:E R", 0, "CHMR");
    /* T, L, N, B, E, U and A clear nothing. */
    check_stages("M R D:C D:H D:M D:R D:T D:N D:E T L N B E", 0, "CHMRTNE");
    check_stages("M R D:C D:H D:M D:R D:T D:N D:E U", 0, "CHMRTNE");
    check_stages("M R D:C D:H D:M D:R D:T D:N D:E A", 0, "CHMRTNE");
    /* 84, 85, 86, 87. */
    check_stages("D:C C D:H H D:M M D:R R D:T T D:N N D:E E M", 0, "CHM");
    check_stages("D:C C D:H H D:M M D:R R D:T T D:N N D:E E M R", 0, "CHM");
    check_stages("M D:R R R", 0, "R");
    check_stages("D:C C D:H H D:M M D:R R D:E E H", 0, "CH");
    check_stages("D:C C D:H H D:M M D:R R A M", 0, "CHM");
    /* 90: a step without callback clears as well. */
    check_stages("D:M M D:R R E M", SMFIP_NOMAIL, "M");
    check_stages("D:M M D:R R E M", NO_STEPS, "M");
    /* 88, 89: Q and K leave them to the close callback; then K clears them all. */
    check_stages("D:C C D:H H D:M M Q", 0, "CHM");
    check_stages("D:C C D:H H D:M M K", 0, "");
    /* 80: other stages are ignored. */
    check_stages("D:C D:L D:B D:U D:X D:O", 0, "C");
}

/* A session with the given limits, and what D makes of a payload. */
static mlt_take give(mlt_session *session, const char *payload, size_t len)
{
    mlt_packet packet = {'D', {guarded(payload, len), len}, 0};
    mlt_event event;
    return mlt_session_receive(session, &packet, &event);
}

/* 78, 79, 81, 82: a set replaces the one before it; a packet that names nothing changes nothing; a
 * name without a value is dropped. The generation tells of each change. */
TEST(session_macro_sets)
{
    mlt_settings settings = {.macros_per_stage = 10, .macro_bytes = 100};
    mlt_view *view = calloc(1, sizeof *view);
    REQUIRE(view != NULL);
    mlt_session session;
    mlt_session_init(&session, &settings, view);
    mlt_session_reset(&session);
    const mlt_macros *macros = &view->macros[STAGE_C];
    CHECK_INT(MLT_TAKE_NOTHING, give(&session, "Ca\0001", 4));
    CHECK_BYTES("", 0, macros->data, macros->len);
    CHECK_INT(MLT_TAKE_NOTHING, give(&session, "Ca\0001\0", 5));
    CHECK_BYTES("a\0001\0", 4, macros->data, macros->len);
    uint64_t generation = macros->generation;
    CHECK_INT(MLT_TAKE_NOTHING, give(&session, "C", 1));
    CHECK_INT(MLT_TAKE_NOTHING, give(&session, "Cb", 2));
    CHECK_BYTES("a\0001\0", 4, macros->data, macros->len);
    CHECK_INT(generation, macros->generation);
    CHECK_INT(MLT_TAKE_NOTHING, give(&session, "Cb\0002\0c\0", 7));
    CHECK_BYTES("b\0002\0", 4, macros->data, macros->len);
    CHECK(macros->generation > generation);
    generation = macros->generation;
    CHECK_INT(MLT_TAKE_NOTHING, give(&session, "Ca\0", 3));
    CHECK_INT(0, macros->len);
    CHECK(macros->generation > generation);
    CHECK_INT(MLT_TAKE_NOTHING, give(&session, "Hx\000y\0", 5));
    CHECK_INT(0, macros->len);
    CHECK_BYTES("x\000y\0", 4, view->macros[STAGE_H].data, view->macros[STAGE_H].len);
    /* The numbers of EOM and EOH are not in the order of time. */
    CHECK_INT(MLT_TAKE_NOTHING, give(&session, "Ne\0h\0", 5));
    CHECK_BYTES("e\0h\0", 4, view->macros[6].data, view->macros[6].len);
    CHECK_INT(MLT_TAKE_NOTHING, give(&session, "Ee\0m\0", 5));
    CHECK_BYTES("e\0m\0", 4, view->macros[5].data, view->macros[5].len);
    mlt_session_free(&session);
    free(view);
}

/* The limits of macros: as many as they say, one more ends the connection. */
TEST(session_macro_limits)
{
    static const struct {
        size_t macros, bytes;
        const char *payload;
        size_t len;
        mlt_take take;
    } rows[] = {
        {2, 100, "Ca\0001\0b\0002\0", 9, MLT_TAKE_NOTHING},
        {2, 100, "Ca\0001\0b\0002\0c\0003\0", 13, MLT_TAKE_FAILED},
        {2, 100, "Ca\0001\0b\0002\0c\0", 11, MLT_TAKE_NOTHING},
        {0, 100, "Ca\0", 3, MLT_TAKE_NOTHING},
        {0, 100, "Ca\0001\0", 5, MLT_TAKE_FAILED},
        {9, 8, "Ca\0001\0b\0002\0", 9, MLT_TAKE_NOTHING},
        {9, 7, "Ca\0001\0b\0002\0", 9, MLT_TAKE_FAILED},
        {9, 0, "Ca\0001\0", 5, MLT_TAKE_FAILED},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mlt_settings settings = {.macros_per_stage = rows[i].macros, .macro_bytes = rows[i].bytes};
        mlt_view *view = calloc(1, sizeof *view);
        REQUIRE(view != NULL);
        mlt_session session;
        mlt_session_init(&session, &settings, view);
        mlt_session_reset(&session);
        CHECK_INT(rows[i].take, give(&session, rows[i].payload, rows[i].len));
        CHECK_INT(rows[i].take == MLT_TAKE_FAILED ? MLT_ERR_LIMIT : MLT_OK, view->status);
        mlt_session_free(&session);
        free(view);
    }
}

/* Without memory for macros the connection ends, and those that were there may still be read. */
TEST(session_macros_without_memory)
{
    static char many[5000] = "C";
    mlt_settings settings = {.macros_per_stage = 10, .macro_bytes = 10000};
    mlt_view *view = calloc(1, sizeof *view);
    REQUIRE(view != NULL);
    mlt_session session;
    mlt_session_init(&session, &settings, view);
    mlt_session_reset(&session);
    CHECK_INT(MLT_TAKE_NOTHING, give(&session, "Ca\0001\0", 5));
    memset(many + 1, 'x', sizeof many - 1);
    many[10] = many[sizeof many - 1] = '\0';
    atomic_store(&hooks.fail_allocation, 0);
    CHECK_INT(MLT_TAKE_FAILED, give(&session, many, sizeof many));
    CHECK_INT(MLT_ERR_MEMORY, view->status);
    CHECK_BYTES("a\0001\0", 4, view->macros[0].data, view->macros[0].len);
    mlt_session_free(&session);
    free(view);
}

/* Without memory for the text of a pending verdict it is told without the text. */
TEST(session_pending_text_without_memory)
{
    mlt_settings settings = {.version = SMFI_VERSION, .negotiate = true};
    static negotiation it;
    bool lists;
    mlt_packet mail = {'M', {"a", 2}, 0};
    mlt_packet rcpt = {'R', {"b", 2}, 0};
    it.settings = settings;
    offer(&it, 6, 0x1FF, 0x1FFFFF);
    it.view.protocol = SMFIP_NR_MAIL;
    CHECK_INT(MLT_OK, mlt_session_negotiate(&it.session, SMFIS_CONTINUE, 0, &lists));
    CHECK_INT(MLT_TAKE_EVENT, mlt_session_receive(&it.session, &mail, &it.event));
    atomic_store(&hooks.fail_allocation, 0);
    mlt_reply reply = mlt_session_verdict(&it.session, MLT_STEP_MAIL, SMFIS_REJECT,
                                          (mlt_span){"550 5.7.1 no", 12});
    CHECK_INT(0, reply.letter);
    CHECK_INT(MLT_TAKE_ANSWER, mlt_session_receive(&it.session, &rcpt, &it.event));
    CHECK_INT('r', it.session.answer.letter);
    CHECK_INT(0, it.session.answer.text.len);
    mlt_session_free(&it.session);
}

/* What the view says of the client is that of the current session, and gone after QUIT_NC. */
TEST(session_client)
{
    mlt_settings settings = {.version = SMFI_VERSION};
    static negotiation it;
    test_bytes connect = hex("68 00 34 04 D2 31 39 32 2E 30 2E 32 2E 31 00");
    mlt_packet packet = {'C', {guarded(connect.data, connect.len), connect.len}, 0};
    mlt_packet quit_nc = {'K', {"", 0}, 0};
    it.settings = settings;
    offer(&it, 6, 0x1FF, 0x1FFFFF);
    CHECK_INT(0, it.view.family);
    CHECK_INT(MLT_TAKE_EVENT, mlt_session_receive(&it.session, &packet, &it.event));
    CHECK_BYTES("h", 1, it.event.data, it.event.len);
    CHECK_INT('4', it.view.family);
    CHECK_INT(1234, it.view.port);
    CHECK_TEXT("192.0.2.1", it.view.address);
    CHECK_INT(MLT_TAKE_FIRST, mlt_session_receive(&it.session, &quit_nc, &it.event));
    CHECK_INT(MLT_STEP_CLOSE, it.event.step);
    CHECK_INT('4', it.view.family);
    CHECK_INT(MLT_TAKE_NOTHING, mlt_session_receive(&it.session, &quit_nc, &it.event));
    CHECK_INT(0, it.view.family);
    CHECK_INT(0, it.view.port);
    CHECK_TEXT("", it.view.address);
    mlt_session_free(&it.session);
}

/* Q9, 55: what one connection negotiated away does not loosen the next one on the same object. */
TEST(session_reset_forgets_the_negotiation)
{
    static negotiation it;
    bool lists;
    mlt_packet data = {'T', {"", 0}, 0};
    it.settings = (mlt_settings){.version = SMFI_VERSION, .negotiate = true};
    offer(&it, 6, 0x1FF, 0x1FFFFF);
    it.view.protocol = SMFIP_NOMAIL | SMFIP_NORCPT;
    CHECK_INT(MLT_OK, mlt_session_negotiate(&it.session, SMFIS_CONTINUE, 0, &lists));
    CHECK_INT(MLT_TAKE_EVENT, mlt_session_receive(&it.session, &data, &it.event));
    mlt_session_free(&it.session);
    offer(&it, 6, 0x1FF, 0x1FFFFF);
    CHECK_INT(MLT_OK, mlt_session_negotiate(&it.session, SMFIS_CONTINUE, 0, &lists));
    CHECK_INT(MLT_TAKE_FAILED, mlt_session_receive(&it.session, &data, &it.event));
    mlt_session_free(&it.session);
}

/* The first error of a connection stays, whatever goes wrong after it. */
TEST(session_first_error_stays)
{
    mlt_view view = {.status = MLT_OK};
    CHECK_INT(MLT_ERR_IO, mlt_view_fail(&view, MLT_ERR_IO, "first %d", 1));
    CHECK_INT(MLT_ERR_PEER, mlt_view_fail(&view, MLT_ERR_PEER, "second"));
    CHECK_INT(MLT_ERR_IO, view.status);
    CHECK_TEXT("first 1", view.error);
}
