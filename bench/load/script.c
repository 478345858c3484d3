/* Owns what is said: names, addresses, headers and macros of a plausible connection, and which of
 * it Postfix and Sendmail send when (wire spec 2.7 and section 9). Knows nothing of replies. */
#include "script.h"

#include "wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The steps, in their order. */
static const char order[] = "CHMRTLNBE";

static const struct kind {
    char command;
    uint32_t left_out; /* the filter does not want it */
    uint32_t quiet;    /* the filter does not answer it */
    bool macros[2];    /* by style: the macros are sent even if the step is not */
} kinds[] = {
    {'C', WIRE_NO_CONNECT, WIRE_NR_CONNECT, {true, true}},
    {'H', WIRE_NO_HELO, WIRE_NR_HELO, {true, true}},
    {'M', WIRE_NO_MAIL, WIRE_NR_MAIL, {true, true}},
    {'R', WIRE_NO_RCPT, WIRE_NR_RCPT, {true, true}},
    {'T', WIRE_NO_DATA, WIRE_NR_DATA, {true, false}},
    {'L', WIRE_NO_HEADERS, WIRE_NR_HEADER, {false, false}},
    {'N', WIRE_NO_EOH, WIRE_NR_EOH, {false, false}},
    {'B', WIRE_NO_BODY, WIRE_NR_BODY, {false, false}},
    {'E', 0, 0, {true, true}},
};

/* Which macros go with which step, unless the filter asked for others. */
static const struct list {
    char command;
    const char *names[2]; /* by style; NULL: no macro packet at all */
} lists[] = {
    {'C', {"j {daemon_name} {daemon_addr} v _", "j _ {daemon_name} {if_name} {if_addr}"}},
    {'H',
     {"{tls_version} {cipher} {cipher_bits} {cert_subject} {cert_issuer}",
      "{tls_version} {cipher} {cipher_bits} {cert_subject} {cert_issuer}"}},
    {'M',
     {"i {auth_type} {auth_authen} {auth_author} {mail_addr} {mail_host} {mail_mailer}",
      "i {auth_type} {auth_authen} {auth_ssf} {auth_author} {mail_mailer} {mail_host} "
      "{mail_addr}"}},
    {'R', {"i {rcpt_addr} {rcpt_host} {rcpt_mailer}", "{rcpt_mailer} {rcpt_host} {rcpt_addr}"}},
    {'T', {"i", NULL}},
    {'L', {"i", NULL}},
    {'N', {"i", NULL}},
    {'B', {"i", NULL}},
    {'E', {"i", "{msg_id}"}},
};

/* The stages by which a filter asks for macros, in the order of their numbers. */
static const char stages[] = "CHMRTEN";

/* The macros that there are: no TLS, no authentication. */
static const struct macro {
    const char *name;
    const char *value;
    char since[2]; /* by style: the step from which on it is known */
} macros[] = {
    {"j", "mx.example.org", "CC"},
    {"v", "Postfix 3.7.11", "CC"},
    {"_", "client.example.net [192.0.2.25]", "CC"},
    {"{daemon_name}", "mx.example.org", "CC"},
    {"{daemon_addr}", "192.0.2.1", "CC"},
    {"{daemon_port}", "25", "CC"},
    {"{if_name}", "mx.example.org", "CC"},
    {"{if_addr}", "192.0.2.1", "CC"},
    {"{client_name}", "client.example.net", "CC"},
    {"{client_ptr}", "client.example.net", "CC"},
    {"{client_addr}", "192.0.2.25", "CC"},
    {"{client_port}", "34211", "CC"},
    {"{client_resolve}", "OK", "CC"},
    /* Postfix has a queue id once the first recipient is accepted. */
    {"i", "4XyZ1f2Bc3z9rT", "RM"},
    {"{mail_addr}", "sender@example.net", "MM"},
    {"{mail_host}", "example.net", "MM"},
    {"{mail_mailer}", "smtp", "MM"},
    {"{rcpt_addr}", "", "RR"},
    {"{rcpt_host}", "example.org", "RR"},
    {"{rcpt_mailer}", "smtp", "RR"},
    {"{msg_id}", "<20261121031500.4XyZ1f2Bc3z9rT@client.example.net>", "EE"},
};

/* As a message from outside has them; more are made up where more are asked for. */
static const struct header {
    const char *name;
    const char *value;
} headers[] = {
    {"Received", "from client.example.net (client.example.net [192.0.2.25])\n\tby mx.example.org "
                 "(Postfix) with ESMTPS id 4XyZ1f2Bc3z9rT\n\tfor <user0@example.org>; Sat, 21 Nov "
                 "2026 03:15:00 +0000 (UTC)"},
    {"Received", "from desk.example.net (unknown [198.51.100.7])\n\tby client.example.net (Postfix)"
                 " with ESMTPSA id 4XyZ1d0rTbz2f\n\tfor <user0@example.org>; Sat, 21 Nov 2026 "
                 "03:14:59 +0000 (UTC)"},
    {"DKIM-Signature",
     "v=1; a=rsa-sha256; c=relaxed/simple; d=example.net; s=mail;\n\tt=1795230900; "
     "bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=;\n\th=Date:From:To:Subject:From;\n\t"
     "b=Xc2nYxT4bq8kzQ0oV3mJw1rS5uE7gH9iK6lP2aD4fB8cN0tR1vW3yZ5xU7qM9sO2\n\t "
     "eG4hI6jL8kA0bC1dF3nP5rT7vX9zB2mQ4wE6yU8iO0sD1fG3hJ5kL7=="},
    {"Date", "Sat, 21 Nov 2026 03:14:58 +0000"},
    {"From", "A Sender <sender@example.net>"},
    {"To", "User <user0@example.org>"},
    {"Cc", "Other <other@example.org>, Third <third@example.com>"},
    {"Reply-To", "A Sender <sender@example.net>"},
    {"Subject", "Minutes of the meeting on Thursday, and what is still to be done"},
    {"Message-ID", "<20261121031500.4XyZ1f2Bc3z9rT@client.example.net>"},
    {"In-Reply-To", "<20261120171233.2c1e9a7f@desk.example.org>"},
    {"References", "<20261119080102.77ab@desk.example.org>\n\t"
                   "<20261120171233.2c1e9a7f@desk.example.org>"},
    {"MIME-Version", "1.0"},
    {"Content-Type", "text/plain; charset=utf-8; format=flowed"},
    {"Content-Transfer-Encoding", "8bit"},
    {"Content-Language", "en-GB"},
    {"User-Agent", "Mozilla Thunderbird"},
    {"List-Id", "The committee's list <committee.example.net>"},
    {"List-Unsubscribe", "<mailto:committee-leave@example.net>"},
    {"X-Mailing-Serial", "20261121-000417"},
};

static const char line[] =
    "The quick brown fox jumps over the lazy dog, and the dog does not mind it.\r\n";

/* The script while it is made; the bytes move as they grow, so steps note where theirs begin. */
struct builder {
    const struct workload *workload;
    struct script *script;
    const char *asked[sizeof stages - 1]; /* the filter's macro lists, NULL where it has none */
    size_t used;
    size_t room;
    size_t packet; /* where the packet begins that is being made */
    size_t steps_room;
    bool failed; /* out of memory */
};

static void put(struct builder *b, const void *data, size_t size)
{
    if (b->failed) {
        return;
    }
    if (size > b->room - b->used) {
        size_t room = (b->used + size) * 2;
        uint8_t *grown = realloc(b->script->bytes, room);
        if (grown == NULL) {
            b->failed = true;
            return;
        }
        b->script->bytes = grown;
        b->room = room;
    }
    memcpy(b->script->bytes + b->used, data, size);
    b->used += size;
}

static void put_string(struct builder *b, const char *text)
{
    put(b, text, strlen(text) + 1);
}

static void begin_packet(struct builder *b, char letter)
{
    uint8_t head[WIRE_HEAD] = {0, 0, 0, 0, (uint8_t)letter};

    b->packet = b->used;
    put(b, head, sizeof head);
}

static void end_packet(struct builder *b)
{
    if (!b->failed) {
        wire_put(b->script->bytes + b->packet, (uint32_t)(b->used - b->packet - 4));
    }
}

/* Makes a step of the bytes since `begin`. */
static void add_step(struct builder *b, size_t begin, char command, bool answered, bool written)
{
    struct script *script = b->script;

    if (!b->failed && script->count == b->steps_room) {
        size_t room = b->steps_room * 2 + 64;
        struct step *grown = realloc(script->steps, room * sizeof *grown);
        if (grown == NULL) {
            b->failed = true;
        } else {
            script->steps = grown;
            b->steps_room = room;
        }
    }
    if (!b->failed) {
        /* Until the bytes stay where they are: the end, from which the spans follow. */
        script->steps[script->count++] =
            (struct step){{NULL, b->used - begin}, command, answered, written};
    }
}

static const struct kind *kind_of(char command)
{
    return &kinds[strchr(order, command) - order];
}

/* The value that the MTA has for a macro at a step, or NULL. `recipient` counts from 0. */
static const char *macro_value(const struct builder *b, const char *name, size_t length,
                               char command, unsigned recipient)
{
    static char address[32];
    enum style style = b->workload->style;

    for (size_t i = 0; i < sizeof macros / sizeof macros[0]; i++) {
        const struct macro *macro = &macros[i];
        if (strlen(macro->name) != length || memcmp(macro->name, name, length) != 0) {
            continue;
        }
        if (strchr(order, command) < strchr(order, macro->since[style])) {
            return NULL;
        }
        if (strcmp(macro->name, "i") == 0 && style == STYLE_POSTFIX && command == 'R' &&
            recipient == 0) {
            return NULL;
        }
        if (strncmp(macro->name, "{rcpt_", 6) == 0 && command != 'R') {
            return NULL;
        }
        if (strcmp(macro->name, "{rcpt_addr}") == 0) {
            snprintf(address, sizeof address, "user%u@example.org", recipient);
            return address;
        }
        return macro->value;
    }
    return NULL;
}

/* The macros for a step; tells whether a packet of them was made. */
static bool put_macros(struct builder *b, char command, unsigned recipient)
{
    enum style style = b->workload->style;
    const char *names = lists[strchr(order, command) - order].names[style];
    const char *stage = strchr(stages, command);

    if (stage != NULL && b->asked[stage - stages] != NULL) {
        const char *asked = b->asked[stage - stages];
        if (*asked != '\0') {
            names = asked;
        } else if (style == STYLE_SENDMAIL) {
            names = NULL; /* Postfix takes an empty list for none given */
        }
    }
    if (names == NULL) {
        return false;
    }
    begin_packet(b, 'D');
    put(b, &command, 1);
    while (*(names += strspn(names, " ,\t")) != '\0') {
        size_t length = strcspn(names, " ,\t");
        const char *value = macro_value(b, names, length, command, recipient);
        if (value != NULL) {
            put(b, names, length);
            put_string(b, "");
            put_string(b, value);
        }
        names += length;
    }
    end_packet(b);
    return true;
}

/* Begins a step with its macros; tells whether the filter wants the command, which then is to be
 * filled and ended. */
static bool begin_command(struct builder *b, char command, unsigned recipient, size_t *begin)
{
    const struct kind *kind = kind_of(command);
    enum style style = b->workload->style;
    bool wanted =
        (b->script->protocol & kind->left_out) == 0 && (command != 'T' || b->script->version >= 4);

    *begin = b->used;
    if ((wanted || kind->macros[style]) && put_macros(b, command, recipient)) {
        if (style == STYLE_SENDMAIL || !wanted) {
            add_step(b, *begin, command, false, style == STYLE_SENDMAIL || command == 'T');
            *begin = b->used;
        }
    }
    if (wanted) {
        begin_packet(b, command);
    }
    return wanted;
}

static void end_command(struct builder *b, char command, size_t begin)
{
    bool answered = (b->script->protocol & kind_of(command)->quiet) == 0 || command == 'E';
    /* With DATA, Postfix hands the connection to another process, with nothing left to write. */
    bool written = answered || b->workload->style == STYLE_SENDMAIL || command == 'T';

    end_packet(b);
    add_step(b, begin, command, answered, written);
}

static void add_simple(struct builder *b, char command)
{
    size_t begin;

    if (begin_command(b, command, 0, &begin)) {
        end_command(b, command, begin);
    }
}

static void add_connect(struct builder *b)
{
    static const uint8_t family_and_port[] = {'4', 34211 >> 8, 34211 & 0xFF};
    size_t begin;

    if (begin_command(b, 'C', 0, &begin)) {
        put_string(b, "client.example.net");
        put(b, family_and_port, sizeof family_and_port);
        put_string(b, "192.0.2.25");
        end_command(b, 'C', begin);
    }
}

static void add_helo(struct builder *b)
{
    size_t begin;

    if (begin_command(b, 'H', 0, &begin)) {
        put_string(b, "client.example.net");
        end_command(b, 'H', begin);
    }
}

static void add_envelope(struct builder *b)
{
    size_t begin;
    char text[48];

    if (begin_command(b, 'M', 0, &begin)) {
        put_string(b, "<sender@example.net>");
        snprintf(text, sizeof text, "SIZE=%zu", b->workload->body + 2048);
        put_string(b, text);
        put_string(b, "BODY=8BITMIME");
        end_command(b, 'M', begin);
    }
    for (unsigned i = 0; i < b->workload->recipients; i++) {
        if (begin_command(b, 'R', i, &begin)) {
            snprintf(text, sizeof text, "<user%u@example.org>", i);
            put_string(b, text);
            put_string(b, "NOTIFY=FAILURE");
            end_command(b, 'R', begin);
        }
    }
}

static void add_headers(struct builder *b)
{
    const size_t known = sizeof headers / sizeof headers[0];

    for (unsigned i = 0; i < b->workload->headers; i++) {
        size_t begin;
        if (!begin_command(b, 'L', 0, &begin)) {
            continue;
        }
        char name[32];
        snprintf(name, sizeof name, "X-Trace-%u", i);
        put_string(b, i < known ? headers[i].name : name);
        if ((b->script->protocol & WIRE_LEADING_SPACE) != 0) {
            put(b, " ", 1);
        }
        put_string(b, i < known ? headers[i].value : "hop=client.example.net; delay=0.04; ok");
        end_command(b, 'L', begin);
    }
}

static void add_body(struct builder *b)
{
    size_t at = 0;

    while (at < b->workload->body) {
        size_t stop = b->workload->body - at < WIRE_CHUNK ? b->workload->body : at + WIRE_CHUNK;
        size_t begin;
        if (!begin_command(b, 'B', 0, &begin)) {
            return;
        }
        while (at < stop) {
            size_t from = at % (sizeof line - 1);
            size_t piece = sizeof line - 1 - from < stop - at ? sizeof line - 1 - from : stop - at;
            put(b, line + from, piece);
            at += piece;
        }
        end_command(b, 'B', begin);
    }
}

/* The packets around the messages: they have no data and no answer. */
static size_t put_bare(struct builder *b, const char *letters)
{
    size_t begin = b->used;

    for (; *letters != '\0'; letters++) {
        begin_packet(b, *letters);
        end_packet(b);
    }
    return b->used - begin;
}

/* Finds the macro lists behind the three words. What is out of shape ends them. */
static void read_asked(struct builder *b)
{
    const uint8_t *at = b->script->negotiated + 12;
    const uint8_t *stop = b->script->negotiated + b->script->negotiated_size;

    while (stop - at > 4) {
        uint32_t stage = wire_get(at);
        const uint8_t *zero = memchr(at + 4, 0, (size_t)(stop - at) - 4);
        if (zero == NULL) {
            return;
        }
        if (stage < sizeof stages - 1) {
            b->asked[stage] = (const char *)at + 4;
        }
        at = zero + 1;
    }
}

/* The bytes no longer move: says where each step's are, all of them back to back. */
static void settle(struct script *script)
{
    const uint8_t *at = script->bytes;

    for (size_t i = 0; i < script->count; i++) {
        script->steps[i].span.data = at;
        at += script->steps[i].span.size;
    }
    script->renew.data = at;
    script->quit.data = at + script->renew.size;
}

struct span script_offer(void)
{
    static const uint8_t offer[] = {0, 0, 0, 13,   'O', 0,    0,    0,   6,
                                    0, 0, 1, 0xFF, 0,   0x1F, 0xFF, 0xFF};

    return (struct span){offer, sizeof offer};
}

struct script *script_make(const struct workload *workload, const uint8_t *negotiated, size_t size)
{
    struct script *script = calloc(1, sizeof *script);
    struct builder b = {.workload = workload, .script = script};

    if (script == NULL || (script->negotiated = malloc(size)) == NULL) {
        free(script);
        return NULL;
    }
    memcpy(script->negotiated, negotiated, size);
    script->negotiated_size = size;
    script->version = wire_get(negotiated);
    script->actions = wire_get(negotiated + 4);
    script->protocol = wire_get(negotiated + 8);
    read_asked(&b);

    add_connect(&b);
    add_helo(&b);
    script->message = script->count;
    add_envelope(&b);
    script->content = script->count;
    add_simple(&b, 'T');
    add_headers(&b);
    add_simple(&b, 'N');
    add_body(&b);
    script->end = script->count;
    add_simple(&b, 'E');
    bool postfix = workload->style == STYLE_POSTFIX;
    script->renew.size = put_bare(&b, postfix ? "A" : "");
    script->quit.size = put_bare(&b, postfix ? "AAQ" : "Q");
    if (b.failed) {
        script_free(script);
        return NULL;
    }
    settle(script);
    return script;
}

void script_free(struct script *script)
{
    free(script->steps);
    free(script->bytes);
    free(script->negotiated);
    free(script);
}
