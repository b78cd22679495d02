/* An open load: requests are due when they are due, whether or not the server keeps up.
 *
 *   steady PORT CONNECTIONS SECONDS RATE <HEAD
 *
 * Sends the request whose head it reads from its standard input, at RATE a second on average, over
 * keep-alive connections. The times between two requests are exponential (a Poisson process) from a
 * fixed seed, so that every server gets the same. A request that is due while all connections wait
 * for answers is sent when one is free; its time counts from when it was due. So a server that
 * stands still for a while is seen by all who would have asked meanwhile, which a closed load, as wrk
 * makes it, does not show. Responses have to have a Content-Length. Ends with the same line of JSON
 * as the scripts for wrk.
 */
#define _GNU_SOURCE
#include "../loopback.h"
#include <errno.h>
#include <math.h>
#include <netinet/tcp.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define HEAD_ROOM 65536
#define MOST_CONNECTIONS 1024
#define MOST_REQUESTS 4000000
#define GRACE_SECONDS 5.0 /* for the answers to what was due within the time */
#define SPIN_SECONDS 0.002 /* epoll_wait counts in milliseconds; shorter waits are spun away */

struct connection {
    int fd;
    size_t head_size; /* of what was received of the head */
    long long left;   /* bytes still to come of the body; -1 while the head is read */
    double due;
    char head[HEAD_ROOM + 1];
};

static struct connection connections[MOST_CONNECTIONS];
static struct connection *idle[MOST_CONNECTIONS];
static int idle_count, port, epoll;
static double *due_times; /* of all requests, ascending */
static double *latencies;
static long long planned, sent, finished, errors;
static char request[HEAD_ROOM];
static size_t request_size;

static void open_connection(struct connection *it) {
    int on = 1;
    it->fd = connected(port, epoll, it);
    setsockopt(it->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    it->due = 0.0;
    idle[idle_count++] = it;
}

static void reopen(struct connection *it) {
    int was_asked = it->due > 0.0;
    errors += was_asked;
    close(it->fd);
    if (!was_asked) /* it is among the idle ones already */
        for (int i = 0; i < idle_count; i++)
            if (idle[i] == it)
                idle[i] = idle[--idle_count];
    open_connection(it);
}

static void finish(struct connection *it) {
    latencies[finished++] = now() - it->due;
    it->due = 0.0;
    idle[idle_count++] = it;
}

/* Sends what is due, as far as connections are free. */
static void send_due(double start) {
    double at = now() - start;
    while (sent < planned && due_times[sent] <= at && idle_count > 0) {
        struct connection *it = idle[--idle_count];
        it->head_size = 0;
        it->left = -1;
        it->due = start + due_times[sent++];
        if (send(it->fd, request, request_size, MSG_NOSIGNAL) != (ssize_t)request_size)
            reopen(it);
    }
}

static void read_some(struct connection *it) {
    static char rest[HEAD_ROOM];
    char *into = it->left < 0 ? it->head + it->head_size : rest;
    size_t room = it->left < 0 ? HEAD_ROOM - it->head_size : sizeof rest;
    ssize_t size = recv(it->fd, into, room, MSG_DONTWAIT);
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (size <= 0 || it->due == 0.0) {
        reopen(it);
        return;
    }
    if (it->left < 0) {
        it->head_size += (size_t)size;
        it->head[it->head_size] = 0;
        const char *end = strstr(it->head, "\r\n\r\n");
        if (end == NULL && it->head_size < HEAD_ROOM)
            return;
        const char *field = strcasestr(it->head, "\r\ncontent-length:");
        if (end == NULL || field == NULL || field > end || strncmp(it->head + 8, " 200 ", 5) != 0) {
            reopen(it);
            return;
        }
        it->left = atoll(field + strlen("\r\ncontent-length:"));
        size = (ssize_t)it->head_size - (end + 4 - it->head);
    }
    it->left -= size;
    if (it->left == 0)
        finish(it);
    else if (it->left < 0)
        reopen(it);
}

static int ascending(const void *a, const void *b) {
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static double percentile(double share) {
    return finished == 0 ? 0.0 : latencies[(long long)(share * (double)(finished - 1) + 0.5)] * 1e6;
}

static void plan(double seconds, double rate) {
    unsigned short seed[3] = {1, 2, 3};
    due_times = malloc(MOST_REQUESTS * sizeof *due_times);
    latencies = malloc(MOST_REQUESTS * sizeof *latencies);
    if (due_times == NULL || latencies == NULL)
        fail("memory");
    double at = 0.0;
    while (planned < MOST_REQUESTS && (at += -log(1.0 - erand48(seed)) / rate) < seconds)
        due_times[planned++] = at;
}

int main(int count, char **arguments) {
    if (count != 5) {
        fprintf(stderr, "usage: steady PORT CONNECTIONS SECONDS RATE <HEAD\n");
        return 2;
    }
    int wanted = atoi(arguments[2]);
    double seconds = atof(arguments[3]), rate = atof(arguments[4]);
    port = atoi(arguments[1]);
    request_size = fread(request, 1, sizeof request, stdin);
    if (wanted < 1 || wanted > MOST_CONNECTIONS || rate <= 0 || (epoll = epoll_create1(0)) < 0) {
        fprintf(stderr, "steady: nothing to send\n");
        return 1;
    }
    plan(seconds, rate);
    for (int i = 0; i < wanted; i++)
        open_connection(&connections[i]);

    struct epoll_event events[MOST_CONNECTIONS];
    double start = now();
    while (now() - start < seconds + GRACE_SECONDS && finished + errors < planned) {
        send_due(start);
        double wait = sent < planned ? due_times[sent] - (now() - start) : 0.1;
        /* Where requests are due and all connections wait, only an answer helps. */
        int waits = idle_count == 0 ? 10 : wait < SPIN_SECONDS ? 0 : (int)((wait - 0.001) * 1e3);
        int ready = epoll_wait(epoll, events, MOST_CONNECTIONS, waits);
        for (int i = 0; i < ready; i++)
            read_some(events[i].data.ptr);
    }
    errors += planned - finished - errors;
    qsort(latencies, (size_t)finished, sizeof *latencies, ascending);
    printf("{\"requests\": %lld, \"duration_us\": %.0f, \"p50_us\": %.0f, \"p99_us\": %.0f, "
           "\"p999_us\": %.0f, \"errors\": %lld}\n",
           finished, seconds * 1e6, percentile(0.5), percentile(0.99), percentile(0.999), errors);
    return 0;
}
