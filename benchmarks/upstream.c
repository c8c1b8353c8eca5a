/* The cheapest possible engine, for measuring what stands in front of it: one thread, epoll, canned answers.
 *
 *   upstream PORT [default tokens] [pace in microseconds, 0 = as fast as taken] [tokens per write] [event bytes]
 *
 * POST with "stream":true gets a vLLM-shaped SSE stream of max_tokens numbered tokens, one HTTP chunk each; any other
 * POST gets a chat completion; the model list, health, version and metrics are there for a router to find. The tokens
 * are rendered once and a stream is a walk over that text, so a token costs its share of one send(). Prints
 * "ready PORT" when it listens (PORT 0 picks one).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define MAX_FD 20000
#define MAX_TOKENS 100000
#define REQUEST_BYTES 65536
#define TAIL_BYTES 2048

#define ID                                                                                                             \
    "\"id\":\"chatcmpl-81f12d222dc27c7a\",\"object\":\"chat.completion.chunk\",\"created\":1795233512,\"model\":\"m\""
#define OK_SSE                                                                                                         \
    "HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"                         \
    "transfer-encoding: chunked\r\n\r\n"

struct conn {
    int fd, blocked, streaming;
    long tokens, next;         /* of the stream under way */
    const char *out;           /* bytes being sent */
    size_t left;
    char *in;                  /* request so far */
    size_t have;
    char tail[TAIL_BYTES];
    int64_t due;               /* paced: when the next token leaves, in nanoseconds */
    struct conn *after, *before; /* in the ring of streams that have something to send */
    int queued;
};

static struct conn *conns[MAX_FD];
static struct conn ring = {.after = &ring, .before = &ring};
static char *text;                       /* all tokens, as HTTP chunks */
static size_t offset[MAX_TOKENS + 1];
static char head[1024], whole[2048], models[512], version[256], health[128], metrics[1024], unknown[128];
static size_t head_bytes;
static long default_tokens = 128, per_write = 1, event_bytes = 200;
static int64_t pace;
static int epoll_fd, timer_fd;
static uint32_t streams;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void leave(struct conn *c) {
    if (!c->queued) return;
    c->before->after = c->after;
    c->after->before = c->before;
    c->queued = 0;
}

static void queue(struct conn *c) { /* at the end: with one pace for all, the ring stays ordered by due time */
    struct conn *at = ring.before;
    if (c->queued) return;
    while (pace && at != &ring && at->due > c->due) at = at->before; /* a new stream's first token */
    c->before = at;
    c->after = at->after;
    at->after->before = c;
    at->after = c;
    c->queued = 1;
}

static void drop(struct conn *c) {
    leave(c);
    close(c->fd);
    conns[c->fd] = NULL;
    free(c->in);
    free(c);
}

static size_t chunk(char *to, const char *event, long pad) {
    size_t n = strlen(event);
    long fill = pad - (long)n - 26;
    char body[4096];
    if (fill < 0) fill = 0;
    if (fill > 2048) fill = 2048;
    n = fill ? (size_t)sprintf(body, "%.*s,\"system_fingerprint\":\"%0*d\"}\n\n", (int)n - 1, event, (int)fill, 0)
             : (size_t)sprintf(body, "%s\n\n", event);
    return (size_t)sprintf(to, "%zx\r\n%.*s\r\n", n, (int)n, body);
}

static void canned(char *to, const char *type, const char *content) {
    sprintf(to, "HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: %s\r\ncontent-length: %zu\r\n\r\n%s", type,
            strlen(content), content);
}

static void render(void) {
    char event[1024];
    size_t at = 0, room = (size_t)MAX_TOKENS * (event_bytes > 200 ? (size_t)event_bytes + 64 : 264);
    const char *content = "Hello! How can I help you today? Ask me anything.";
    text = malloc(room);
    if (!text) exit(1);
    for (long i = 0; i < MAX_TOKENS; i++) {
        offset[i] = at;
        sprintf(event, "data: {" ID ",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" %ld\"},\"logprobs\":null,"
                       "\"finish_reason\":null,\"token_ids\":null}]}", i);
        at += chunk(text + at, event, event_bytes);
    }
    offset[MAX_TOKENS] = at;
    head_bytes = (size_t)sprintf(head, OK_SSE);
    head_bytes += chunk(head + head_bytes, "data: {" ID ",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\","
                        "\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}]}", 0);
    sprintf(event, "{\"id\":\"chatcmpl-81f12d222dc27c7a\",\"object\":\"chat.completion\",\"created\":1795233512,"
            "\"model\":\"m\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s\"},"
            "\"finish_reason\":\"stop\"}],\"usage\":"
            "{\"prompt_tokens\":9,\"completion_tokens\":12,\"total_tokens\":21}}",
            content);
    canned(whole, "application/json", event);
    canned(models, "application/json",
           "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\",\"created\":1795233512,"
           "\"owned_by\":\"vllm\",\"root\":\"m\",\"max_model_len\":131072}]}");
    canned(version, "application/json", "{\"version\":\"0.11.0\"}");
    canned(health, "text/plain", "");
    canned(metrics, "text/plain; version=0.0.4; charset=utf-8",
           "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{model_name=\"m\"} 1.0\n"
           "# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{model_name=\"m\"} 0.0\n"
           "# TYPE vllm:kv_cache_usage_perc gauge\nvllm:kv_cache_usage_perc{model_name=\"m\"} 0.1\n");
    sprintf(unknown, "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
}

static void end_of_stream(struct conn *c) { /* the finish, the usage and the end, as one run of bytes */
    char event[1024], *to = c->tail;
    sprintf(event, "data: {" ID ",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"},\"logprobs\":null,"
                   "\"finish_reason\":\"length\",\"stop_reason\":null,\"token_ids\":null}]}");
    to += chunk(to, event, 0);
    sprintf(event, "data: {" ID ",\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"total_tokens\":%ld,"
                   "\"completion_tokens\":%ld}}", 9 + c->tokens, c->tokens);
    to += chunk(to, event, 0);
    to += chunk(to, "data: [DONE]", 0);
    to += sprintf(to, "0\r\n\r\n");
    c->out = c->tail;
    c->left = (size_t)(to - c->tail);
    c->streaming = 0;
}

static void watch(struct conn *c, int blocked) {
    struct epoll_event e = {.events = blocked ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.fd = c->fd};
    if (c->blocked == blocked) return;
    c->blocked = blocked;
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
}

static int flush_out(struct conn *c) { /* 1 all sent, 0 blocked, -1 gone */
    while (c->left) {
        ssize_t n = send(c->fd, c->out, c->left, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) return watch(c, 1), 0;
            return -1;
        }
        c->out += n;
        c->left -= (size_t)n;
    }
    watch(c, 0);
    return 1;
}

static void step(struct conn *c) { /* send one write of a stream that is ready for it */
    int sent = flush_out(c);
    leave(c);
    if (sent > 0 && c->streaming) {
        long until = c->next + per_write < c->tokens ? c->next + per_write : c->tokens;
        c->out = text + offset[c->next];
        c->left = offset[until] - offset[c->next];
        c->next = until;
        sent = flush_out(c);
        if (sent > 0 && c->next == c->tokens) {
            end_of_stream(c);
            sent = flush_out(c);
        }
    }
    if (sent < 0) {
        drop(c);
    } else if (c->streaming) {
        c->due += pace;
        if (sent || pace) queue(c);
    }
}

static long number_after(const char *in, const char *name, long otherwise) {
    const char *at = strstr(in, name);
    if (!at) return otherwise;
    for (at += strlen(name); *at == ' ' || *at == ':'; at++) {}
    return *at >= '0' && *at <= '9' ? strtol(at, NULL, 10) : otherwise;
}

static void answer(struct conn *c, const char *request) {
    if (strncmp(request, "POST", 4)) {
        c->out = !strncmp(request, "GET /v1/models ", 15) ? models
                 : !strncmp(request, "GET /version ", 13) ? version
                 : !strncmp(request, "GET /health ", 12)  ? health
                 : !strncmp(request, "GET /metrics ", 13) ? metrics
                                                          : unknown;
        c->left = strlen(c->out);
    } else if (strstr(request, "\"stream\":true") || strstr(request, "\"stream\": true")) {
        c->tokens = number_after(request, "\"max_tokens\"", default_tokens);
        if (c->tokens < 1) c->tokens = 1;
        if (c->tokens > MAX_TOKENS) c->tokens = MAX_TOKENS;
        c->next = 0;
        c->streaming = 1;
        c->out = head;
        c->left = head_bytes;
        /* Streams that begin together are spread over one pace, by the golden ratio. */
        c->due = now_ns() + (int64_t)((double)(streams++ * 2654435769u) / 4294967296.0 * (double)pace);
    } else {
        c->out = whole;
        c->left = strlen(whole);
    }
    if (flush_out(c) < 0) drop(c);
    else if (c->streaming) queue(c);
}

static void readable(struct conn *c) {
    ssize_t n = recv(c->fd, c->in + c->have, REQUEST_BYTES - 1 - c->have, 0);
    char *end, *length;
    size_t need;
    if (n <= 0) {
        if (n == 0 || errno != EAGAIN) drop(c);
        return;
    }
    c->have += (size_t)n;
    c->in[c->have] = 0;
    if (!(end = strstr(c->in, "\r\n\r\n"))) return;
    need = (size_t)(end + 4 - c->in);
    if ((length = strcasestr(c->in, "\r\ncontent-length:")) && length < end) need += strtoul(length + 17, NULL, 10);
    if (need > REQUEST_BYTES - 1) return drop(c);
    if (c->have < need) return;
    c->have = 0; /* one request at a time: nothing here pipelines */
    answer(c, c->in);
}

static void accept_all(int listener) {
    int fd, on = 1, buffer = 131072;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
        struct conn *c = fd < MAX_FD ? calloc(1, sizeof *c) : NULL;
        if (!c || !(c->in = malloc(REQUEST_BYTES))) exit(1);
        c->fd = fd;
        conns[fd] = c;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer); /* streams take turns rather than run ahead */
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e);
    }
}

static void send_due(void) {
    int64_t now = now_ns();
    if (pace) {
        while (ring.after != &ring && ring.after->due <= now) step(ring.after);
        if (ring.after != &ring) {
            int64_t due = ring.after->due;
            struct itimerspec at = {.it_value = {due / 1000000000, due % 1000000000}};
            timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
        }
    } else if (ring.after != &ring) { /* one turn for each; those that finish turn are queued behind `last` */
        struct conn *last = ring.before, *c;
        do step(c = ring.after);
        while (c != last && ring.after != &ring);
    }
}

static int listen_on(int port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    socklen_t size = sizeof at;
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 4096)) perror("listen"), exit(1);
    getsockname(fd, (struct sockaddr *)&at, &size);
    printf("ready %d\n", ntohs(at.sin_port));
    fflush(stdout);
    return fd;
}

int main(int argc, char **argv) {
    struct epoll_event events[512], e = {.events = EPOLLIN};
    struct rlimit files = {MAX_FD, MAX_FD};
    uint64_t ticks;
    int listener;
    if (argc < 2) return fprintf(stderr, "usage: upstream PORT [TOKENS [PACE_US [PER_WRITE [EVENT_BYTES]]]]\n"), 2;
    if (argc > 2) default_tokens = atol(argv[2]);
    if (argc > 3) pace = atol(argv[3]) * 1000;
    if (argc > 4) per_write = atol(argv[4]) > 0 ? atol(argv[4]) : 1;
    if (argc > 5) event_bytes = atol(argv[5]);
    setrlimit(RLIMIT_NOFILE, &files);
    render();
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    listener = listen_on(atoi(argv[1]));
    e.data.fd = listener;
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &e);
    e.data.fd = timer_fd;
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer_fd, &e);
    for (;;) {
        int n = epoll_wait(epoll_fd, events, 512, !pace && ring.after != &ring ? 0 : -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                accept_all(listener);
            } else if (fd == timer_fd) {
                if (read(timer_fd, &ticks, sizeof ticks) < 0) continue;
            } else if (conns[fd] && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
                readable(conns[fd]);
            } else if (conns[fd]) {
                int sent = flush_out(conns[fd]);
                if (sent < 0) drop(conns[fd]);
                else if (sent && conns[fd]->streaming && !conns[fd]->queued) queue(conns[fd]);
            }
        }
        send_due();
    }
}
