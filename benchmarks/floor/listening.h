/* What the two floors have in common: a listener on the loopback interface, whose connections one
 * epoll watches, and the fields that each of them sends. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define BATCH 256         /* events of one poll */
#define ROOM 65536        /* bytes of one recv */
#define DESCRIPTORS 65536 /* connections are kept by their descriptor */

#define SERVER_AND_DATE "Server: floor\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n"

/* Returns a listener; -1 where that fails, which errno tells. */
static int listen_on(int port) {
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 2048) < 0)
        return -1;
    return fd;
}

/* Returns an epoll that watches a listener; -1 where that fails, which errno tells. */
static int watch(int listener) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    int epoll = epoll_create1(0);
    return epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) < 0 ? -1 : epoll;
}

/* Calls `begin` for each connection that waits; one that it returns 0 for is closed. */
static void accept_all(int listener, int epoll, int (*begin)(int fd)) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        int on = 1;
        struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.fd = fd};
        if (fd >= DESCRIPTORS || !begin(fd) || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
}
