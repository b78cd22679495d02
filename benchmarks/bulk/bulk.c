/* Load of large responses, which the kernel throws away unread.
 *
 *   bulk PORT PATH CONNECTIONS SECONDS
 *
 * wrk copies 8 KiB at a time, and takes longer to read a large body than a server to send it. This
 * keeps several connections busy with GET requests, and ends with the same line of JSON as the
 * scripts for wrk. Responses need a Content-Length. What was received of an unfinished response
 * counts as a fraction of one.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HEAD_ROOM 8192
#define MOST_AT_ONCE (4 << 20)
#define MOST_CONNECTIONS 1024
#define MOST_LATENCIES 1000000

struct connection {
    int fd;
    size_t head_size; /* of what was received of the head */
    long long left;   /* bytes of the body still to come; -1 while the head is read */
    double asked;
    char head[HEAD_ROOM + 1];
};

static struct connection connections[MOST_CONNECTIONS];
static double latencies[MOST_LATENCIES];
static long long finished, errors, received, length;
static char request[1024];
static int port, epoll;

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void ask(struct connection *it) {
    it->head_size = 0;
    it->left = -1;
    it->asked = now();
    if (send(it->fd, request, strlen(request), MSG_NOSIGNAL) < 0)
        errors++; /* the read that follows finds out, and connects anew */
}

static void open_connection(struct connection *it) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = it};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    it->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (it->fd < 0 || connect(it->fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail("unable to connect");
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, it->fd, &event) < 0)
        fail("epoll");
    ask(it);
}

static void reopen(struct connection *it, int lost) {
    errors += lost;
    close(it->fd);
    open_connection(it);
}

static void finish(struct connection *it) {
    latencies[finished % MOST_LATENCIES] = now() - it->asked;
    finished++;
    ask(it);
}

/* Returns 0 where the head is no good. */
static int take_head(struct connection *it, const char *end) {
    const char *field = strcasestr(it->head, "\r\ncontent-length:");
    if (field == NULL || field > end || strncmp(it->head + 8, " 200 ", 5) != 0)
        return 0;
    length = atoll(field + strlen("\r\ncontent-length:"));
    long long body = (long long)it->head_size - (end + 4 - it->head);
    received += body;
    it->left = length - body;
    return it->left >= 0;
}

static void read_some(struct connection *it) {
    ssize_t size;
    if (it->left > 0) {
        size_t most = it->left < MOST_AT_ONCE ? (size_t)it->left : MOST_AT_ONCE;
        size = recv(it->fd, NULL, most, MSG_TRUNC | MSG_DONTWAIT);
        if (size > 0) {
            received += size;
            it->left -= size;
        }
    } else {
        size = recv(it->fd, it->head + it->head_size, HEAD_ROOM - it->head_size, MSG_DONTWAIT);
        if (size > 0) {
            it->head_size += (size_t)size;
            it->head[it->head_size] = 0;
            const char *end = strstr(it->head, "\r\n\r\n");
            if (end == NULL ? it->head_size == HEAD_ROOM : !take_head(it, end)) {
                reopen(it, 1);
                return;
            }
        }
    }
    if (size == 0 || (size < 0 && errno != EAGAIN && errno != EINTR))
        reopen(it, it->head_size > 0); /* a server may close after a complete response */
    else if (it->left == 0)
        finish(it);
}

static int ascending(const void *a, const void *b) {
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static double percentile(double share) {
    long long count = finished < MOST_LATENCIES ? finished : MOST_LATENCIES;
    return count == 0 ? 0.0 : latencies[(long long)(share * (double)(count - 1) + 0.5)] * 1e6;
}

int main(int count, char **arguments) {
    if (count != 5) {
        fprintf(stderr, "usage: bulk PORT PATH CONNECTIONS SECONDS\n");
        return 2;
    }
    int wanted = atoi(arguments[3]);
    port = atoi(arguments[1]);
    snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", arguments[2]);
    if (wanted < 1 || wanted > MOST_CONNECTIONS || (epoll = epoll_create1(0)) < 0)
        fail("start");
    for (int i = 0; i < wanted; i++)
        open_connection(&connections[i]);

    struct epoll_event events[MOST_CONNECTIONS];
    double start = now(), end = start + atof(arguments[4]);
    while (now() < end) {
        int ready = epoll_wait(epoll, events, MOST_CONNECTIONS, 100);
        for (int i = 0; i < ready; i++)
            read_some(events[i].data.ptr);
    }
    double seconds = now() - start;
    qsort(latencies, (size_t)(finished < MOST_LATENCIES ? finished : MOST_LATENCIES),
          sizeof *latencies, ascending);
    printf("{\"requests\": %.3f, \"duration_us\": %.0f, \"p50_us\": %.0f, \"p99_us\": %.0f, "
           "\"errors\": %lld}\n",
           length ? (double)received / (double)length : 0.0, seconds * 1e6, percentile(0.5),
           percentile(0.99), errors);
    return 0;
}
