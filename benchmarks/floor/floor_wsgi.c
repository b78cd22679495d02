/* The floor of WSGI: what a request costs at least with epoll and an application in Python.
 *
 *   floor_wsgi.serve(application, environ, port, closing)
 *
 * A module of CPython. For each request it does what every WSGI server has to do, and nothing else: it
 * receives the request, copies an environ, calls the application, and sends what that returns.
 * `environ` is what the copies are made of: of a request it takes method, path, query and
 * Content-Length, and leaves the other fields as they are in `environ`. It checks nothing, has no
 * limits and no deadlines, and knows neither chunks, nor HEAD, nor statuses without a body;
 * start_response() returns no write(). All blocks are joined before they are sent, so it is no measure
 * for generators. With `closing` it closes after each response.
 *
 * All that has arrived with one poll is received first, then the application is called for one request
 * after the other, then the answers are sent: the kernel runs seldom between two calls, and leaves more
 * of what they use in the processor's caches. The one thread holds the interpreter lock all the time,
 * and runs until it is killed.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "listening.h"
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <strings.h>

#define HEAD_ROOM 8192 /* bytes of a response's head */
#define CONTENT_LENGTH "Content-Length:"
#define LENGTH_SIZE (sizeof CONTENT_LENGTH - 1)

struct connection {
    size_t filled, taken; /* bytes of the input that are there, and that belong to known requests */
    const char *line;     /* the first one of the request, in the input */
    size_t line_size;
    PyObject *body; /* of the request, from the end of its head to the call */
    size_t body_filled;
    PyObject *answer; /* the body of the response, from the call until all is sent */
    size_t sent;      /* of head and body */
    int blocked;      /* the kernel took no more of it */
    size_t head_size;
    char head[HEAD_ROOM];
    char input[ROOM];
};

static struct connection *connections[DESCRIPTORS]; /* never freed: descriptors come again */
static PyObject *application, *prepared, *bytes_io, *start_response;
static PyObject *input_key, *length_key, *close_name, *nothing;
static PyObject *status, *headers; /* what start_response() was called with */
static char known[ROOM];           /* the request line that the prepared environ is made for */
static size_t known_size;
static int epoll, closing;

static int begin(int fd) {
    if (connections[fd] == NULL && (connections[fd] = malloc(sizeof **connections)) == NULL)
        return 0;
    memset(connections[fd], 0, offsetof(struct connection, head));
    return 1;
}

static void drop(int fd) {
    Py_CLEAR(connections[fd]->body);
    Py_CLEAR(connections[fd]->answer);
    close(fd);
}

static void await(int fd, uint32_t what) {
    struct epoll_event event = {.events = what, .data.fd = fd};
    epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event);
}

/* Finds the end of the next head, and makes room for the body. Returns 0 where more has to come, and
 * where the connection had to be dropped. */
static int take_head(int fd) {
    struct connection *it = connections[fd];
    char *head = it->input + it->taken, *stop = it->input + it->filled, *line = head, *end;
    unsigned long length = 0;
    while ((end = memchr(line, '\n', (size_t)(stop - line))) != NULL && end - line > 1) {
        if (line == head)
            it->line_size = (size_t)(end - line);
        else if ((line[0] | 0x20) == 'c' && strncasecmp(line, CONTENT_LENGTH, LENGTH_SIZE) == 0)
            length = strtoul(line + LENGTH_SIZE, NULL, 10);
        line = end + 1;
    }
    if (end == NULL) {
        it->filled = (size_t)(stop - head);
        it->taken = 0;
        memmove(it->input, head, it->filled);
        return 0;
    }
    it->line = head;
    it->body = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
    if (it->body == NULL) {
        PyErr_Print();
        drop(fd);
        return 0;
    }
    size_t there = (size_t)(stop - (end + 1));
    it->body_filled = there < length ? there : length;
    memcpy(PyBytes_AS_STRING(it->body), end + 1, it->body_filled);
    it->taken = (size_t)(end + 1 - it->input) + it->body_filled;
    return 1;
}

/* Returns whether all of the next request is there. */
static int has_request(int fd) {
    struct connection *it = connections[fd];
    if (it->body == NULL && !take_head(fd))
        return 0;
    return it->body_filled == (size_t)PyBytes_GET_SIZE(it->body);
}

/* Returns whether all of a request is there now. What is known to be of a body goes right there. */
static int receive(int fd) {
    struct connection *it = connections[fd];
    size_t *filled = it->body ? &it->body_filled : &it->filled;
    char *into = it->body ? PyBytes_AS_STRING(it->body) : it->input;
    size_t room = it->body ? (size_t)PyBytes_GET_SIZE(it->body) : ROOM;
    ssize_t size = recv(fd, into + *filled, room - *filled, 0);
    if (size <= 0) {
        drop(fd);
        return 0;
    }
    *filled += (size_t)size;
    return has_request(fd);
}

static int set_text(const char *key, const char *text, const char *end) {
    PyObject *value = PyUnicode_DecodeLatin1(text, end - text, NULL);
    int done = value != NULL && PyDict_SetItemString(prepared, key, value) == 0;
    Py_XDECREF(value);
    return done;
}

/* Has the prepared environ ask for what a request line asks for. Returns 0 where an exception is set. */
static int prepare(const char *line, size_t size) {
    const char *end, *query, *target = memchr(line, ' ', size);
    if (target++ == NULL || (end = memchr(target, ' ', (size_t)(line + size - target))) == NULL) {
        PyErr_SetString(PyExc_ValueError, "this is no request line");
        return 0;
    }
    if ((query = memchr(target, '?', (size_t)(end - target))) == NULL)
        query = end;
    known_size = size;
    memcpy(known, line, size);
    return set_text("REQUEST_METHOD", line, target - 1) && set_text("PATH_INFO", target, query) &&
           set_text("QUERY_STRING", query + (query < end), end);
}

/* Returns the environ of a request; NULL where an exception is set. */
static PyObject *make_environ(struct connection *it) {
    int is_known = it->line_size == known_size && memcmp(it->line, known, known_size) == 0;
    if (!is_known && !prepare(it->line, it->line_size))
        return NULL;
    PyObject *environ = PyDict_Copy(prepared), *length = NULL;
    PyObject *input = PyObject_CallOneArg(bytes_io, it->body);
    int done = environ != NULL && input != NULL && PyDict_SetItem(environ, input_key, input) == 0;
    if (done && PyBytes_GET_SIZE(it->body) > 0) {
        length = PyUnicode_FromFormat("%zd", PyBytes_GET_SIZE(it->body));
        done = length != NULL && PyDict_SetItem(environ, length_key, length) == 0;
    }
    Py_XDECREF(length);
    Py_XDECREF(input);
    if (!done)
        Py_CLEAR(environ);
    return environ;
}

static PyObject *keep(PyObject *self, PyObject *const *arguments, Py_ssize_t count) {
    if (count < 2 || !PyUnicode_Check(arguments[0]) || !PyList_Check(arguments[1])) {
        PyErr_SetString(PyExc_TypeError, "start_response() takes a str and a list");
        return NULL;
    }
    Py_XSETREF(status, Py_NewRef(arguments[0]));
    Py_XSETREF(headers, Py_NewRef(arguments[1]));
    Py_RETURN_NONE;
}

/* Returns the one block of an iterable, or its blocks joined; NULL where an exception is set. */
static PyObject *take_blocks(PyObject *returned) {
    int is_list = PyList_CheckExact(returned);
    PyObject *blocks = is_list ? Py_NewRef(returned) : PySequence_List(returned), *block = NULL;
    if (blocks != NULL && PyList_GET_SIZE(blocks) == 1)
        block = Py_NewRef(PyList_GET_ITEM(blocks, 0));
    else if (blocks != NULL)
        block = PyObject_CallMethod(nothing, "join", "O", blocks);
    Py_XDECREF(blocks);
    if (block != NULL && !PyBytes_Check(block)) {
        PyErr_SetString(PyExc_TypeError, "a block has to be bytes");
        Py_CLEAR(block);
    }
    return block;
}

/* Returns 0 where an exception is set. */
static int close_returned(PyObject *returned) {
    if (PyList_CheckExact(returned))
        return 1; /* it has no close() */
    PyObject *method = PyObject_GetAttr(returned, close_name);
    if (method == NULL) {
        PyErr_Clear();
        return 1;
    }
    PyObject *done = PyObject_CallNoArgs(method);
    Py_DECREF(method);
    Py_XDECREF(done);
    return done != NULL;
}

static int put(struct connection *it, const void *bytes, size_t size) {
    if (size > HEAD_ROOM - it->head_size) {
        PyErr_SetString(PyExc_ValueError, "the head of the response is too long");
        return 0;
    }
    memcpy(it->head + it->head_size, bytes, size);
    it->head_size += size;
    return 1;
}

/* PEP 3333 has text in Latin-1, and that is how CPython holds it. */
static int put_text(struct connection *it, PyObject *text) {
    if (!PyUnicode_Check(text) || PyUnicode_KIND(text) != PyUnicode_1BYTE_KIND) {
        PyErr_SetString(PyExc_TypeError, "a status or field has to be a str in Latin-1");
        return 0;
    }
    return put(it, PyUnicode_1BYTE_DATA(text), (size_t)PyUnicode_GET_LENGTH(text));
}

/* Returns 0 where an exception is set. */
static int make_head(struct connection *it) {
    int has_length = 0;
    char line[64];
    it->head_size = it->sent = 0;
    if (status == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "start_response() was not called");
        return 0;
    }
    if (!put(it, "HTTP/1.1 ", 9) || !put_text(it, status) || !put(it, "\r\n", 2))
        return 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(headers); i++) {
        PyObject *field = PyList_GET_ITEM(headers, i);
        if (!PyTuple_Check(field) || PyTuple_GET_SIZE(field) != 2) {
            PyErr_SetString(PyExc_TypeError, "a field has to be a tuple of name and value");
            return 0;
        }
        const char *name = it->head + it->head_size;
        if (!put_text(it, PyTuple_GET_ITEM(field, 0)) || !put(it, ": ", 2) ||
            !put_text(it, PyTuple_GET_ITEM(field, 1)) || !put(it, "\r\n", 2))
            return 0;
        has_length |= strncasecmp(name, CONTENT_LENGTH, LENGTH_SIZE) == 0;
    }
    if (!has_length) {
        int size = snprintf(line, sizeof line, "%s %zd\r\n", CONTENT_LENGTH,
                            PyBytes_GET_SIZE(it->answer));
        if (!put(it, line, (size_t)size))
            return 0;
    }
    static const char kept[] = SERVER_AND_DATE "\r\n";
    static const char closed[] = SERVER_AND_DATE "Connection: close\r\n\r\n";
    return closing ? put(it, closed, sizeof closed - 1) : put(it, kept, sizeof kept - 1);
}

/* Calls the application. Returns 0 where that failed, and the connection was dropped. */
static int call(int fd) {
    struct connection *it = connections[fd];
    PyObject *environ = make_environ(it), *returned = NULL;
    int done = 0;
    Py_CLEAR(it->body);
    Py_CLEAR(status);
    Py_CLEAR(headers);
    if (environ != NULL) {
        PyObject *arguments[] = {environ, start_response};
        returned = PyObject_Vectorcall(application, arguments, 2, NULL);
    }
    if (returned != NULL) {
        it->answer = take_blocks(returned);
        done = it->answer != NULL && make_head(it);
        if (!done)
            PyErr_Print(); /* before close() is called */
        done &= close_returned(returned);
    }
    Py_XDECREF(returned);
    Py_XDECREF(environ);
    if (PyErr_Occurred())
        PyErr_Print();
    if (!done)
        drop(fd);
    return done;
}

/* Sends what the kernel takes. Returns whether that was all, and the connection stays. */
static int send_answer(int fd) {
    struct connection *it = connections[fd];
    size_t size = (size_t)PyBytes_GET_SIZE(it->answer);
    size_t of_head = it->sent < it->head_size ? it->sent : it->head_size;
    size_t of_body = it->sent - of_head;
    struct iovec parts[] = {{it->head + of_head, it->head_size - of_head},
                            {PyBytes_AS_STRING(it->answer) + of_body, size - of_body}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
        drop(fd);
        return 0;
    }
    it->sent += sent > 0 ? (size_t)sent : 0;
    int is_all = it->sent == it->head_size + size;
    if (is_all && closing) {
        drop(fd);
        return 0;
    }
    if (is_all)
        Py_CLEAR(it->answer);
    if (it->blocked != !is_all)
        await(fd, is_all ? EPOLLIN | EPOLLRDHUP : EPOLLOUT);
    it->blocked = !is_all;
    return is_all;
}

static PyObject *serve(PyObject *self, PyObject *arguments) {
    int port, listener;
    struct epoll_event events[BATCH];
    if (!PyArg_ParseTuple(arguments, "OO!ip", &application, &PyDict_Type, &prepared, &port, &closing))
        return NULL;
    if ((listener = listen_on(port)) < 0 || (epoll = watch(listener)) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    signal(SIGINT, SIG_DFL); /* Python's handler would run within a call, if ever */
    for (;;) {
        int asking[BATCH], count = 0, ready = epoll_wait(epoll, events, BATCH, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener)
                accept_all(listener, epoll, begin);
            else if (connections[fd]->blocked ? send_answer(fd) && has_request(fd) : receive(fd))
                asking[count++] = fd;
        }
        while (count > 0) { /* again for connections on which more than one request has arrived */
            int called = 0, left = 0;
            for (int i = 0; i < count; i++)
                if (call(asking[i]))
                    asking[called++] = asking[i];
            for (int i = 0; i < called; i++)
                if (send_answer(asking[i]) && has_request(asking[i]))
                    asking[left++] = asking[i];
            count = left;
        }
    }
}

static PyMethodDef kept = {"start_response", (PyCFunction)(void (*)(void))keep, METH_FASTCALL, NULL};
static PyMethodDef methods[] = {{"serve", serve, METH_VARARGS, "Serve until the process ends."},
                                {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "floor_wsgi", .m_size = -1,
                                    .m_methods = methods};

PyMODINIT_FUNC PyInit_floor_wsgi(void) {
    PyObject *io = PyImport_ImportModule("io");
    bytes_io = io ? PyObject_GetAttrString(io, "BytesIO") : NULL;
    Py_XDECREF(io);
    start_response = PyCFunction_New(&kept, NULL);
    input_key = PyUnicode_InternFromString("wsgi.input");
    length_key = PyUnicode_InternFromString("CONTENT_LENGTH");
    close_name = PyUnicode_InternFromString("close");
    nothing = PyBytes_FromStringAndSize(NULL, 0);
    if (!bytes_io || !start_response || !input_key || !length_key || !close_name || !nothing)
        return NULL;
    return PyModule_Create(&module);
}
