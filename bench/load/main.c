/* The load generator: plays the MTA in any number of sessions, from one thread.
 *
 * Owns the command line, the loop, the phases of a run (idle connections first, then the warm-up,
 * then what is measured, then the last messages) and the report. What happens in a connection:
 * session.c.
 */
#include "session.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum {
    EVENTS = 256,        /* taken from the poller at once */
    OPENING = 32,        /* idle connections on their way at once, so that no backlog overflows */
    ERRORS_MOST = 100,   /* after so many the run is given up */
    WATCHED_MOST = 64,   /* processes whose CPU time is read */
    PIDS_MOST = 1 << 22, /* no process has a greater id; the clock's number would wrap around */
    USAGE = 2,           /* exit status: could not begin */
};

static const int64_t second = 1000000000;

struct options {
    const char *socket;
    unsigned sessions;
    unsigned idle;
    uint64_t connections; /* 0: as many as there is time for */
    double seconds;
    double warmup;
    double timeout;
    bool json;
    unsigned watched;
    pid_t pids[WATCHED_MOST];
};

/* The clocks at one moment. */
struct moment {
    int64_t time;
    int64_t cpu;                   /* of this process, in nanoseconds */
    int64_t watched[WATCHED_MOST]; /* of the others */
};

/* A run and what came of it. */
struct run {
    struct options options;
    struct load load;
    struct session *idle;   /* options.idle of them */
    struct session *active; /* options.sessions of them */
    unsigned idle_begun;
    unsigned idle_failed;
    unsigned running; /* active sessions that go on */
    uint64_t begun;   /* connections of the active sessions, since the measuring began */
    bool started;     /* the idle connections are there, the active sessions run */
    bool measuring;
    bool measured;    /* the result is in the tally below */
    int64_t warm;     /* when the measuring begins */
    int64_t deadline; /* when it ends; 0: with the last connection */
    struct moment from;
    struct moment to;
    struct tally result;
    uint64_t all_messages; /* with those of the warm-up and after the end */
    uint64_t all_connections;
};

static const char help[] =
    "usage: load --socket SPEC [options]\n"
    "\n"
    "Plays the MTA against the filter that listens at SPEC (unix:/path or inet:port@host).\n"
    "\n"
    "  --sessions N      connections at the same time (1)\n"
    "  --connections N   how long: until N connections have ended\n"
    "  --seconds S       how long: S seconds\n"
    "  --warmup S        go on for S seconds before anything is counted (0)\n"
    "  --messages N      in each connection (1); 0: only CONNECT and HELO\n"
    "  --headers N       in each message (20)\n"
    "  --body BYTES      of each message, in chunks of 65535 (8192)\n"
    "  --recipients N    of each message (1)\n"
    "  --idle N          open N further connections first, silent after HELO until the end (0)\n"
    "  --style postfix   macros and command in one write; commands that need no answer wait for\n"
    "                    the next that does (up to DATA, up to the end of message) [default]\n"
    "  --style sendmail  every packet a write of its own\n"
    "                    (TCP_NODELAY is set in neither style)\n"
    "  --reject-at none|connect|helo\n"
    "                    where connections are expected to be refused; anything else then is an\n"
    "                    error (without the option: nothing is expected)\n"
    "  --timeout S       how long the filter may owe an answer (30)\n"
    "  --cpu-of PID,...  read the CPU time of these processes as measuring begins and ends\n"
    "  --json            one JSON object on stdout, instead of lines of text\n"
    "\n"
    "The object (counts are of the measured time, without the warm-up and the last messages that\n"
    "are let finish after the end):\n"
    "  messages, connections (ended), refused (at CONNECT or HELO),\n"
    "  seconds, messages_per_second, connections_per_second,\n"
    "  cpu_seconds (of the generator), cpu_of: {PID: seconds or null} (see --cpu-of),\n"
    "  latency_us: {p50, p90, p99, max} of a message, from MAIL to the verdict that ends it; of a\n"
    "    connection refused or without messages, from connect to the verdict,\n"
    "  replies: {letter: count},\n"
    "  idle (connections that stayed silent), retries (connects put off: backlog was full),\n"
    "  all_messages, all_connections (over the whole run),\n"
    "  negotiated: [{version, actions, protocol}, ...],\n"
    "  errors, first_error (null or a text)\n"
    "\n"
    "Exit status: 0; 1 if there were errors (a breach of the protocol by the filter, a connection\n"
    "that it closed, a timeout); 2 if the run could not begin.\n";

__attribute__((noreturn)) static void usage(const char *what, const char *value)
{
    fprintf(stderr, "load: %s%s%s (load --help says more)\n", what, value != NULL ? ": " : "",
            value != NULL ? value : "");
    exit(USAGE);
}

static uint64_t read_count(const char *option, const char *text, uint64_t most)
{
    char *end;

    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno != 0 || *text < '0' || *text > '9' || *end != '\0' || value > most) {
        fprintf(stderr, "load: --%s: ", option);
        usage("not a number that is possible here", text);
    }
    return value;
}

static double read_seconds(const char *option, const char *text)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end != '\0' || !(value >= 0 && value < 1e6)) {
        fprintf(stderr, "load: --%s: ", option);
        usage("not a number of seconds", text);
    }
    return value;
}

static void read_pids(struct options *options, char *list)
{
    char *rest;

    for (char *one = strtok_r(list, ",", &rest); one != NULL; one = strtok_r(NULL, ",", &rest)) {
        if (options->watched == WATCHED_MOST) {
            usage("too many processes", NULL);
        }
        options->pids[options->watched++] = (pid_t)read_count("cpu-of", one, PIDS_MOST);
    }
}

static enum style read_style(const char *name)
{
    if (strcmp(name, "postfix") == 0) {
        return STYLE_POSTFIX;
    }
    if (strcmp(name, "sendmail") != 0) {
        usage("no such style", name);
    }
    return STYLE_SENDMAIL;
}

static enum expectation read_expectation(const char *name)
{
    if (strcmp(name, "none") == 0) {
        return EXPECT_NO_REFUSAL;
    }
    if (strcmp(name, "connect") == 0) {
        return EXPECT_AT_CONNECT;
    }
    if (strcmp(name, "helo") != 0) {
        usage("no step where that can be", name);
    }
    return EXPECT_AT_HELO;
}

static void read_options(int argc, char **argv, struct run *run)
{
    static const struct option known[] = {
        {"socket", required_argument, NULL, 's'},
        {"sessions", required_argument, NULL, 'n'},
        {"connections", required_argument, NULL, 'c'},
        {"seconds", required_argument, NULL, 't'},
        {"warmup", required_argument, NULL, 'w'},
        {"messages", required_argument, NULL, 'm'},
        {"headers", required_argument, NULL, 'l'},
        {"body", required_argument, NULL, 'b'},
        {"recipients", required_argument, NULL, 'r'},
        {"idle", required_argument, NULL, 'i'},
        {"style", required_argument, NULL, 'y'},
        {"reject-at", required_argument, NULL, 'x'},
        {"timeout", required_argument, NULL, 'o'},
        {"cpu-of", required_argument, NULL, 'p'},
        {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    struct options *options = &run->options;
    struct load *load = &run->load;
    int option;
    int index = 0;

    *options = (struct options){.sessions = 1, .timeout = 30};
    load->messages = 1;
    load->workload = (struct workload){STYLE_POSTFIX, 20, 1, 8192};
    while ((option = getopt_long(argc, argv, "", known, &index)) != -1) {
        const char *name = known[index].name;
        switch (option) {
        case 's':
            options->socket = optarg;
            break;
        case 'n':
            options->sessions = (unsigned)read_count(name, optarg, 1000000);
            break;
        case 'c':
            options->connections = read_count(name, optarg, UINT64_MAX);
            break;
        case 't':
            options->seconds = read_seconds(name, optarg);
            break;
        case 'w':
            options->warmup = read_seconds(name, optarg);
            break;
        case 'm':
            load->messages = (unsigned)read_count(name, optarg, UINT32_MAX - 1);
            break;
        case 'l':
            load->workload.headers = (unsigned)read_count(name, optarg, 100000);
            break;
        case 'b':
            load->workload.body = (size_t)read_count(name, optarg, 1 << 30);
            break;
        case 'r':
            load->workload.recipients = (unsigned)read_count(name, optarg, 100000);
            break;
        case 'i':
            options->idle = (unsigned)read_count(name, optarg, 1000000);
            break;
        case 'y':
            load->workload.style = read_style(optarg);
            break;
        case 'x':
            load->expectation = read_expectation(optarg);
            break;
        case 'o':
            options->timeout = read_seconds(name, optarg);
            break;
        case 'p':
            read_pids(options, optarg);
            break;
        case 'j':
            options->json = true;
            break;
        case 'h':
            fputs(help, stdout);
            exit(0);
        default:
            exit(USAGE);
        }
    }
    if (optind < argc) {
        usage("what is this", argv[optind]);
    }
    if (options->socket == NULL) {
        usage("--socket is missing", NULL);
    }
    const char *wrong = address_parse(options->socket, &load->address);
    if (wrong != NULL) {
        usage(options->socket, wrong);
    }
    if ((options->connections > 0) == (options->seconds > 0)) {
        usage("one of --connections and --seconds, please", NULL);
    }
    if (options->sessions == 0 || load->workload.recipients == 0) {
        usage("there must be a session and a recipient", NULL);
    }
}

/* Lets the process open as many sockets as the run needs. */
static void allow_descriptors(const struct options *options)
{
    rlim_t needed = (rlim_t)options->sessions + options->idle + 16;
    struct rlimit limit;

    getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur >= needed) {
        return;
    }
    limit.rlim_cur = needed;
    if (limit.rlim_max < needed || setrlimit(RLIMIT_NOFILE, &limit) != 0) {
        fprintf(stderr, "load: %llu open files are needed, the limit is %llu\n",
                (unsigned long long)needed, (unsigned long long)limit.rlim_max);
        exit(USAGE);
    }
}

static int64_t cpu_of(clockid_t clock)
{
    struct timespec time;

    if (clock_gettime(clock, &time) != 0) {
        return -1;
    }
    return (int64_t)time.tv_sec * second + time.tv_nsec;
}

static void read_clocks(const struct options *options, struct moment *moment)
{
    moment->time = session_clock();
    moment->cpu = cpu_of(CLOCK_PROCESS_CPUTIME_ID);
    for (unsigned i = 0; i < options->watched; i++) {
        clockid_t clock;
        bool there = clock_getcpuclockid(options->pids[i], &clock) == 0;
        moment->watched[i] = there ? cpu_of(clock) : -1;
    }
}

static void add_to_all(struct run *run)
{
    run->all_messages += run->load.tally.messages;
    run->all_connections += run->load.tally.connections;
    memset(&run->load.tally, 0, sizeof run->load.tally);
}

static void begin_measuring(struct run *run)
{
    add_to_all(run);
    run->measuring = true;
    run->begun = run->running; /* those that are on their way count as begun now */
    read_clocks(&run->options, &run->from);
    if (run->options.seconds > 0) {
        run->deadline = run->from.time + (int64_t)(run->options.seconds * (double)second);
    }
}

static void end_measuring(struct run *run)
{
    read_clocks(&run->options, &run->to);
    run->result = run->load.tally;
    run->measured = true;
    run->load.stopping = true;
    add_to_all(run);
}

static void start_sessions(struct run *run)
{
    run->started = true;
    run->warm = session_clock() + (int64_t)(run->options.warmup * (double)second);
    /* No more sessions than connections are wanted. */
    uint64_t most = run->options.connections > 0 && run->options.warmup == 0
                        ? run->options.connections
                        : UINT64_MAX;
    for (unsigned i = 0; i < run->options.sessions && i < most; i++) {
        session_enqueue(&run->load, &run->active[i]);
        run->running++;
    }
    if (run->options.warmup == 0) {
        begin_measuring(run);
    }
}

/* Another connection for each session that has ended one, if there is to be one. */
static void take_ended(struct run *run)
{
    struct load *load = &run->load;

    while (load->ended != NULL) {
        struct session *session = load->ended;
        load->ended = session->next;
        if (session->idle) {
            run->idle_failed++;
            continue;
        }
        bool enough = run->measuring && run->options.connections > 0 &&
                      run->begun >= run->options.connections;
        if (load->stopping || enough) {
            run->running--;
        } else {
            run->begun++;
            session_enqueue(load, session);
        }
    }
}

/* What the passing of time and of connections asks for, between two waits. */
static void go_on(struct run *run)
{
    struct load *load = &run->load;
    const struct options *options = &run->options;

    take_ended(run);
    if (!run->started) {
        unsigned there = load->parked + run->idle_failed;
        while (run->idle_begun < options->idle && run->idle_begun < there + OPENING) {
            session_enqueue(load, &run->idle[run->idle_begun++]);
        }
        if (there >= options->idle) {
            start_sessions(run);
        }
    } else if (!run->measuring && load->now >= run->warm) {
        begin_measuring(run);
    }
    if (run->measuring && !run->measured &&
        (run->running == 0 || (run->deadline > 0 && load->now >= run->deadline))) {
        end_measuring(run);
    }
    if (load->errors >= ERRORS_MOST) {
        load->stopping = true;
    }
    session_open_waiting(load);
}

static void check_timeouts(struct run *run)
{
    int64_t timeout = (int64_t)(run->options.timeout * (double)second);

    for (unsigned i = 0; i < run->options.sessions; i++) {
        session_check_timeout(&run->load, &run->active[i], timeout);
    }
    for (unsigned i = 0; i < run->idle_begun; i++) {
        session_check_timeout(&run->load, &run->idle[i], timeout);
    }
}

/* Milliseconds until something is to be done even if no filter answers. */
static int patience(const struct run *run)
{
    const struct load *load = &run->load;
    int64_t until = load->now + second / 5; /* the timeouts are looked at */

    if (load->waiting != NULL || load->ended != NULL) {
        return 1;
    }
    if (run->started && !run->measuring && run->warm < until) {
        until = run->warm;
    }
    if (run->deadline > 0 && !run->measured && run->deadline < until) {
        until = run->deadline;
    }
    return until <= load->now ? 0 : (int)((until - load->now) / 1000000) + 1;
}

static void play(struct run *run)
{
    struct load *load = &run->load;
    struct epoll_event events[EVENTS];
    int64_t checked = session_clock();

    load->now = checked;
    go_on(run);
    while (!run->started || run->running > 0) {
        int count = epoll_wait(load->epoll, events, EVENTS, patience(run));
        load->now = session_clock();
        for (int i = 0; i < count; i++) {
            session_ready(load, events[i].data.ptr, events[i].events);
        }
        if (load->now - checked > second / 5) {
            checked = load->now;
            check_timeouts(run);
        }
        go_on(run);
    }
    for (unsigned i = 0; i < run->idle_begun; i++) {
        session_quit(load, &run->idle[i]);
    }
    if (!run->measured) {
        /* The warm-up itself ended in too many errors. */
        begin_measuring(run);
        end_measuring(run);
    }
    add_to_all(run);
}

static void print_text(const char *text)
{
    putchar('"');
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\') {
            printf("\\%c", *text);
        } else if ((unsigned char)*text < 0x20 || (unsigned char)*text > 0x7E) {
            printf("\\u%04x", (unsigned char)*text);
        } else {
            putchar(*text);
        }
    }
    putchar('"');
}

static double microseconds(int64_t nanoseconds)
{
    return (double)nanoseconds / 1e3;
}

/* What was negotiated, each way once, the first first. */
static void print_negotiated(const struct script *script, bool *some)
{
    if (script != NULL) {
        print_negotiated(script->next, some);
        printf("%s{\"version\": %u, \"actions\": %u, \"protocol\": %u}", *some ? ", " : "",
               script->version, script->actions, script->protocol);
        *some = true;
    }
}

static void print_json(const struct run *run)
{
    const struct tally *result = &run->result;
    double seconds = (double)(run->to.time - run->from.time) / 1e9;
    double divisor = seconds > 0 ? seconds : 1;
    bool some = false;

    printf("{\"messages\": %llu, \"connections\": %llu, \"refused\": %llu, \"seconds\": %.6f, ",
           (unsigned long long)result->messages, (unsigned long long)result->connections,
           (unsigned long long)result->refused, seconds);
    printf("\"messages_per_second\": %.1f, \"connections_per_second\": %.1f, ",
           (double)result->messages / divisor, (double)result->connections / divisor);
    printf("\"cpu_seconds\": %.6f, \"cpu_of\": {", (double)(run->to.cpu - run->from.cpu) / 1e9);
    for (unsigned i = 0; i < run->options.watched; i++) {
        printf("%s\"%d\": ", i > 0 ? ", " : "", (int)run->options.pids[i]);
        if (run->from.watched[i] < 0 || run->to.watched[i] < 0) {
            printf("null");
        } else {
            printf("%.6f", (double)(run->to.watched[i] - run->from.watched[i]) / 1e9);
        }
    }
    printf("}, \"latency_us\": {\"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, \"max\": %.1f}, ",
           microseconds(tally_percentile(result, 0.5)), microseconds(tally_percentile(result, 0.9)),
           microseconds(tally_percentile(result, 0.99)), microseconds(result->longest));
    printf("\"replies\": {");
    for (unsigned letter = 0; letter < 256; letter++) {
        if (result->replies[letter] > 0) {
            char text[2] = {(char)letter, '\0'};
            printf("%s", some ? ", " : "");
            print_text(text);
            printf(": %llu", (unsigned long long)result->replies[letter]);
            some = true;
        }
    }
    printf("}, \"idle\": %u, \"retries\": %llu, ", run->load.parked,
           (unsigned long long)run->load.retries);
    printf("\"all_messages\": %llu, \"all_connections\": %llu, \"negotiated\": [",
           (unsigned long long)run->all_messages, (unsigned long long)run->all_connections);
    some = false;
    print_negotiated(run->load.scripts, &some);
    printf("], \"errors\": %llu, \"first_error\": ", (unsigned long long)run->load.errors);
    if (run->load.errors > 0) {
        print_text(run->load.first_error);
    } else {
        printf("null");
    }
    printf("}\n");
}

static void print_lines(const struct run *run)
{
    const struct tally *result = &run->result;
    double seconds = (double)(run->to.time - run->from.time) / 1e9;
    double cpu = (double)(run->to.cpu - run->from.cpu) / 1e9;
    double units = (double)(result->messages > 0 ? result->messages : result->connections);
    double divisor = seconds > 0 ? seconds : 1;
    double each = units > 0 ? units : 1;

    printf("%llu messages, %llu connections (%llu refused) in %.3f s\n",
           (unsigned long long)result->messages, (unsigned long long)result->connections,
           (unsigned long long)result->refused, seconds);
    printf("%.1f messages/s, %.1f connections/s\n", (double)result->messages / divisor,
           (double)result->connections / divisor);
    printf("latency in us: p50 %.1f, p90 %.1f, p99 %.1f, max %.1f\n",
           microseconds(tally_percentile(result, 0.5)), microseconds(tally_percentile(result, 0.9)),
           microseconds(tally_percentile(result, 0.99)), microseconds(result->longest));
    printf("generator: %.3f s of CPU, %.1f us each\n", cpu, cpu * 1e6 / each);
    for (unsigned i = 0; i < run->options.watched; i++) {
        double used = (double)(run->to.watched[i] - run->from.watched[i]) / 1e9;
        printf("process %d: %.3f s of CPU, %.1f us each\n", (int)run->options.pids[i], used,
               used * 1e6 / each);
    }
    if (run->load.errors > 0) {
        printf("%llu errors, the first: %s\n", (unsigned long long)run->load.errors,
               run->load.first_error);
    }
}

static struct session *make_sessions(unsigned count, bool idle)
{
    struct session *sessions = calloc(count > 0 ? count : 1, sizeof *sessions);

    if (sessions == NULL) {
        usage("out of memory", NULL);
    }
    for (unsigned i = 0; i < count; i++) {
        sessions[i].fd = -1;
        sessions[i].idle = idle;
    }
    return sessions;
}

int main(int argc, char **argv)
{
    static struct run run; /* too large for the stack */

    read_options(argc, argv, &run);
    allow_descriptors(&run.options);
    run.load.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (run.load.epoll < 0) {
        usage("no epoll", strerror(errno));
    }
    run.active = make_sessions(run.options.sessions, false);
    run.idle = make_sessions(run.options.idle, true);
    play(&run);
    if (run.options.json) {
        print_json(&run);
    } else {
        print_lines(&run);
    }
    while (run.load.scripts != NULL) {
        struct script *script = run.load.scripts;
        run.load.scripts = script->next;
        script_free(script);
    }
    free(run.active);
    free(run.idle);
    close(run.load.epoll);
    return run.load.errors > 0 ? 1 : 0;
}
