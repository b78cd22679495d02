/* Load of large responses, which the kernel throws away unread.
 *
 *   bulk PORT PATH CONNECTIONS SECONDS
 *
 * wrk copies 8 KiB at a time, and takes longer to read a large body than a server to send it. This
 * keeps several connections busy with GET requests, and ends with the same line of JSON as the
 * scripts for wrk. Responses have a Content-Length, or chunks without extensions or trailers. What
 * was received of an unfinished response counts as a fraction of one; with chunks that is known from
 * the first response that was finished, on any connection.
 */
#define _GNU_SOURCE
#include "../loopback.h"
#include <errno.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define HEAD_ROOM 8192
#define SIZE_ROOM 20 /* of a chunk's size, with the ends of lines around it */
#define MOST_AT_ONCE (4 << 20)
#define MOST_CONNECTIONS 1024
#define MOST_LATENCIES 1000000

struct connection {
    int fd;
    size_t head_size; /* of what was received of the head */
    long long left;   /* bytes still to come of the body or chunk; -1 while the head is read */
    int chunked;
    long long body; /* bytes received of the body */
    double asked;
    char head[HEAD_ROOM + 1];
};

static struct connection connections[MOST_CONNECTIONS];
static double latencies[MOST_LATENCIES];
static long long finished, errors, received, length;
static char request[1024];
static int port, epoll;

static void ask(struct connection *it) {
    it->head_size = 0;
    it->left = -1;
    it->chunked = 0;
    it->body = 0;
    it->asked = now();
    if (send(it->fd, request, strlen(request), MSG_NOSIGNAL) < 0)
        errors++; /* the read that follows finds out, and connects anew */
}

static void open_connection(struct connection *it) {
    it->fd = connected(port, epoll, it);
    ask(it);
}

static void reopen(struct connection *it, int lost) {
    errors += lost;
    close(it->fd);
    open_connection(it);
}

static void finish(struct connection *it) {
    length = it->body;
    latencies[finished % MOST_LATENCIES] = now() - it->asked;
    finished++;
    ask(it);
}

/* Returns 0 where the head is no good. */
static int take_head(struct connection *it, const char *end) {
    const char *field = strcasestr(it->head, "\r\ncontent-length:");
    const char *chunked = strcasestr(it->head, "\r\ntransfer-encoding: chunked\r\n");
    if (strncmp(it->head + 8, " 200 ", 5) != 0)
        return 0;
    if (chunked != NULL && chunked < end) {
        /* What came behind the head stays in the kernel: see read_head. */
        it->chunked = 1;
        it->left = 0;
        return 1;
    }
    if (field == NULL || field > end)
        return 0;
    it->left = length = atoll(field + strlen("\r\ncontent-length:"));
    return it->left >= 0;
}

/* Takes the head alone: what is behind it is discarded, or read as chunks. */
static ssize_t read_head(struct connection *it) {
    char *at = it->head + it->head_size;
    ssize_t size = recv(it->fd, at, HEAD_ROOM - it->head_size, MSG_PEEK | MSG_DONTWAIT);
    if (size <= 0)
        return size;
    at[size] = 0;
    const char *end = strstr(it->head, "\r\n\r\n");
    size_t taken = end == NULL ? (size_t)size : (size_t)(end + 4 - at);
    it->head_size += taken;
    if (end == NULL ? it->head_size == HEAD_ROOM : !take_head(it, end))
        return 0;
    return recv(it->fd, at, taken, MSG_DONTWAIT);
}

/* Takes the line with the size of the next chunk, and has that to come, with the end of its line.
 * Returns 0 where it is no good. */
static ssize_t read_size(struct connection *it, int *last) {
    char line[SIZE_ROOM + 1], *end;
    ssize_t size = recv(it->fd, line, SIZE_ROOM, MSG_PEEK | MSG_DONTWAIT);
    if (size <= 0)
        return size;
    line[size] = 0;
    long long chunk = strtoll(line, &end, 16);
    if (end == line || chunk < 0)
        return 0;
    /* Until the line and what ends the last chunk are there: they come together, or soon. */
    if (end[0] == 0 || end[1] == 0 || (chunk == 0 && (end[2] == 0 || end[3] == 0))) {
        errno = EAGAIN;
        return size < SIZE_ROOM ? -1 : 0;
    }
    *last = chunk == 0;
    it->body += chunk;
    received += chunk;
    it->left = chunk == 0 ? 0 : chunk + 2;
    return recv(it->fd, line, (size_t)(end + (chunk == 0 ? 4 : 2) - line), MSG_DONTWAIT);
}

static void read_some(struct connection *it) {
    ssize_t size;
    int last = 0;
    if (it->left > 0) {
        size_t most = it->left < MOST_AT_ONCE ? (size_t)it->left : MOST_AT_ONCE;
        size = recv(it->fd, NULL, most, MSG_TRUNC | MSG_DONTWAIT);
        if (size > 0) {
            it->left -= size;
            if (!it->chunked) {
                it->body += size;
                received += size;
                last = it->left == 0;
            }
        }
    } else if (it->left < 0) {
        size = read_head(it);
        last = size > 0 && it->left == 0 && !it->chunked;
    } else {
        size = read_size(it, &last);
    }
    if (size == 0 || (size < 0 && errno != EAGAIN && errno != EINTR))
        /* A server may close after a complete response. */
        reopen(it, it->head_size > 0);
    else if (last)
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
