/*
 * codec.c - payload <-> fields.
 */
#include "codec.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "frame.h"

/* What is left of a payload while it is read. */
typedef struct cursor {
    const char *at;
    size_t left;
} cursor;

static mlt_span advance(cursor *in, size_t len)
{
    mlt_span span = {in->at, len};
    in->at += len;
    in->left -= len;
    return span;
}

/* A string and its NUL; the span is without it. */
static bool get_string(cursor *in, mlt_span *text)
{
    const char *nul = in->left > 0 ? memchr(in->at, 0, in->left) : NULL;
    if (nul == NULL)
        return false;
    *text = advance(in, (size_t)(nul - in->at));
    advance(in, 1);
    return true;
}

static bool get_u32(cursor *in, uint32_t *number)
{
    if (in->left < 4)
        return false;
    *number = mlt_frame_get_u32(advance(in, 4).data);
    return true;
}

static bool get_u16(cursor *in, uint32_t *number)
{
    if (in->left < 2)
        return false;
    const unsigned char *bytes = (const unsigned char *)advance(in, 2).data;
    *number = (uint32_t)bytes[0] << 8 | bytes[1];
    return true;
}

/* One string or more. The span is without the last NUL; what follows that is dropped. */
static bool get_strings(cursor *in, mlt_span *text)
{
    size_t len = in->left;
    while (len > 0 && in->at[len - 1] != '\0')
        len--;
    if (len == 0)
        return false;
    *text = (mlt_span){in->at, len - 1};
    advance(in, in->left);
    return true;
}

/* Names and values, whole pairs only. The span is with the last NUL. */
static size_t get_pairs(cursor *in, mlt_span *pairs)
{
    size_t count = 0;
    *pairs = (mlt_span){in->at, 0};
    mlt_span part;
    while (get_string(in, &part) && get_string(in, &part)) {
        pairs->len = (size_t)(in->at - pairs->data);
        count++;
    }
    advance(in, in->left);
    return count;
}

/* Macro lists of an OPTNEG reply. */
static bool get_lists(cursor *in, mlt_span *text)
{
    *text = (mlt_span){in->at, in->left};
    uint32_t stage;
    mlt_span names;
    while (in->left > 0) {
        if (!get_u32(in, &stage) || !get_string(in, &names))
            return false;
    }
    return true;
}

int mlt_codec_decode(const char *shape, const char *payload, size_t len, mlt_fields *fields)
{
    cursor in = {payload, len};
    int family = 0;
    fields->numbers = fields->texts = 0;
    for (; *shape != '\0'; shape++) {
        mlt_span text = {NULL, 0};
        bool is_text = true;
        bool good = true;
        switch (*shape) {
        case 'u':
            is_text = false;
            good = get_u32(&in, &fields->number[fields->numbers++]);
            break;
        case 'h':
            is_text = false;
            good = get_u16(&in, &fields->number[fields->numbers++]);
            break;
        case 's':
            good = get_string(&in, &text);
            break;
        case 't':
            good = in.left == 0 || get_string(&in, &text);
            break;
        case 'v':
            good = get_strings(&in, &text);
            break;
        case 'p':
            get_pairs(&in, &text);
            break;
        case 'c':
            good = in.left > 0;
            if (good) {
                text = advance(&in, 1);
                family = (unsigned char)*text.data;
            }
            break;
        case 'a':
            if (family == 'U') {
                advance(&in, in.left);
                break;
            }
            good = get_u16(&in, &fields->number[fields->numbers++]) && get_string(&in, &text);
            break;
        case 'b':
            text = advance(&in, in.left);
            break;
        case 'l':
            good = get_lists(&in, &text);
            break;
        case 'z':
            is_text = false;
            good = in.left == 0 || in.at[in.left - 1] == '\0';
            advance(&in, in.left);
            break;
        case '.':
            is_text = false;
            advance(&in, in.left);
            break;
        default:
            return MLT_ERR_CALLER;
        }
        if (!good)
            return MLT_ERR_PEER;
        if (is_text)
            fields->text[fields->texts++] = text;
    }
    return in.left == 0 ? MLT_OK : MLT_ERR_PEER;
}

/* Where the next byte goes; keeps counting when there is no room, so that the size comes out. */
typedef struct writer {
    char *out;
    size_t room;
    size_t len;
} writer;

static void put(writer *to, const char *bytes, size_t len)
{
    if (len > 0 && to->len <= to->room && len <= to->room - to->len)
        memcpy(to->out + to->len, bytes, len);
    to->len += len;
}

size_t mlt_codec_encode(int letter, const char *shape, const mlt_fields *fields, char *out,
                        size_t size)
{
    char number[4];
    size_t numbers = 0;
    size_t texts = 0;
    writer to = {out, size, MLT_FRAME_HEAD};
    for (; *shape != '\0'; shape++) {
        if (*shape == 'u') {
            if (numbers == fields->numbers)
                return 0;
            mlt_frame_put_u32(number, fields->number[numbers++]);
            put(&to, number, 4);
            continue;
        }
        if (*shape == '.' || *shape == 'z')
            continue;
        if (texts == fields->texts)
            return 0;
        mlt_span text = fields->text[texts++];
        if (*shape == 't' && text.data == NULL)
            continue;
        put(&to, text.data, text.len);
        if (*shape == 's' || *shape == 't')
            put(&to, "", 1);
    }
    if (numbers != fields->numbers || texts != fields->texts ||
        to.len - MLT_FRAME_LENGTH > UINT32_MAX)
        return 0;
    if (to.len <= size)
        mlt_frame_put_head(out, letter, to.len - MLT_FRAME_HEAD);
    return to.len;
}

/* A textual address in the form that the operating system gives to it. */
static bool normalise(int family, const char *text, char address[MLT_ADDRESS])
{
    unsigned char binary[sizeof(struct in6_addr)];
    return inet_pton(family, text, binary) == 1 &&
           inet_ntop(family, binary, address, MLT_ADDRESS) != NULL;
}

static int decode_client(const mlt_fields *fields, mlt_client *client, const char **why)
{
    mlt_span text = fields->text[2];
    /* A unix path may be as long as the operating system's address has room for, NUL included. */
    size_t room = sizeof(((struct sockaddr_un *)NULL)->sun_path);
    client->family = (unsigned char)*fields->text[1].data;
    client->port = fields->numbers > 0 ? (int)fields->number[0] : 0;
    client->address[0] = '\0';
    if (client->family == 'U')
        return MLT_OK;
    if (text.len >= room || text.len >= MLT_ADDRESS) {
        *why = " with an address that is too long";
        return MLT_ERR_PEER;
    }
    char copy[MLT_ADDRESS];
    memcpy(copy, text.data, text.len + 1);
    switch (client->family) {
    case 'L':
        memcpy(client->address, copy, text.len + 1);
        return MLT_OK;
    case '4':
        if (normalise(AF_INET, copy, client->address))
            return MLT_OK;
        *why = " with a bad IPv4 address";
        return MLT_ERR_PEER;
    case '6':
        /* Sendmail puts a tag in front, Postfix does not (wire spec 1.3). */
        if (normalise(AF_INET6, strncasecmp(copy, "IPv6:", 5) == 0 ? copy + 5 : copy,
                      client->address))
            return MLT_OK;
        *why = " with a bad IPv6 address";
        return MLT_ERR_PEER;
    default:
        *why = " with an unknown address family";
        return MLT_ERR_PEER;
    }
}

int mlt_codec_event(int step, mlt_span payload, mlt_event *event, mlt_client *client,
                    const char **why)
{
    const mlt_packet_row *row = mlt_protocol_command(mlt_steps[step].letter);
    mlt_fields fields;
    event->step = step;
    event->data = NULL;
    event->len = 0;
    int status = mlt_codec_decode(row->shape, payload.data, payload.len, &fields);
    if (status != MLT_OK) {
        *why = " is malformed";
        return status;
    }
    if (fields.texts > 0) {
        event->data = fields.text[0].data;
        event->len = fields.text[0].len;
    }
    switch (step) {
    case MLT_STEP_CONNECT:
        return decode_client(&fields, client, why);
    case MLT_STEP_HEADER:
        if (fields.text[0].len == 0) {
            *why = " without a name";
            return MLT_ERR_PEER;
        }
        /* Name, NUL and value stand one behind the other. */
        event->len = fields.text[0].len + 1 + fields.text[1].len;
        return MLT_OK;
    case MLT_STEP_BODY:
        if (payload.len == 0) {
            *why = " without data";
            return MLT_ERR_PEER;
        }
        return MLT_OK;
    default:
        return MLT_OK;
    }
}

int mlt_codec_macros(mlt_span payload, int *letter, mlt_span *pairs, size_t *count)
{
    if (payload.len == 0)
        return MLT_ERR_PEER;
    cursor in = {payload.data + 1, payload.len - 1};
    *letter = (unsigned char)payload.data[0];
    if (in.left == 0 || memchr(in.at, 0, in.left) == NULL)
        return MLT_END;
    *count = get_pairs(&in, pairs);
    return MLT_OK;
}

int mlt_codec_options(mlt_span payload, uint32_t *version, uint32_t *actions, uint32_t *protocol)
{
    mlt_fields fields;
    const char *shape = mlt_protocol_command(SMFIC_OPTNEG)->shape;
    if (mlt_codec_decode(shape, payload.data, payload.len, &fields) != MLT_OK)
        return MLT_ERR_PEER;
    *version = fields.number[0];
    *actions = fields.number[1];
    *protocol = fields.number[2];
    return MLT_OK;
}
