/* A closed-loop load generator: CONNECTIONS keep-alive connections repeat the bytes of REQUEST_FILE, each as soon as
 * its reply is complete. Prints one JSON line: what completed in the window after the warm-up, and what completed at
 * all. Anything but a complete 200 is an error. Usage: load PORT CONNECTIONS WARM_UP_S SECONDS REQUEST_FILE */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define FDS 4096
#define HEAD_MAX 16384
enum state { HEAD, BODY, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER, DONE, BROKEN };

struct conn {
    int head_len, closes, status;
    enum state state;
    char last, previous; /* bytes of the trailer, of the events */
    long left; /* of the body or chunk */
    size_t sent;
    long long started_ns;
    char head[HEAD_MAX + 1];
};

static struct conn conns[FDS];
static struct sockaddr_in address = {.sin_family = AF_INET};
static char *request, first_error[512];
static size_t request_len;
static int epoll_fd, in_flight;
static long long counted, total, errors, reconnects, events, window_from, window_to;
static unsigned *latencies; /* in units of 100 ns */
static size_t latencies_max;

static long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void watch(int fd, int operation, int what) {
    struct epoll_event interest = {.events = what, .data = {.fd = fd}};
    epoll_ctl(epoll_fd, operation, fd, &interest);
}

static void send_rest(int fd) {
    struct conn *c = &conns[fd];
    ssize_t n = send(fd, request + c->sent, request_len - c->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0) c->sent += n;
    watch(fd, EPOLL_CTL_MOD, c->sent < request_len ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

static void ask(int fd) {
    struct conn *c = &conns[fd];
    memset(c, 0, offsetof(struct conn, head));
    c->started_ns = now_ns();
    ssize_t n = send(fd, request, request_len, MSG_NOSIGNAL | MSG_DONTWAIT);
    c->sent = n > 0 ? n : 0;
    if (c->sent < request_len) watch(fd, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
    in_flight++;
}

static int dial(void) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || fd >= FDS || connect(fd, (void *)&address, sizeof address)) {
        fprintf(stderr, "cannot connect: %s\n", strerror(errno));
        exit(1);
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    watch(fd, EPOLL_CTL_ADD, EPOLLIN);
    return fd;
}

static void fail(struct conn *c, const char *why, const char *bytes, int length) {
    c->state = BROKEN;
    if (errors++ == 0) snprintf(first_error, sizeof first_error, "%s: %.*s", why, length > 400 ? 400 : length, bytes);
}

static char *field(struct conn *c, const char *name) {
    char *found = strcasestr(c->head, name);
    return found ? found + strlen(name) : NULL;
}

static void read_head(struct conn *c) {
    char *length = field(c, "\r\ncontent-length:");
    c->status = atoi(c->head + 9);
    c->closes = field(c, "\r\nconnection: close") != NULL;
    c->left = length ? atol(length) : 0;
    c->state = field(c, "\r\ntransfer-encoding: chunked") ? CHUNK_SIZE : c->left ? BODY : DONE;
    if (!length && c->state == DONE) fail(c, "a reply without a length", c->head, c->head_len);
}

/* One byte of the framing; bodies are skipped by `feed`. */
static void step(struct conn *c, char byte) {
    if (c->state == HEAD) {
        if (c->head_len == HEAD_MAX) fail(c, "a head without an end", c->head, 200);
        c->head[c->head_len++] = byte;
        c->head[c->head_len] = 0;
        if (byte == '\n' && c->head_len > 4 && !memcmp(c->head + c->head_len - 4, "\r\n\r\n", 4)) read_head(c);
    } else if (c->state == CHUNK_SIZE) {
        int digit = byte >= 'a' ? byte - 'a' + 10 : byte >= 'A' ? byte - 'A' + 10 : byte - '0';
        if (byte == '\n') c->state = c->left ? CHUNK : TRAILER, c->last = '\n';
        else if (byte != '\r') c->left = c->left * 16 + digit;
    } else if (c->state == CHUNK_END) {
        if (byte == '\n') c->state = CHUNK_SIZE, c->left = 0;
    } else if (c->state == TRAILER) { /* ends with an empty line */
        if (byte == '\n' && c->last == '\n') c->state = DONE;
        if (byte != '\r') c->last = byte;
    }
}

static void feed(struct conn *c, const char *bytes, int length) {
    for (int i = 0; i < length && c->state < DONE;) {
        if (c->state != BODY && c->state != CHUNK) {
            step(c, bytes[i++]);
            continue;
        }
        int part = c->left < length - i ? (int)c->left : length - i;
        if (c->status != 200) {
            fail(c, c->head, bytes + i, part);
            return;
        }
        for (int j = 0; c->state == CHUNK && j < part; c->previous = bytes[i + j++])
            events += bytes[i + j] == '\n' && c->previous == '\n';
        i += part;
        if ((c->left -= part) == 0) c->state = c->state == BODY ? DONE : CHUNK_END;
    }
}

static void completed(struct conn *c) {
    long long now = now_ns();
    total++;
    if (now < window_from || now >= window_to) return;
    if ((size_t)counted == latencies_max) {
        latencies_max = latencies_max ? latencies_max * 2 : 1 << 16;
        latencies = realloc(latencies, latencies_max * sizeof *latencies);
    }
    latencies[counted++] = (unsigned)((now - c->started_ns) / 100);
}

static void readable(int fd) {
    static char bytes[1 << 17];
    struct conn *c = &conns[fd];
    ssize_t n = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return;
    if (n > 0) feed(c, bytes, (int)n);
    else fail(c, "the connection ended", c->head, c->head_len);
    if (n > 0 && c->state < DONE) return;
    in_flight--;
    if (c->state == DONE && c->status != 200) fail(c, "not a 200", c->head, c->head_len);
    if (c->state == DONE) completed(c);
    if (n <= 0 || c->closes || c->state == BROKEN) {
        close(fd);
        reconnects++;
        if (errors < 100) fd = dial();
    }
    if (now_ns() < window_to && errors < 100) ask(fd);
}

static int by_size(const void *a, const void *b) {
    unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;
    return x < y ? -1 : x > y;
}

static double quantile_us(double q) { return counted ? latencies[(size_t)(q * (counted - 1))] / 10.0 : 0; }

static void report(double seconds) {
    if (counted) qsort(latencies, counted, sizeof *latencies, by_size);
    fprintf(stderr, "%s", first_error);
    printf("{\"counted\":%lld,\"total\":%lld,\"errors\":%lld,\"reconnects\":%lld,\"events\":%lld,\"seconds\":%.6f,"
           "\"p50_us\":%.1f,\"p90_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f}\n",
           counted, total, errors, reconnects, events, seconds, quantile_us(0.5), quantile_us(0.9), quantile_us(0.99),
           quantile_us(1));
}

int main(int argc, char **argv) {
    if (argc != 6) return 2;
    address.sin_port = htons(atoi(argv[1])), address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    double warm_up_s = atof(argv[3]), seconds = atof(argv[4]);
    FILE *file = fopen(argv[5], "rb");
    if (!file) return 2;
    request = malloc(1 << 24);
    request_len = fread(request, 1, 1 << 24, file);
    epoll_fd = epoll_create1(0);
    window_from = now_ns() + (long long)(warm_up_s * 1e9);
    window_to = window_from + (long long)(seconds * 1e9);
    for (int i = atoi(argv[2]); i > 0; i--) ask(dial());
    struct epoll_event ready[256];
    while (in_flight > 0 && now_ns() < window_to + 10000000000LL) {
        int count = epoll_wait(epoll_fd, ready, 256, 100);
        for (int i = 0; i < count; i++) {
            if (ready[i].events & EPOLLOUT) send_rest(ready[i].data.fd);
            if (ready[i].events & ~EPOLLOUT) readable(ready[i].data.fd);
        }
    }
    if (in_flight > 0) fail(&conns[0], "replies are missing", "", 0);
    report(seconds);
    return 0;
}
