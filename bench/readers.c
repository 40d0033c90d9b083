// Many readers of one streaming endpoint, in one loop, cheap enough not to be what is measured.
//
//     readers PORT REQUEST_FILE EPOCH_NS READERS STREAMS_EACH RAMP_US [hold AHEAD | stop AFTER_MS GAP_US]
//
// READERS connections are opened, one every RAMP_US, and each sends the request STREAMS_EACH times in a row. The first "########" in
// the request becomes the stream's number. A token is found by its '@' and eight hexadecimal digits: the microsecond at which the
// provider wrote it. What is reported is when tokens came, never what they say. Prints one line of JSON.
//
//     hold    opens at full speed, with AHEAD readers at most waiting for their first token, says so in a line when all have one,
//             and keeps the streams open until standard input ends
//     stop    AFTER_MS after the last stream's first token sends `POST /v1/streams/{x-stream-id}/cancel` for each stream, on a
//             connection of its own that is open already, one every GAP_US; reports when each was asked and what the receipt says
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HEAD_MAX 1024
#define ID_MAX 64
#define MARK_DIGITS 8
#define EVENTS_MAX 256
#define STOP_LEAD_US 500000 // the connections for the Stops are opened this long before the first of them is used

enum part { HEAD, CHUNK_SIZE, CHUNK, CHUNK_END, LAST };
enum mode { READ, HOLD, STOP };

struct reader {
    bool is_stop; // first in both structures, so that an event's owner can be told
    int fd;
    enum part part;
    int digits; // of a mark that is being read: 0 outside of one, 1 behind its '@'
    uint32_t mark;
    size_t left_in_chunk, head_length;
    int streams_left;
    long number, tokens;
    uint64_t asked_us, first_us;
    char id[ID_MAX];
    char head[HEAD_MAX];
};

struct stop {
    bool is_stop;
    int fd;
    struct reader *reader;
    uint64_t asked_us, answered_us;
    double cancel_ms;
    size_t length;
    char answer[2 * HEAD_MAX];
};

struct samples {
    uint32_t *us;
    size_t count;
};

static struct sockaddr_in address;
static uint64_t epoch_ns, ramp_us, stop_after_us, stop_gap_us, all_open_us;
static char *request, *place_of_number;
static size_t request_length;
static enum mode mode;
static int poller, readers_count, opened, ahead, waiting, running, stopped, answered;
static long number, finished, errors, tokens;
static struct samples delays, firsts;
static struct reader *readers;
static struct stop *stops;
static char first_error[160];

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return ((uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec - epoch_ns) / 1000;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void *must(void *memory) {
    if (!memory) die("memory");
    return memory;
}

static int digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static void add(struct samples *s, uint64_t us) {
    if (s->count % 65536 == 0) s->us = must(realloc(s->us, (s->count + 65536) * sizeof *s->us));
    s->us[s->count++] = (uint32_t)us;
}

static int open_connection(void *owner) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = EPOLLIN, .data.ptr = owner})) die("epoll_ctl");
    return fd;
}

static void leave(struct reader *r) {
    close(r->fd);
    r->fd = -1;
    running--;
}

static void fail(struct reader *r, const char *why) {
    if (!errors++) snprintf(first_error, sizeof first_error, "stream %ld: %.100s", r->number, why);
    if (!r->first_us) waiting--;
    leave(r);
}

static void ask(struct reader *r) {
    char digits[9];
    snprintf(digits, sizeof digits, "%08ld", number);
    if (place_of_number) memcpy(place_of_number, digits, 8);
    r->number = number++;
    r->part = HEAD;
    r->head_length = r->left_in_chunk = 0;
    r->digits = 0;
    r->tokens = 0;
    r->first_us = 0;
    r->asked_us = now_us();
    waiting++;
    if (send(r->fd, request, request_length, MSG_NOSIGNAL) != (ssize_t)request_length) fail(r, "the request was not taken");
}

static void end(struct reader *r) {
    if (!r->tokens) return fail(r, "ended without a token");
    finished++;
    if (--r->streams_left > 0)
        ask(r);
    else
        leave(r);
}

static void count_token(struct reader *r, uint64_t now) {
    add(&delays, now > r->mark ? now - r->mark : 0);
    tokens++;
    if (r->tokens++) return;
    r->first_us = now;
    add(&firsts, now - r->asked_us);
    waiting--;
    if (opened == readers_count && !waiting && !all_open_us) all_open_us = now;
}

// A mark may be cut anywhere; how far it has come is kept from one call to the next.
static void scan(struct reader *r, const char *at, const char *end, uint64_t now) {
    while (at < end) {
        if (!r->digits) {
            at = memchr(at, '@', (size_t)(end - at));
            if (!at) return;
            at++, r->digits = 1, r->mark = 0;
            continue;
        }
        int value = digit(*at++);
        r->mark = r->mark << 4 | (uint32_t)(value & 15);
        if (value < 0)
            r->digits = 0;
        else if (r->digits++ == MARK_DIGITS)
            r->digits = 0, count_token(r, now);
    }
}

// Returns behind the head, or NULL where it is not an answer that can be read here.
static const char *read_head(struct reader *r, const char *at, const char *end) {
    size_t before = r->head_length, room = HEAD_MAX - 1 - before, take = (size_t)(end - at) < room ? (size_t)(end - at) : room;
    memcpy(r->head + before, at, take);
    r->head_length += take;
    r->head[r->head_length] = 0;
    const char *head_end = strstr(r->head, "\r\n\r\n");
    if (!head_end) return r->head_length < HEAD_MAX - 1 ? end : NULL;
    if (memcmp(r->head, "HTTP/1.1 200", 12) || !strcasestr(r->head, "transfer-encoding: chunked")) return NULL;
    const char *id = strcasestr(r->head, "x-stream-id: ");
    if (id) sscanf(id + 13, "%63[^\r]", r->id);
    r->part = CHUNK_SIZE;
    return at + (head_end + 4 - r->head) - before;
}

static const char *read_size(struct reader *r, const char *at, const char *end) {
    for (; at < end; at++) {
        if (*at == '\n') {
            r->part = r->left_in_chunk ? CHUNK : LAST;
            return at + 1;
        }
        int value = digit(*at);
        if (value >= 0) r->left_in_chunk = r->left_in_chunk << 4 | (size_t)value;
    }
    return at;
}

static void feed(struct reader *r, const char *at, const char *stop, uint64_t now) {
    while (at < stop && r->fd >= 0) {
        const char *found;
        size_t take;
        switch (r->part) {
        case HEAD:
            at = read_head(r, at, stop);
            if (!at) return fail(r, r->head);
            break;
        case CHUNK_SIZE:
            at = read_size(r, at, stop);
            break;
        case CHUNK:
            take = (size_t)(stop - at) < r->left_in_chunk ? (size_t)(stop - at) : r->left_in_chunk;
            scan(r, at, at + take, now);
            at += take;
            r->left_in_chunk -= take;
            if (!r->left_in_chunk) r->part = CHUNK_END;
            break;
        case CHUNK_END:
        case LAST:
            found = memchr(at, '\n', (size_t)(stop - at));
            if (!found) return;
            at = found + 1;
            if (r->part == LAST) return end(r);
            r->part = CHUNK_SIZE;
        }
    }
}

static void receive(struct reader *r) {
    static char bytes[1 << 17];
    ssize_t got = recv(r->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (got > 0)
        feed(r, bytes, bytes + got, now_us());
    else if (got == 0 || errno != EAGAIN)
        fail(r, "cut off");
}

static void receive_answer(struct stop *s) {
    ssize_t got = recv(s->fd, s->answer + s->length, sizeof s->answer - 1 - s->length, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return;
    if (got > 0) s->answer[s->length += (size_t)got] = 0;
    const char *body = strstr(s->answer, "\r\n\r\n"), *length = strcasestr(s->answer, "content-length: ");
    bool whole = body && length && s->length >= (size_t)(body + 4 - s->answer) + strtoul(length + 16, NULL, 10);
    if (got > 0 && !whole && s->length < sizeof s->answer - 1) return;
    const char *told = strstr(s->answer, "\"cancel_ms\":");
    s->answered_us = now_us();
    s->cancel_ms = told ? atof(told + 12) : -1;
    if (!whole || !told || memcmp(s->answer, "HTTP/1.1 200", 12)) {
        if (!errors++) snprintf(first_error, sizeof first_error, "Stop of stream %ld: %.100s", s->reader->number, s->answer);
    }
    close(s->fd);
    answered++;
}

static void open_due(uint64_t begun_us) {
    while (opened < readers_count && waiting < ahead && now_us() >= begun_us + (uint64_t)opened * ramp_us) {
        struct reader *r = &readers[opened++];
        running++;
        r->fd = open_connection(r);
        ask(r);
    }
}

static void stop_due(void) {
    if (!stops) {
        stops = must(calloc((size_t)readers_count, sizeof *stops));
        for (int i = 0; i < readers_count; i++) {
            stops[i] = (struct stop){.is_stop = true, .reader = &readers[i]};
            stops[i].fd = open_connection(&stops[i]);
        }
    }
    uint64_t begin_us = all_open_us + stop_after_us + STOP_LEAD_US;
    while (stopped < readers_count && now_us() >= begin_us + (uint64_t)stopped * stop_gap_us) {
        struct stop *s = &stops[stopped++];
        char bytes[256], *form = "POST /v1/streams/%s/cancel HTTP/1.1\r\nHost: bench\r\nContent-Length: 0\r\n\r\n";
        int length = snprintf(bytes, sizeof bytes, form, s->reader->id);
        s->asked_us = now_us();
        if (send(s->fd, bytes, (size_t)length, MSG_NOSIGNAL) != length) die("send");
    }
}

static bool go_on(void) {
    if (mode == HOLD) return !all_open_us && !errors;
    if (mode == STOP) return answered < readers_count && !errors;
    return opened < readers_count || running > 0;
}

static void run(void) {
    struct epoll_event events[EVENTS_MAX];
    uint64_t begun_us = now_us();
    while (go_on()) {
        open_due(begun_us);
        bool stopping = mode == STOP && all_open_us && now_us() >= all_open_us + stop_after_us;
        if (stopping) stop_due();
        bool has_plans = (opened < readers_count && waiting < ahead) || (mode == STOP && stopped < readers_count);
        int ready = epoll_wait(poller, events, EVENTS_MAX, has_plans ? 1 : 1000);
        for (int i = 0; i < ready; i++) {
            struct reader *r = events[i].data.ptr;
            if (r->is_stop)
                receive_answer(events[i].data.ptr);
            else
                receive(r);
        }
    }
}

static int by_size(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void print_samples(const char *name, struct samples *s) {
    if (s->count) qsort(s->us, s->count, sizeof *s->us, by_size);
    printf(",\"%s\":{\"count\":%zu", name, s->count);
    static const struct {
        const char *name;
        double share;
    } at[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"max", 1}};
    for (size_t i = 0; s->count && i < 4; i++)
        printf(",\"%s\":%u", at[i].name, s->us[(size_t)(at[i].share * (double)(s->count - 1))]);
    printf("}");
}

static void print_report(uint64_t took_us) {
    for (char *c = first_error; *c; c++)
        if (*c < ' ' || *c == '"' || *c == '\\') *c = ' ';
    printf("{\"streams\":%ld,\"finished\":%ld,\"errors\":%ld,\"first_error\":\"%s\"", number, finished, errors, first_error);
    printf(",\"tokens\":%ld,\"took_us\":%llu", tokens, (unsigned long long)took_us);
    print_samples("delay_us", &delays);
    print_samples("ttft_us", &firsts);
    printf(",\"stops\":[");
    for (int i = 0; i < stopped; i++)
        printf("%s[%ld,%llu,%llu,%.3f]", i ? "," : "", stops[i].reader->number, (unsigned long long)stops[i].asked_us,
               (unsigned long long)stops[i].answered_us, stops[i].cancel_ms);
    printf("]}\n");
    fflush(stdout);
}

static void read_request(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) die(path);
    request = must(calloc(1, 65536));
    request_length = fread(request, 1, 65535, file);
    fclose(file);
    place_of_number = strstr(request, "########");
}

int main(int count, char **arguments) {
    if (count < 7) return fputs("usage: at the top of readers.c\n", stderr), 2;
    prctl(PR_SET_PDEATHSIG, SIGKILL); // nothing is left behind
    address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    address.sin_port = htons((uint16_t)atoi(arguments[1]));
    read_request(arguments[2]);
    epoch_ns = strtoull(arguments[3], NULL, 10);
    ahead = readers_count = atoi(arguments[4]);
    ramp_us = strtoull(arguments[6], NULL, 10);
    if (count == 9 && !strcmp(arguments[7], "hold")) mode = HOLD, ahead = atoi(arguments[8]);
    if (count == 10 && !strcmp(arguments[7], "stop")) {
        mode = STOP;
        stop_after_us = strtoull(arguments[8], NULL, 10) * 1000;
        stop_gap_us = strtoull(arguments[9], NULL, 10);
    }
    readers = must(calloc((size_t)readers_count, sizeof *readers));
    for (int i = 0; i < readers_count; i++) readers[i].streams_left = atoi(arguments[5]);
    poller = epoll_create1(0);
    uint64_t begun_us = now_us();
    run();
    print_report(now_us() - begun_us);
    if (mode == HOLD)
        while (getchar() != EOF) continue;
    return 0;
}
