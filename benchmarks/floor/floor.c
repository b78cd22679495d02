/* The floor: what a request costs at least with epoll, one recv and one send.
 *
 *   floor PORT [close]
 *
 * Answers each complete request head with the same response and looks at nothing in it: no parsing,
 * no limits, no deadlines, no Python. Bodies are not known to it. With "close" it closes after each
 * response. It runs until it is killed.
 */
#define _GNU_SOURCE
#include "listening.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ANSWERS 256 /* that one send may carry */

#define BODY "Hello, world!\n"
#define HEAD "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 14\r\n" SERVER_AND_DATE
#define KEPT HEAD "\r\n" BODY
#define CLOSED HEAD "Connection: close\r\n\r\n" BODY

/* How much of CR LF CR LF a connection has sent so far: a head may come in pieces. */
static unsigned char progress[DESCRIPTORS];
static char input[ROOM];
static char answers[ANSWERS * sizeof(CLOSED)];
static size_t answer_size;
static int closing;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

/* Returns how many heads end in what was received. */
static int heads(int fd, size_t size) {
    static const char end[] = "\r\n\r\n";
    const char *at = input, *stop = input + size;
    int found = 0;
    while (at < stop) {
        if (progress[fd] == 0) {
            const char *next = memmem(at, stop - at, end, 4);
            if (next != NULL) {
                found++;
                at = next + 4;
                continue;
            }
            at = stop - at > 3 ? stop - 3 : at; /* the rest may be the beginning of an end */
        }
        while (at < stop) {
            char byte = *at++;
            progress[fd] = byte == end[progress[fd]] ? progress[fd] + 1 : byte == '\r';
            if (progress[fd] == 4) {
                progress[fd] = 0;
                found++;
                break;
            }
        }
    }
    return found;
}

static void serve(int fd) {
    ssize_t size = recv(fd, input, ROOM, 0);
    if (size <= 0) {
        close(fd);
        return;
    }
    int found = heads(fd, (size_t)size);
    if (found == 0)
        return;
    if (found > ANSWERS)
        found = ANSWERS;
    /* What the kernel does not take at once would be lost: the loads that this is for never ask
     * for so much. */
    if (send(fd, answers, answer_size * found, MSG_NOSIGNAL) < 0 || closing)
        close(fd);
}

static int begin(int fd) {
    progress[fd] = 0;
    return 1;
}

int main(int count, char **arguments) {
    if (count < 2) {
        fprintf(stderr, "usage: floor PORT [close]\n");
        return 2;
    }
    closing = count > 2 && strcmp(arguments[2], "close") == 0;
    const char *answer = closing ? CLOSED : KEPT;
    answer_size = strlen(answer);
    for (int i = 0; i < ANSWERS; i++)
        memcpy(answers + i * answer_size, answer, answer_size);

    struct epoll_event events[BATCH];
    int epoll, listener = listen_on(atoi(arguments[1]));
    if (listener < 0 || (epoll = watch(listener)) < 0)
        fail("listen");
    for (;;) {
        int ready = epoll_wait(epoll, events, BATCH, -1);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.fd == listener)
                accept_all(listener, epoll, begin);
            else
                serve(events[i].data.fd);
        }
    }
}
