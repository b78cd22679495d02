/* kqueue(2) on top of epoll, as far as native/binding/src/sys/portable.rs uses it.
 *
 * For tests only: with it, the code for macOS and the BSDs is tested on Linux. It behaves as
 * kqueue(2) says: the two directions of a socket are two events, and the end of a direction is
 * EV_EOF in its event.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum { EVFILT_READ = -1, EVFILT_WRITE = -2, EVFILT_USER = -11 };
enum { EV_ADD = 0x1, EV_DELETE = 0x2, EV_CLEAR = 0x20, EV_EOF = 0x8000 };
enum { NOTE_TRIGGER = 0x01000000, BATCH = 256, DESCRIPTORS = 65536 };

struct kevent {
    uintptr_t ident;
    int16_t filter;
    uint16_t flags;
    uint32_t fflags;
    intptr_t data;
    void *udata;
};

/* The udata that a descriptor was added with; both directions of a socket have the same one. */
static void *tokens[DESCRIPTORS];

/* The eventfd that stands for EVFILT_USER. All kqueues share it, because this code is not told when
 * one is closed. A wake-up therefore wakes all of them, which does no harm. */
static int waker = -1;

__attribute__((constructor)) static void make_waker(void) {
    waker = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
}

int kqueue(void) {
    return epoll_create1(EPOLL_CLOEXEC);
}

static int watch(int queue, int descriptor, uint32_t events, void *token) {
    struct epoll_event event = {.events = events, .data.fd = descriptor};
    tokens[descriptor] = token;
    if (epoll_ctl(queue, EPOLL_CTL_ADD, descriptor, &event) == 0)
        return 0;
    return errno == EEXIST ? epoll_ctl(queue, EPOLL_CTL_MOD, descriptor, &event) : -1;
}

static int apply(int queue, const struct kevent *change) {
    int descriptor = (int)change->ident;
    if (change->filter == EVFILT_USER) {
        uint64_t one = 1;
        if (change->fflags & NOTE_TRIGGER)
            return write(waker, &one, sizeof one) < 0 ? -1 : 0;
        return watch(queue, waker, EPOLLIN | EPOLLET, change->udata);
    }
    if (change->flags & EV_DELETE)
        return epoll_ctl(queue, EPOLL_CTL_DEL, descriptor, NULL);
    if (!(change->flags & EV_CLEAR))
        return watch(queue, descriptor, EPOLLIN, change->udata);
    if (change->filter == EVFILT_READ) /* the change for writing follows, and adds both */
        return 0;
    return watch(queue, descriptor, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, change->udata);
}

/* Writes the kevents that `event` stands for, one for each direction, and returns their number. */
static int translate(struct kevent *events, const struct epoll_event *event) {
    int count = 0;
    uint32_t mask = event->events, ended = EPOLLHUP | EPOLLERR;
    struct kevent base = {.ident = (uintptr_t)event->data.fd, .udata = tokens[event->data.fd]};
    if (mask & EPOLLERR) /* any error: asking for the right one would clear it on the socket */
        base.fflags = ECONNRESET;
    if (mask & (EPOLLIN | EPOLLRDHUP | ended)) {
        events[count] = base;
        events[count].filter = EVFILT_READ;
        events[count++].flags = mask & (EPOLLRDHUP | ended) ? EV_EOF : 0;
    }
    if (mask & (EPOLLOUT | ended)) {
        events[count] = base;
        events[count].filter = EVFILT_WRITE;
        events[count++].flags = mask & ended ? EV_EOF : 0;
    }
    return count;
}

int kevent(int queue, const struct kevent *changes, int given, struct kevent *events, int room,
           const struct timespec *timeout) {
    struct epoll_event ready[BATCH];
    int at_once = room / 2 < BATCH ? room / 2 : BATCH, found, count = 0;
    for (int index = 0; index < given; index++)
        if (apply(queue, &changes[index]) < 0)
            return -1;
    if (room == 0)
        return 0;
    found = epoll_wait(queue, ready, at_once,
                       timeout ? (int)(timeout->tv_sec * 1000 + timeout->tv_nsec / 1000000) : -1);
    for (int index = 0; index < found; index++)
        count += translate(&events[count], &ready[index]);
    return found < 0 ? -1 : count;
}
