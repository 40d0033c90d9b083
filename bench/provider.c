// A model provider that costs next to nothing, so that what stands between it and its readers is what gets measured.
//
//     provider EPOCH_NS GAP_US
//
// It listens on a free port of the loopback and prints that port. A POST for the model "mock-N" is answered with N deltas, the first at
// once and then one every GAP_US: in the dialect of Anthropic's messages where the path ends so, else in OpenAI's of chat completions.
// A delta's text is the time at which it was written: '@' and eight hexadecimal digits, microseconds since EPOCH_NS on CLOCK_MONOTONIC.
// A GET is answered with counts, and with the streams whose reader left early as [number of its X-Request-Id, microseconds].
//
// All streams have one gap. Whoever has just been served is therefore due last, and the order of what is due is a plain queue.
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
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define REQUEST_MAX 4096
#define FRAME_MAX 1024
#define MARK_DIGITS 8
#define EVENTS_MAX 256
#define SERVED_MAX 32

struct dialect {
    const char *path_end, *opening, *before_text, *after_text, *closing; // `closing` takes the number of tokens
};

static const struct dialect DIALECTS[] = {
    {
        .path_end = "/chat/completions ",
        .opening = "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1767225600,\"model\":\"mock\","
                   "\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n",
        .before_text = "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1767225600,\"model\":\"mock\","
                       "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"",
        .after_text = "\"},\"finish_reason\":null}]}\n\n",
        .closing = "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1767225600,\"model\":\"mock\","
                   "\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],"
                   "\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":%ld}}\n\ndata: [DONE]\n\n",
    },
    {
        .path_end = "/messages ",
        .opening = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_bench\",\"type\":\"message\","
                   "\"role\":\"assistant\",\"model\":\"mock\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,"
                   "\"usage\":{\"input_tokens\":9,\"output_tokens\":1}}}\n\n"
                   "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,"
                   "\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n",
        .before_text = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,"
                       "\"delta\":{\"type\":\"text_delta\",\"text\":\"",
        .after_text = "\"}}\n\n",
        .closing = "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n"
                   "event: message_delta\ndata: {\"type\":\"message_delta\","
                   "\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},"
                   "\"usage\":{\"output_tokens\":%ld}}\n\n"
                   "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
    },
};

// A delta as a whole HTTP chunk. Only the digits at `mark` differ from one to the next.
struct frame {
    char bytes[FRAME_MAX];
    size_t length, mark;
};

struct stream {
    struct stream *next, *previous; // in the queue; NULL outside
    const struct dialect *dialect;  // NULL between two requests
    struct frame *frame;
    uint64_t due_ns;
    long number, tokens, left;
    int fd;
    char *unsent; // what the socket has not taken yet
    size_t unsent_length;
    size_t filled;
    char request[REQUEST_MAX];
};

struct leaving {
    long number;
    uint64_t at_us;
};

static struct frame frames[2];
static struct stream queue = {.next = &queue, .previous = &queue};
static uint64_t epoch_ns, gap_ns;
static int poller, timer, listener;
static long started, finished, open_now;
static struct leaving *leavings;
static size_t leavings_count;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void *must(void *memory) {
    if (!memory) die("memory");
    return memory;
}

static void watch(struct stream *s, int operation) {
    struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP | (s->unsent_length ? EPOLLOUT : 0u), .data.ptr = s};
    if (epoll_ctl(poller, operation, s->fd, &e)) die("epoll_ctl");
}

static void enqueue(struct stream *s, uint64_t due_ns) {
    s->due_ns = due_ns;
    s->next = &queue;
    s->previous = queue.previous;
    s->previous->next = queue.previous = s;
}

static void dequeue(struct stream *s) {
    if (!s->next) return;
    s->next->previous = s->previous;
    s->previous->next = s->next;
    s->next = s->previous = NULL;
}

// Returns whether the connection still stands. What the socket does not take now is sent when it can be.
static bool deliver(struct stream *s, const char *bytes, size_t length) {
    if (!s->unsent_length) {
        ssize_t sent = send(s->fd, bytes, length, MSG_NOSIGNAL);
        if (sent == (ssize_t)length) return true;
        if (sent < 0 && errno != EAGAIN) return false;
        if (sent > 0) bytes += sent, length -= (size_t)sent;
    }
    s->unsent = must(realloc(s->unsent, s->unsent_length + length));
    memcpy(s->unsent + s->unsent_length, bytes, length);
    s->unsent_length += length;
    watch(s, EPOLL_CTL_MOD);
    return true;
}

static bool deliver_unsent(struct stream *s) {
    ssize_t sent = send(s->fd, s->unsent, s->unsent_length, MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN;
    s->unsent_length -= (size_t)sent;
    memmove(s->unsent, s->unsent + sent, s->unsent_length);
    if (!s->unsent_length) {
        watch(s, EPOLL_CTL_MOD);
        if (s->dialect && !s->next) enqueue(s, now_ns() + gap_ns);
    }
    return true;
}

static void drop(struct stream *s) {
    if (s->dialect) {
        if (leavings_count % 1024 == 0) leavings = must(realloc(leavings, (leavings_count + 1024) * sizeof *leavings));
        leavings[leavings_count++] = (struct leaving){s->number, (now_ns() - epoch_ns) / 1000};
    }
    dequeue(s);
    close(s->fd);
    free(s->unsent);
    free(s);
    open_now--;
}

static bool deliver_chunk(struct stream *s, const char *head, const char *body, const char *tail) {
    char bytes[2 * FRAME_MAX];
    int length = snprintf(bytes, sizeof bytes, "%s%zx\r\n%s\r\n%s", head, strlen(body), body, tail);
    return deliver(s, bytes, (size_t)length);
}

static bool deliver_token(struct stream *s) {
    static const char digits[] = "0123456789abcdef";
    uint32_t us = (uint32_t)((now_ns() - epoch_ns) / 1000);
    for (int i = MARK_DIGITS; i-- > 0; us >>= 4) s->frame->bytes[s->frame->mark + (size_t)i] = digits[us & 15];
    s->left--;
    return deliver(s, s->frame->bytes, s->frame->length);
}

static bool deliver_end(struct stream *s) {
    char body[FRAME_MAX];
    snprintf(body, sizeof body, s->dialect->closing, s->tokens);
    s->dialect = NULL;
    finished++;
    return deliver_chunk(s, "", body, "0\r\n\r\n");
}

// Serve who is due, a few at a time: whoever leaves meanwhile is seen soon. Returns when the next one is due, or 0.
static uint64_t serve_due(void) {
    for (int served = 0; queue.next != &queue; served++) {
        struct stream *s = queue.next;
        if (s->due_ns > now_ns() || served == SERVED_MAX) return s->due_ns;
        dequeue(s);
        if (!(s->left ? deliver_token(s) : deliver_end(s)))
            drop(s);
        else if (s->dialect && !s->unsent_length) // one who takes nothing is not due until he does
            enqueue(s, s->due_ns + gap_ns);
    }
    return 0;
}

static bool begin(struct stream *s) {
    const char *line_end = strstr(s->request, "HTTP/1.1\r\n");
    size_t which = 0;
    for (size_t i = 0; i < sizeof DIALECTS / sizeof *DIALECTS; i++) {
        const char *found = strstr(s->request, DIALECTS[i].path_end);
        if (found && line_end && found < line_end) which = i;
    }
    const char *number = strcasestr(s->request, "x-request-id: bench-"), *model = strstr(s->request, "\"mock-");
    s->number = number ? atol(number + strlen("x-request-id: bench-")) : -1;
    s->tokens = s->left = model ? atol(model + strlen("\"mock-")) : 1;
    s->dialect = &DIALECTS[which];
    s->frame = &frames[which];
    started++;
    const char *head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
                       "Transfer-Encoding: chunked\r\n\r\n";
    if (!deliver_chunk(s, head, s->dialect->opening, "") || !deliver_token(s)) return false;
    enqueue(s, now_ns() + gap_ns);
    return true;
}

static bool report(struct stream *s) {
    size_t room = 256 + leavings_count * 40, at;
    char *body = must(malloc(room)), head[128];
    at = (size_t)snprintf(body, room, "{\"open\":%ld,\"started\":%ld,\"finished\":%ld,\"left_early\":[", open_now, started, finished);
    for (size_t i = 0; i < leavings_count; i++)
        at += (size_t)sprintf(body + at, "%s[%ld,%llu]", i ? "," : "", leavings[i].number, (unsigned long long)leavings[i].at_us);
    at += (size_t)sprintf(body + at, "]}");
    int length = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", at);
    bool stands = deliver(s, head, (size_t)length) && deliver(s, body, at);
    free(body);
    return stands;
}

// Answer a request once it is there whole. Its length must be given: none of those who ask here sends chunks.
static bool receive(struct stream *s) {
    ssize_t got = recv(s->fd, s->request + s->filled, REQUEST_MAX - 1 - s->filled, 0);
    if (got <= 0) return got < 0 && errno == EAGAIN;
    if (s->dialect) return false; // a second request inside an answer
    s->filled += (size_t)got;
    s->request[s->filled] = 0;
    const char *body = strstr(s->request, "\r\n\r\n");
    if (!body) return s->filled < REQUEST_MAX - 1;
    const char *length = strcasestr(s->request, "\r\ncontent-length:");
    size_t whole = (size_t)(body + 4 - s->request) + (length && length < body ? strtoul(length + 17, NULL, 10) : 0);
    if (s->filled < whole) return whole < REQUEST_MAX;
    s->filled = 0;
    return memcmp(s->request, "GET ", 4) ? begin(s) : report(s);
}

static void accept_all(void) {
    for (int fd, one = 1; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct stream *s = must(calloc(1, sizeof *s));
        s->fd = fd;
        open_now++;
        watch(s, EPOLL_CTL_ADD);
    }
}

static void build_frames(void) {
    for (size_t i = 0; i < 2; i++) {
        const struct dialect *d = &DIALECTS[i];
        size_t body = strlen(d->before_text) + 1 + MARK_DIGITS + strlen(d->after_text);
        int head = snprintf(frames[i].bytes, FRAME_MAX, "%zx\r\n%s@", body, d->before_text);
        frames[i].mark = (size_t)head;
        head += snprintf(frames[i].bytes + head, FRAME_MAX - (size_t)head, "00000000%s\r\n", d->after_text);
        frames[i].length = (size_t)head;
    }
}

static void listen_on_loopback(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096)) die("listen");
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
}

static void arm(uint64_t due_ns) {
    struct itimerspec at = {.it_value = {.tv_sec = (time_t)(due_ns / 1000000000u), .tv_nsec = (long)(due_ns % 1000000000u)}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
}

int main(int count, char **arguments) {
    if (count != 3) return fputs("usage: provider EPOCH_NS GAP_US\n", stderr), 2;
    prctl(PR_SET_PDEATHSIG, SIGKILL); // nothing is left behind
    epoch_ns = strtoull(arguments[1], NULL, 10);
    gap_ns = strtoull(arguments[2], NULL, 10) * 1000;
    build_frames();
    poller = epoll_create1(0);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    listen_on_loopback();
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &(struct epoll_event){.events = EPOLLIN, .data.ptr = &listener});
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &(struct epoll_event){.events = EPOLLIN | EPOLLET, .data.ptr = &timer});
    struct epoll_event events[EVENTS_MAX];
    for (uint64_t armed = 0;;) {
        uint64_t due = serve_due();
        if (due && due != armed) arm(armed = due);
        int ready = epoll_wait(poller, events, EVENTS_MAX, -1);
        for (int i = 0; i < ready; i++) {
            struct stream *s = events[i].data.ptr;
            if (events[i].data.ptr == &timer)
                armed = 0; // it has woken us, which is all that it is for
            else if (events[i].data.ptr == &listener)
                accept_all();
            else if (events[i].events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP))
                drop(s);
            else if ((events[i].events & EPOLLIN) && !receive(s))
                drop(s);
            else if ((events[i].events & EPOLLOUT) && s->unsent_length && !deliver_unsent(s))
                drop(s);
        }
    }
}
