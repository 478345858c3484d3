/* The benchmark's filter in C on libmilter: the same as contenders/filter.py.
 *
 *   libmilter_c SOCKET WORKLOAD
 *
 * Every callback looks at what it is given; the end of message adds one header. By its documented
 * interface only.
 */
#include <libmilter/mfapi.h>

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

/* What the command line chose; read-only once the filter runs. */
static struct {
    bool quiet;  /* nothing is answered that need not be */
    bool reject; /* at HELO */
    bool block;  /* the end of message waits for 20 ms */
} workload;

/* What is kept for each connection. */
struct seen {
    size_t bytes;
};

static sfsistat verdict(void)
{
    return workload.quiet ? SMFIS_NOREPLY : SMFIS_CONTINUE;
}

static void look(SMFICTX *context, size_t size)
{
    struct seen *seen = smfi_getpriv(context);

    if (seen != NULL) {
        seen->bytes += size;
    }
}

static sfsistat on_negotiate(SMFICTX *context, unsigned long actions, unsigned long steps,
                             unsigned long reserved2, unsigned long reserved3,
                             unsigned long *wanted_actions, unsigned long *wanted_steps,
                             unsigned long *wanted2, unsigned long *wanted3)
{
    const unsigned long quiet = SMFIP_NR_CONN | SMFIP_NR_HELO | SMFIP_NR_MAIL | SMFIP_NR_RCPT |
                                SMFIP_NR_DATA | SMFIP_NR_UNKN | SMFIP_NR_HDR | SMFIP_NR_EOH |
                                SMFIP_NR_BODY;

    (void)context;
    (void)actions;
    (void)reserved2;
    (void)reserved3;
    *wanted_actions = SMFIF_ADDHDRS;
    *wanted_steps = workload.quiet ? steps & quiet : 0;
    *wanted2 = 0;
    *wanted3 = 0;
    return SMFIS_CONTINUE;
}

static sfsistat on_connect(SMFICTX *context, char *host, struct sockaddr *address)
{
    (void)address;
    smfi_setpriv(context, calloc(1, sizeof(struct seen)));
    look(context, strlen(host));
    return verdict();
}

static sfsistat on_helo(SMFICTX *context, char *host)
{
    look(context, strlen(host));
    return workload.reject ? SMFIS_REJECT : verdict();
}

static sfsistat on_address(SMFICTX *context, char **arguments)
{
    look(context, strlen(arguments[0]));
    return verdict();
}

static sfsistat on_bare(SMFICTX *context)
{
    (void)context;
    return verdict();
}

static sfsistat on_header(SMFICTX *context, char *name, char *value)
{
    look(context, strlen(name) + strlen(value));
    return verdict();
}

static sfsistat on_body(SMFICTX *context, unsigned char *chunk, size_t size)
{
    (void)chunk;
    look(context, size);
    return verdict();
}

static sfsistat on_unknown(SMFICTX *context, const char *command)
{
    (void)context;
    (void)command;
    return verdict();
}

static sfsistat on_end(SMFICTX *context)
{
    static char header[] = "X-Filter";
    static char symbol[] = "i";
    static char none[] = "-";

    if (workload.block) {
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    }
    char *id = smfi_getsymval(context, symbol);
    smfi_addheader(context, header, id != NULL ? id : none);
    return SMFIS_CONTINUE;
}

static sfsistat on_abort(SMFICTX *context)
{
    (void)context;
    return SMFIS_CONTINUE;
}

static sfsistat on_close(SMFICTX *context)
{
    free(smfi_getpriv(context));
    smfi_setpriv(context, NULL);
    return SMFIS_CONTINUE;
}

int main(int argc, char **argv)
{
    static char name[] = "bench";
    struct smfiDesc filter = {
        .xxfi_name = name,
        .xxfi_version = SMFI_VERSION,
        .xxfi_flags = SMFIF_ADDHDRS,
        .xxfi_connect = on_connect,
        .xxfi_helo = on_helo,
        .xxfi_envfrom = on_address,
        .xxfi_envrcpt = on_address,
        .xxfi_header = on_header,
        .xxfi_eoh = on_bare,
        .xxfi_body = on_body,
        .xxfi_eom = on_end,
        .xxfi_abort = on_abort,
        .xxfi_close = on_close,
        .xxfi_unknown = on_unknown,
        .xxfi_data = on_bare,
        .xxfi_negotiate = on_negotiate,
    };

    if (argc != 3) {
        fprintf(stderr, "usage: libmilter_c SOCKET WORKLOAD\n");
        return 2;
    }
    workload.quiet = strcmp(argv[2], "noreply") == 0;
    workload.reject = strcmp(argv[2], "reject") == 0;
    workload.block = strcmp(argv[2], "block") == 0;
    if (smfi_setconn(argv[1]) == MI_FAILURE || smfi_register(filter) == MI_FAILURE) {
        fprintf(stderr, "libmilter_c: %s: not accepted by libmilter\n", argv[1]);
        return 1;
    }
    return smfi_main() == MI_SUCCESS ? 0 : 1;
}
