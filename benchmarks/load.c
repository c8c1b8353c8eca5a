/* The cheapest client that can tell how streams fared: one thread, epoll, a closed loop on each connection.
 *
 *   load PORT CONNECTIONS SECONDS WARMUP_SECONDS [max_tokens, 0 = one plain JSON answer] [model]
 *
 * Counts answers, data events and bytes, and times the gap before each read of a stream that brought an event.
 * Prints one JSON object. A status other than 200, an answer cut short or a stream without [DONE] counts as an error.
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
#include <time.h>
#include <unistd.h>

#define READ_BYTES 131072
#define HEAD_BYTES 8192
#define TAIL 24
#define NEEDLE "\ndata: {"  /* an event that is an object; JSON strings hold no line feed, so no token looks like it */
#define NEEDLE_BYTES 8
#define SLOTS 1000000        /* of 10 microseconds: gaps up to 10 s */

struct conn {
    int fd, in_body, chunked;
    long left;               /* bytes of the body, or of this chunk, to come; -1 in a chunk's size line */
    long size;               /* chunk size read so far */
    int trailer;             /* the last chunk has come: line ends seen since the last other byte */
    int matched;             /* bytes of NEEDLE matched at the end of what was read */
    char tail[TAIL];         /* last bytes of the stream */
    char *head;              /* response head so far */
    size_t head_have;
    int64_t sent, last;
};

static char request[4096], buffer[READ_BYTES];
static size_t request_bytes;
static uint32_t *gaps, *firsts;
static long answers, events, refused, broken, gap_count, first_count;
static char complaint[256];   /* the first status line other than 200 */
static long long bytes;
static int64_t begin, end;
static int epoll_fd, port, plain;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void record(uint32_t *slots, long *count, int64_t ns) {
    int64_t slot = ns / 10000;
    slots[slot < SLOTS ? slot : SLOTS - 1]++;
    ++*count;
}

static double quantile(const uint32_t *slots, long count, double q) {
    long rank = (long)(q * (double)count), seen = 0;
    for (long i = 0; i < SLOTS; i++)
        if ((seen += slots[i]) > rank) return ((double)i + 0.5) * 1e-5;
    return 0;
}

static void ask(struct conn *c) {
    c->in_body = c->chunked = c->trailer = 0;
    c->matched = 1; /* the start of the stream is the start of a line */
    c->head_have = 0;
    c->last = 0;
    c->sent = now_ns();
    memset(c->tail, 0, TAIL);
    if (send(c->fd, request, request_bytes, MSG_NOSIGNAL) < 0) return; /* the next read finds it closed */
}

static void dial(struct conn *c) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    int on = 1;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(c->fd, (struct sockaddr *)&at, sizeof at)) perror("connect"), exit(1);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &e);
    ask(c);
}

static long scan(struct conn *c, const char *at, size_t n) { /* events that begin in the next bytes of the stream */
    const char *stop = at + n, *line;
    long found = 0;
    if (n >= TAIL) {
        memcpy(c->tail, stop - TAIL, TAIL);
    } else {
        memmove(c->tail, c->tail + n, TAIL - n);
        memcpy(c->tail + TAIL - n, at, n);
    }
    while (c->matched && at < stop && *at == NEEDLE[c->matched]) {
        at++;
        if (++c->matched == NEEDLE_BYTES) found++, c->matched = 0;
    }
    if (at == stop) return found;
    c->matched = 0;
    while ((line = memmem(at, (size_t)(stop - at), NEEDLE, NEEDLE_BYTES))) found++, at = line + NEEDLE_BYTES;
    if (stop - at > NEEDLE_BYTES - 1) at = stop - (NEEDLE_BYTES - 1);
    line = memrchr(at, '\n', (size_t)(stop - at));
    if (line && !memcmp(line, NEEDLE, (size_t)(stop - line))) c->matched = (int)(stop - line);
    return found;
}

static int chunks(struct conn *c, const char *at, const char *stop, long *found) { /* 1 whole, 0 not yet, -1 broken */
    while (at < stop) {
        if (c->trailer) { /* CR LF ends it at once, a trailer field only after its own line */
            if (*at == '\n' && ++c->trailer == 2) return at + 1 == stop ? 1 : -1;
            if (*at != '\n' && *at != '\r') c->trailer = 0;
            if (!c->trailer) return -1; /* no server here sends trailer fields */
            at++;
        } else if (c->left > 0) {
            long n = stop - at < c->left ? stop - at : c->left;
            *found += scan(c, at, (size_t)n);
            at += n;
            if (!(c->left -= n)) c->left = -3; /* the CR LF of its end */
        } else if (c->left < -1) {
            if (*at++ != (c->left++ == -3 ? '\r' : '\n')) return -1;
            c->size = 0;
        } else if (*at == '\n') {
            if (!(c->left = c->size)) c->trailer = 1;
            at++;
        } else {
            int digit = *at | 32;
            if (*at >= '0' && *at <= '9') c->size = c->size * 16 + *at - '0';
            else if (digit >= 'a' && digit <= 'f') c->size = c->size * 16 + digit - 'a' + 10;
            else if (*at != '\r') return -1;
            at++;
        }
    }
    return 0;
}

static const char *read_head(struct conn *c, const char *at, size_t n) { /* where the body starts, NULL if not yet */
    char *stop, *length, *line;
    size_t before = c->head_have, take = n < HEAD_BYTES - 1 - before ? n : HEAD_BYTES - 1 - before;
    memcpy(c->head + before, at, take);
    c->head_have += take;
    c->head[c->head_have] = 0;
    if (!(stop = strstr(c->head, "\r\n\r\n"))) return NULL;
    stop[2] = 0;
    length = strcasestr(c->head, "\r\ncontent-length:");
    line = strcasestr(c->head, "\r\ntransfer-encoding:");
    c->chunked = line && strcasestr(line, "chunked");
    c->left = c->chunked ? -1 : length ? atol(length + 17) : 0;
    c->size = 0;
    c->in_body = strncmp(c->head + 9, "200", 3) ? -1 : 1;
    if (c->in_body < 0 && !refused)
        snprintf(complaint, sizeof complaint, "%.*s", (int)strcspn(c->head, "\r\n\""), c->head);
    return at + (stop + 4 - c->head - (long)before);
}

static int body(struct conn *c, const char *at, const char *stop, int64_t now) { /* 1 whole, 0 not yet, -1 broken */
    long found = 0;
    int state;
    if (c->chunked) {
        state = chunks(c, at, stop, &found);
    } else { /* a stream that was whole when its answer began may come with a length, too */
        if (!plain) found = scan(c, at, (size_t)(stop - at));
        state = (c->left -= stop - at) == 0 ? 1 : c->left < 0 ? -1 : 0;
    }
    if (found) {
        if (now >= begin) {
            events += found;
            if (c->last) record(gaps, &gap_count, now - c->last);
            else record(firsts, &first_count, now - c->sent);
        }
        c->last = now;
    }
    return state == 1 && !plain && !memmem(c->tail, TAIL, "data: [DONE]\n", 13) ? -1 : state;
}

static void readable(struct conn *c) {
    ssize_t n = recv(c->fd, buffer, READ_BYTES, MSG_DONTWAIT);
    int64_t now = now_ns();
    const char *at = buffer;
    int state = -1;
    if (n < 0 && errno == EAGAIN) return;
    if (n > 0) {
        if (now >= begin) bytes += n;
        if (!c->in_body && !(at = read_head(c, buffer, (size_t)n))) return;
        state = c->in_body < 0 ? -1 : body(c, at, buffer + n, now);
    }
    if (state == 1) {
        if (now >= begin) answers++;
        ask(c);
    } else if (state < 0) {
        if (c->in_body < 0) refused++;
        else broken++;
        close(c->fd);
        if (refused + broken > 5000) fprintf(stderr, "too many errors: %s\n", complaint), exit(1);
        dial(c);
    }
}

int main(int argc, char **argv) {
    struct epoll_event ready[512];
    struct rlimit files = {20000, 20000};
    char content[1024];
    int count, tokens;
    double elapsed;
    if (argc < 5) return fprintf(stderr, "usage: load PORT CONNECTIONS SECONDS WARMUP [TOKENS [MODEL]]\n"), 2;
    port = atoi(argv[1]);
    count = atoi(argv[2]);
    tokens = argc > 5 ? atoi(argv[5]) : 0;
    plain = tokens == 0;
    snprintf(content, sizeof content,
             "{\"model\":\"%s\",\"messages\":[{\"role\":\"user\",\"content\":\"Hello there, tell me a story.\"}],"
             "\"max_tokens\":%d,\"temperature\":0%s}", argc > 6 ? argv[6] : "m", plain ? 16 : tokens,
             plain ? "" : ",\"stream\":true,\"stream_options\":{\"include_usage\":true}");
    request_bytes = (size_t)snprintf(request, sizeof request,
             "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n"
             "Content-Length: %zu\r\n\r\n%s", port, strlen(content), content);
    gaps = calloc(SLOTS, sizeof *gaps);
    firsts = calloc(SLOTS, sizeof *firsts);
    setrlimit(RLIMIT_NOFILE, &files);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    begin = now_ns() + (int64_t)(atof(argv[4]) * 1e9);
    end = begin + (int64_t)(atof(argv[3]) * 1e9);
    for (int i = 0; i < count; i++) {
        struct conn *c = calloc(1, sizeof *c);
        if (!c || !(c->head = malloc(HEAD_BYTES))) return 1;
        dial(c);
    }
    while (now_ns() < end) {
        int n = epoll_wait(epoll_fd, ready, 512, 100);
        for (int i = 0; i < n; i++) readable(ready[i].data.ptr);
    }
    elapsed = (double)(now_ns() - begin) / 1e9;
    printf("{\"elapsed_s\":%.3f,\"answers\":%ld,\"events\":%ld,\"refused\":%ld,\"broken\":%ld,\"complaint\":\"%s\","
           "\"answers_per_s\":%.1f,"
           "\"events_per_s\":%.1f,\"bytes_per_s\":%.0f,\"gaps\":%ld,\"gap_p50_s\":%.6f,\"gap_p99_s\":%.6f,"
           "\"gap_p99_9_s\":%.6f,\"gap_max_s\":%.6f,\"first_p50_s\":%.6f,\"first_p99_s\":%.6f}\n",
           elapsed, answers, events, refused, broken, complaint, (double)answers / elapsed, (double)events / elapsed,
           (double)bytes / elapsed, gap_count, quantile(gaps, gap_count, 0.5), quantile(gaps, gap_count, 0.99),
           quantile(gaps, gap_count, 0.999), quantile(gaps, gap_count, 1 - 1e-9), quantile(firsts, first_count, 0.5),
           quantile(firsts, first_count, 0.99));
    return 0;
}
