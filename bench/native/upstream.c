/* A provider that costs next to nothing: answers every POST with a chat completion of about 1 KB, or, when the start
 * of the request says "stream":true, with EVENTS server-sent events, PACE_US apart. One thread, keep-alive, epoll.
 * Usage: upstream EVENTS PACE_US; prints its port. */
#define _GNU_SOURCE
#include <arpa/inet.h>
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
#define KEPT 16384 /* of a request: its head and the start of its body */

struct conn {
    long body_left;     /* -1 while the head is read */
    long long next_ns;  /* when the next event is due */
    int events_left, kept, streaming, live;
    char start[KEPT + 1];
};

static struct conn conns[FDS];
static char whole[4096], scrap[1 << 16];
static int whole_len, events, epoll_fd, streams;
static long long pace_ns;

static const char USAGE[] =
    "\"usage\":{\"prompt_tokens\":180,\"completion_tokens\":40,\"total_tokens\":220,\"prompt_tokens_details\":"
    "{\"cached_tokens\":0,\"audio_tokens\":0},\"completion_tokens_details\":{\"reasoning_tokens\":0,\"audio_tokens\":0,"
    "\"accepted_prediction_tokens\":0,\"rejected_prediction_tokens\":0}}";
static const char CHUNK[] =
    "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1750000000,\"model\":"
    "\"gpt-4o-mini\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_bench\",\"choices\":[%s],%s}\n\n%s";
static const char DELTA[] = "{\"index\":0,\"delta\":{\"content\":\" word\"},\"logprobs\":null,\"finish_reason\":null}";

static long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void write_all(int fd, const char *bytes, int length) {
    for (int done = 0, n; done < length; done += n)
        if ((n = send(fd, bytes + done, length - done, MSG_NOSIGNAL)) <= 0) return;
}

static void make_whole(void) {
    char text[560], body[2048];
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = 0;
    for (int i = 5; i < (int)sizeof text - 1; i += 6) text[i] = ' ';
    int n = snprintf(body, sizeof body,
        "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion\",\"created\":1750000000,\"model\":\"gpt-4o-mini\","
        "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s\",\"refusal\":null},"
        "\"logprobs\":null,\"finish_reason\":\"stop\"}],%s,\"service_tier\":\"default\"}", text, USAGE);
    whole_len = snprintf(whole, sizeof whole,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s", n, body);
}

static void send_event(int fd) {
    char event[1024], framed[1100];
    struct conn *c = &conns[fd];
    int last = --c->events_left == 0;
    int n = snprintf(event, sizeof event, CHUNK, last ? "" : DELTA, last ? USAGE : "\"usage\":null",
                     last ? "data: [DONE]\n\n" : "");
    int length = snprintf(framed, sizeof framed, "%x\r\n%s\r\n%s", n, event, last ? "0\r\n\r\n" : "");
    write_all(fd, framed, length);
    c->next_ns += pace_ns;
    if (last) c->streaming = 0, streams--;
}

static void answer(int fd) {
    struct conn *c = &conns[fd];
    c->start[c->kept] = 0;
    int stream = strstr(c->start, "\"stream\":true") != NULL;
    c->kept = 0, c->body_left = -1;
    if (!stream) {
        write_all(fd, whole, whole_len);
        return;
    }
    static const char head[] =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n";
    write_all(fd, head, sizeof head - 1);
    c->streaming = 1, c->events_left = events, c->next_ns = now_ns(), streams++;
    do send_event(fd);
    while (c->streaming && pace_ns == 0);
}

static void lose(int fd) {
    if (conns[fd].streaming) streams--;
    memset(&conns[fd], 0, offsetof(struct conn, start));
    close(fd);
}

static void readable(int fd) {
    struct conn *c = &conns[fd];
    int room = KEPT - c->kept;
    int n = room > 0 ? recv(fd, c->start + c->kept, room, MSG_DONTWAIT) : recv(fd, scrap, sizeof scrap, MSG_DONTWAIT);
    if (n <= 0) {
        lose(fd);
        return;
    }
    if (room > 0) c->kept += n, c->start[c->kept] = 0;
    if (c->body_left < 0) {
        char *end = strstr(c->start, "\r\n\r\n"), *length = strcasestr(c->start, "\r\ncontent-length:");
        if (!end) {
            if (c->kept == KEPT) lose(fd);
            return;
        }
        c->body_left = length && length < end ? atol(length + 17) : 0;
        n = c->kept - (int)(end + 4 - c->start);
    }
    c->body_left -= n;
    if (c->body_left == 0) answer(fd);
    else if (c->body_left < 0) lose(fd); /* pipelining is not expected */
}

static int until_next_event_ms(void) {
    if (!streams) return -1;
    long long soonest = 1LL << 62, now = now_ns();
    for (int fd = 0; fd < FDS; fd++)
        if (conns[fd].streaming && conns[fd].next_ns < soonest) soonest = conns[fd].next_ns;
    return soonest <= now ? 0 : (int)((soonest - now + 999999) / 1000000);
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    events = atoi(argv[1]), pace_ns = atoll(argv[2]) * 1000;
    make_whole();
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof address;
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (void *)&address, size) || listen(listener, 4096)) return 1;
    getsockname(listener, (void *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    epoll_fd = epoll_create1(0);
    struct epoll_event interest = {.events = EPOLLIN, .data = {.fd = listener}}, ready[256];
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &interest);
    for (;;) {
        int count = epoll_wait(epoll_fd, ready, 256, until_next_event_ms());
        for (int i = 0; i < count; i++) {
            int fd = ready[i].data.fd;
            if (fd != listener) {
                readable(fd);
                continue;
            }
            if ((fd = accept(listener, NULL, NULL)) < 0) continue;
            if (fd >= FDS) {
                close(fd);
                continue;
            }
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            conns[fd].body_left = -1;
            interest.data.fd = fd;
            epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &interest);
        }
        long long now = streams ? now_ns() : 0;
        for (int fd = 0; streams && fd < FDS; fd++)
            while (conns[fd].streaming && conns[fd].next_ns <= now) send_event(fd);
    }
}
