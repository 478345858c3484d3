/*
 * torture_filter.c - a filter on libmilter, for the tests of torture.
 *
 *     torture_filter SOCKET
 *
 * Every callback (with NO_DATA none for DATA), most actions; changes of each kind to every message.
 * Compiled by the test.
 */

#include <libmilter/mfapi.h>
#include <stdio.h>

static sfsistat on_connect(SMFICTX *ctx, char *name, _SOCK_ADDR *address)
{
    (void)ctx, (void)name, (void)address;
    return SMFIS_CONTINUE;
}

static sfsistat on_text(SMFICTX *ctx, char *text)
{
    (void)ctx, (void)text;
    return SMFIS_CONTINUE;
}

static sfsistat on_arguments(SMFICTX *ctx, char **arguments)
{
    (void)ctx, (void)arguments;
    return SMFIS_CONTINUE;
}

static sfsistat on_header(SMFICTX *ctx, char *name, char *value)
{
    (void)ctx, (void)name, (void)value;
    return SMFIS_CONTINUE;
}

static sfsistat on_nothing(SMFICTX *ctx)
{
    (void)ctx;
    return SMFIS_CONTINUE;
}

static sfsistat on_body(SMFICTX *ctx, unsigned char *body, size_t size)
{
    (void)ctx, (void)body, (void)size;
    return SMFIS_CONTINUE;
}

static sfsistat on_command(SMFICTX *ctx, const char *command)
{
    (void)ctx, (void)command;
    return SMFIS_CONTINUE;
}

static sfsistat on_end(SMFICTX *ctx)
{
    smfi_progress(ctx);
    smfi_addheader(ctx, "X-Added", "one\n\ttwo");
    smfi_insheader(ctx, 0, "X-First", "three");
    smfi_chgheader(ctx, "Subject", 1, "");
    smfi_addrcpt(ctx, "<r@example.net>");
    smfi_delrcpt(ctx, "<r@example.net>");
    smfi_chgfrom(ctx, "<s@example.net>", NULL);
    smfi_replacebody(ctx, (unsigned char *)"new\r\n", 5);
    smfi_quarantine(ctx, "why");
    return SMFIS_CONTINUE;
}

static struct smfiDesc description = {
    "torture",
    SMFI_VERSION,
    SMFIF_ADDHDRS | SMFIF_CHGHDRS | SMFIF_CHGBODY | SMFIF_ADDRCPT | SMFIF_DELRCPT | SMFIF_CHGFROM |
        SMFIF_QUARANTINE,
    on_connect,
    on_text,
    on_arguments,
    on_arguments,
    on_header,
    on_nothing,
    on_body,
    on_end,
    on_nothing,
    on_nothing,
    on_command,
#ifdef NO_DATA
    NULL,
#else
    on_nothing,
#endif
    NULL,
};

int main(int argc, char **argv)
{
    if (argc != 2 || smfi_setconn(argv[1]) != MI_SUCCESS) {
        fprintf(stderr, "usage: torture_filter SOCKET\n");
        return 2;
    }
    return smfi_register(description) == MI_SUCCESS && smfi_main() == MI_SUCCESS ? 0 : 1;
}
