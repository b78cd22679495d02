"""Every log message of level WARNING and above, declared once, with an id that never changes.

``messages.OPEN_FILES_LIMIT.log(logger, limit=256, ...)`` logs
``PEN-6010 the limit on open files is 256, ...``. The record also carries the id as its attribute
``message_id`` and the arguments as its ``args``, for handlers that write fields. docs/messages.md
is made from this file by ``python -m penstock.telemetry.messages_page``.

The first digit of an id stands for the part of the server that logs the message:

    1 settings and start-up        5 logs
    2 listeners and connections    6 worker
    3 the application              7 supervisor
    4 the edge (TLS, proxies)      8 control

An id is never reused. A new message takes a free number of its part; the gaps keep related messages
together. Nothing here imports another module of Penstock, so that any module can import it.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any, Final

from penstock.records import dataclass

if TYPE_CHECKING:
    import logging

# As in logging, which a command that logs nothing does not have to import.
WARNING: Final = 30
ERROR: Final = 40
CRITICAL: Final = 50


@dataclass(frozen=True)
class Message:
    """One message: what is logged, what it means, and what to do about it.

    ``text`` has its arguments in the form of the operator ``%``: ``%(limit)d``. It begins with what
    happened to what. ``meaning`` and ``remedy`` are for docs/messages.md.
    """

    id: str
    level: int
    text: str
    meaning: str
    remedy: str

    def log(
        self,
        logger: logging.Logger,
        /,
        *,
        exc_info: Any = None,
        **arguments: object,
    ) -> None:
        """Log the message; ``exc_info`` as ``logging`` takes it.

        As with ``logging``, an argument that does not fit the text does not raise an error here.
        """
        logger.log(
            self.level,
            f"{self.id} {self.text}",
            *([arguments] if arguments else []),
            exc_info=exc_info,
            extra={"message_id": self.id},
            stacklevel=2,
        )

    def notice(self, **arguments: object) -> Notice:
        """Return the message with its arguments, to be logged later."""
        return Notice(self, arguments)

    def render(self, **arguments: object) -> str:
        """Return the text with the id before it, for a place that takes no log records."""
        return self.notice(**arguments).render()


@dataclass(frozen=True)
class Notice:
    """A message and its arguments. As a string, the text without the id."""

    message: Message
    arguments: dict[str, object] = field(default_factory=dict)

    def log(self, logger: logging.Logger, /) -> None:
        """Log the message."""
        self.message.log(logger, **self.arguments)

    def render(self) -> str:
        """Return the text with the id before it."""
        return f"{self.message.id} {self}"

    def __str__(self) -> str:
        return self.message.text % self.arguments if self.arguments else self.message.text


# -- 1: settings and start-up -------------------------------------------------------------------

SETTINGS_FILES_NOT_READABLE: Final = Message(
    "PEN-1010",
    WARNING,
    "cannot look for a settings file in %(directory)s: %(error)s",
    "The server may not look into the directory that it was started in, so `penstock.toml`,"
    " `pyproject.toml` and `gunicorn.conf.py` there have no effect.",
    "Start the server in a directory that its user can read, or name the file with `-c`.",
)

TWO_SETTINGS_FILES: Final = Message(
    "PEN-1020",
    WARNING,
    "the table [tool.penstock] of pyproject.toml was not read because there is a penstock.toml",
    "Both files are in the directory that the server was started in; only one of them is read.",
    "Move all settings to one of the two.",
)

TABLE_MISSPELT: Final = Message(
    "PEN-1021",
    WARNING,
    "pyproject.toml has the table [tool.%(table)s], and no [tool.penstock]: it was not read",
    "The name of the table is nearly that of the server's. Its settings have no effect.",
    "Correct the name, unless the table is another program's.",
)

BIND_REPLACED: Final = Message(
    "PEN-1030",
    WARNING,
    "the sockets of LISTEN_FDS replace bind (from %(source)s)",
    "systemd passed sockets to the server, and these are what it listens on; the addresses of"
    " `bind` have no effect.",
    "Remove `bind`, or the socket unit.",
)

PYTHONPATH_MISSING: Final = Message(
    "PEN-1040",
    WARNING,
    "pythonpath has %(path)r (from %(source)s), which does not exist",
    "Nothing can be imported from this directory.",
    "Correct the path, or remove it.",
)

CODE_NOT_ROOTS: Final = Message(
    "PEN-1045",
    WARNING,
    "root imports the server's code from %(path)s, and %(reason)s",
    "The server was started as root with `--user`. A user that can change this directory can make"
    " root run any code, at the next start or upgrade.",
    "Make root the owner of the installation (of its virtual environment, say), writable by root"
    " alone.",
)

MAX_BODY_LOWERED: Final = Message(
    "PEN-1050",
    WARNING,
    "request bodies over %(bytes)d bytes will be answered with 413, where max_body is %(max_body)d:"
    " max_spool is less (%(reason)s); set --temp-dir to a directory with more room, or --max-spool",
    "All request bodies together may take `max_spool` bytes on the disk: by default a quarter of"
    " the free space of `temp_dir` at the start, or of the memory where that directory is in"
    " memory. No single body may be longer. This is logged where ordinary uploads may not fit, or"
    " where `max_body` was set to more.",
    "Set `temp_dir` to a directory on a disk with more free space; or set `max_spool` to what may"
    " be used there, or lower `max_body`.",
)

PRELOAD_LEFT_OUT: Final = Message(
    "PEN-1060",
    WARNING,
    "preload (from %(preload)s) is left out, because reload (from %(reload)s) loads the application"
    " anew for each change",
    "An application that is loaded once, before the workers are forked, stays as it is for them."
    " With `--reload` each new worker loads it.",
    "Set `preload` in production alone, and `reload` for development alone.",
)

ALLOWED_AND_DENIED: Final = Message(
    "PEN-1065",
    WARNING,
    "allow (from %(allow)s) and deny (from %(deny)s) both have %(networks)s: deny counts",
    "Of the networks of `allow` and `deny` that match a client the smallest one counts, and not the"
    " order in which they are given, as in nginx. Of two that are the same it is that of `deny`.",
    "Remove the network from one of the two.",
)

UNKNOWN_ATOMS: Final = Message(
    "PEN-1070",
    WARNING,
    "access_logformat (from %(source)s) has %(atoms)s, which the server does not know: each prints"
    " as -",
    "As under gunicorn, a line is written with a dash in the place of an unknown atom."
    " docs/logging.md has all atoms.",
    "Correct the atom, or remove it.",
)

GUNICORN_SETTINGS_IGNORED: Final = Message(
    "PEN-1110",
    WARNING,
    "%(place)s has %(names)s, without effect here: %(instead)s",
    "These settings of gunicorn have no effect in Penstock. The message says what is there instead."
    " docs/gunicorn-settings.md lists every setting.",
    "Remove the settings, or use what the message names.",
)

UWSGI_OPTIONS_IGNORED: Final = Message(
    "PEN-1112",
    WARNING,
    "%(place)s has %(names)s, without effect here: %(instead)s",
    "These options of a configuration file of uWSGI have no effect in Penstock. The message says"
    " what is there instead. docs/migrating.md lists the options that have an effect.",
    "Remove the options, or use what the message names.",
)

UWSGI_PROTOCOL_REPLACED: Final = Message(
    "PEN-1114",
    WARNING,
    "%(place)s has protocol = %(protocol)s, and the server speaks HTTP at socket = %(address)s: in"
    " nginx, write proxy_pass http://... in place of the directive for that protocol",
    "The option `protocol` of uWSGI says what is spoken at the addresses of `socket`. Penstock"
    " speaks `uwsgi`, which is the default there, and `http`, and no other one.",
    "Change the web server's configuration as the message says, and write `http-socket` in the"
    " file: then this is not logged. Or leave `protocol` out, and have the web server speak uwsgi."
    " docs/proxies.md has the lines for each web server.",
)

UWSGI_VARIABLE_UNSET: Final = Message(
    "PEN-1116",
    WARNING,
    "%(place)s uses the environment variable %(variable)s, which is not set: $(%(variable)s) stays",
    "A placeholder such as `$(NAME)` of a configuration file of uWSGI stands for a variable of the"
    " environment in which the server was started. Where that is not set, the text stays as it is,"
    " as in uWSGI.",
    "Set the variable, or write the value into the file.",
)

TOKEN_FILE_OPEN: Final = Message(
    "PEN-1118",
    WARNING,
    "every user of this machine can %(what)s the token file %(path)s, whose mode is %(mode)s"
    " (setting: admin_token_file): %(command)s",
    "The token opens the dashboard, which shows requests, stacks and settings. A user who can read"
    " the file has the token, and one who can write to it chooses the next one. The server uses the"
    " file nevertheless: it may be in a directory or a container that other users cannot reach.",
    "Run the command in the message, and make a new token where another user may have read this"
    " one. The server's user has to be able to read the file: it may also belong to root and to a"
    " group of that user, with the mode 640. A volume of Kubernetes with a secret has `defaultMode`"
    " for it.",
)

HOOK_FAILED: Final = Message(
    "PEN-1120",
    ERROR,
    "the hook %(hook)s failed",
    "A function of `gunicorn.conf.py` raised an exception; the traceback follows. The server goes"
    " on as if the hook had returned.",
    "Correct the hook.",
)

# -- 2: listeners and connections ---------------------------------------------------------------

ACCEPT_PAUSED: Final = Message(
    "PEN-2010",
    WARNING,
    "accepting connections on %(listener)s is paused: %(error)s; clients wait in the accept queue."
    " Raise the limit on open files (ulimit -n) or lower max_connections",
    "The kernel gave the worker no new connection, mostly because the process or the system has no"
    " file descriptor left. The worker tries again every half a second. The message is logged once"
    " for each time that this begins.",
    "Raise the limit on open files (`ulimit -n`, `LimitNOFILE=` of systemd), or lower"
    " `max_connections`. If the application leaks file descriptors, correct that.",
)

DESCRIPTORS_USED_UP: Final = Message(
    "PEN-2020",
    WARNING,
    "accepting connections on %(listener)s is paused: the descriptors of the worker are used up"
    " (%(connections)s connections, %(files)s files); clients wait in the accept queue. Raise the"
    " limit on open files (ulimit -n)",
    "Connections, bodies in temporary files and files that are sent take a descriptor each. The"
    " limit on open files less `descriptor_reserve`, which is for the application, is used up, and"
    " no connection has been idle for long enough to be closed. The worker accepts again once one"
    " of them ends. The message is logged once for each time that this begins.",
    "Raise the limit on open files (`ulimit -n`, `LimitNOFILE=` of systemd), or lower"
    " `max_connections` to what fits.",
)

TIMEOUT_FOR_FAILED: Final = Message(
    "PEN-2110",
    ERROR,
    "the timeout of %(path)s could not be looked up, and the setting timeout applies",
    "Looking up `timeout_for` for a request's path failed. The traceback follows.",
    "Report the traceback as a bug of Penstock, with the setting `timeout_for`.",
)

QUEUE_DEFECT: Final = Message(
    "PEN-2905",
    ERROR,
    "the queue of requests could not be looked through because of an internal error",
    "A defect of the server, or memory ran out at a bad place. Requests that have waited for too"
    " long stay in the queue until a thread takes them.",
    "Report it as a bug of Penstock, with the traceback.",
)

CONNECTION_DEFECT: Final = Message(
    "PEN-2910",
    ERROR,
    "a connection was closed because of an internal error%(detail)s",
    "A defect of the server, or memory ran out at a bad place. Only this connection is closed.",
    "Report it as a bug of Penstock, with the traceback if there is one.",
)

POLL_FAILED: Final = Message(
    "PEN-2920",
    ERROR,
    "waiting for the sockets failed: %(error)s",
    "The system call that waits for events on the worker's sockets failed. The worker tries again.",
    "Report it as a bug of Penstock, with the error and the version of the kernel.",
)

STALL_MONITOR_DEFECT: Final = Message(
    "PEN-2930",
    CRITICAL,
    "the stall monitor met an internal error and goes on",
    "A defect of the server in the thread that wakes another thread when a call takes long. The"
    " traceback follows.",
    "Report the traceback as a bug of Penstock.",
)

TRANSPORT_THREAD_DEFECT: Final = Message(
    "PEN-2940",
    CRITICAL,
    "the transport's thread %(thread)s met an internal error and goes on",
    "A defect of the server in a thread that watches for stalled calls or writes logs. The"
    " traceback follows.",
    "Report the traceback as a bug of Penstock.",
)

# -- 3: the application --------------------------------------------------------------------------

APPLICATION_FAILED: Final = Message(
    "PEN-3010",
    ERROR,
    "%(request)s: the application failed",
    "The application raised an exception that it did not catch; the traceback follows. The client"
    " gets 500, or the connection is closed if a part of the response has been sent.",
    "Correct the application. The id of the request is also in the access log.",
)

APPLICATION_BROKE_PEP3333: Final = Message(
    "PEN-3020",
    ERROR,
    "%(request)s: the application broke PEP 3333: %(error)s",
    "The application returned something that is not a valid response by PEP 3333. The client gets"
    " 500, or the connection is closed if a part of the response has been sent.",
    "Correct the application or its framework as the error says.",
)

APPLICATION_EXCEEDED_CONTENT_LENGTH: Final = Message(
    "PEN-3030",
    ERROR,
    "%(request)s: the application gave more than its Content-Length of %(length)d bytes; the rest"
    " is dropped",
    "The client got a complete response of the length that the application announced. What the"
    " application gave beyond it was not sent.",
    "Correct the Content-Length, or leave it to the server.",
)

APPLICATION_CLOSE_FAILED: Final = Message(
    "PEN-3040",
    ERROR,
    "%(request)s: close() of the response failed",
    "The application returned an iterable whose `close()` raised an exception; the traceback"
    " follows. The response itself is not affected.",
    "Correct `close()` in the application or its middleware; what it releases may have leaked.",
)

APPLICATION_TIMEOUT: Final = Message(
    "PEN-3050",
    ERROR,
    "%(request)s: the application ended the call at its deadline (settings: timeout, timeout_for)",
    "`penstock.check_deadline` raised RequestTimeout, because the deadline of the request had"
    " passed, and the application did not catch it. The client gets 504 if nothing was sent yet.",
    "Make the path faster, raise `timeout_for` for it, or catch RequestTimeout to answer better.",
)

FILE_TRUNCATED: Final = Message(
    "PEN-3060",
    ERROR,
    "%(request)s: response cut off: the file became shorter while it was sent",
    "The application returned a file in `wsgi.file_wrapper`, and the file became shorter after the"
    " head of the response had announced its length. The connection is closed, so that the client"
    " sees that the response is incomplete.",
    "Replace files by renaming a new one over the old one; do not write to a file that is served.",
)

APPLICATION_SENT_CLOSE: Final = Message(
    "PEN-3110",
    WARNING,
    "the application sent the field Connection: close, which was left out; the server closes the"
    " connection after this response (logged once)",
    "The connection belongs to the server (PEP 3333 forbids such fields). It understands the wish"
    " and closes the connection; later responses with the field are not logged.",
    "Remove the field from the application's response.",
)

APPLICATION_SENT_NEEDLESS_BODY: Final = Message(
    "PEN-3120",
    WARNING,
    "the application gave a body to a response with status %(status)d, which has none: it was"
    " dropped (logged once)",
    "Responses with this status have no body (RFC 9110). The rest of the response was sent.",
    "Return no body with this status.",
)

APPLICATION_SENT_HOP_BY_HOP: Final = Message(
    "PEN-3130",
    WARNING,
    "the application sent the field %(name)s, which was left out: it belongs to a connection, and"
    " the server sets such fields itself (logged once)",
    "PEP 3333 forbids such fields (RFC 9110, section 7.6.1). They often come with the response of"
    " another server, which the application passes on. The rest of the response was sent.",
    "Remove the field from the application's response. For `Keep-Alive`, set `send_keep_alive`: the"
    " server sends the time that it keeps the connection.",
)

APPLICATION_SENT_ODD_STATUS: Final = Message(
    "PEN-3140",
    WARNING,
    "the application sent the status %(status)d without a reason, or beyond 599: it was sent as it"
    " is (logged once)",
    "PEP 3333 asks for a code and a reason, such as `207 Multi-Status`. HTTP has no codes from 600"
    " on: clients treat them as they like (RFC 9110, section 15).",
    "Correct the status in the application.",
)

FIELD_DROPPED: Final = Message(
    "PEN-3210",
    WARNING,
    "the field %(field)s was dropped, as all fields with an underscore are: the application"
    " could not tell it from %(with_hyphens)s (logged once; setting: header_map)",
    "In the environ, `x_token` and `x-token` would both be `HTTP_X_TOKEN`; a client could use the"
    " one to pass for the other, so the server keeps only names with hyphens.",
    "Send the field with hyphens. If nothing in front of the server relies on fields with hyphens,"
    " `header_map` can be set to keep both.",
)

# -- 4: the edge --------------------------------------------------------------------------------

FORWARDING_NOT_BELIEVED: Final = Message(
    "PEN-4010",
    WARNING,
    "the field %(field)s of %(peer)s is not believed: forwarded_allow_ips does not name that peer"
    " (logged once; setting: forwarded_allow_ips)",
    "A client has sent a field that proxies use to tell the client's address or its scheme, or a"
    " proxy has that the server was not told of. The server passes such fields on to the"
    " application, and does not act on them.",
    "If the address is your proxy's, name it in `forwarded_allow_ips`, and in `forwarded_headers`"
    " the fields that the proxy sets; see docs/proxies.md. If it is a client's, nothing is to be"
    " done; with `untrusted_forwarded` set to `drop` the application does not get such fields.",
)

UWSGI_PEER_REFUSED: Final = Message(
    "PEN-4020",
    WARNING,
    "a connection of %(peer)s to %(listener)s was closed: uwsgi_allow_from does not name that peer"
    " (logged once; setting: uwsgi_allow_from)",
    "Who speaks the uwsgi protocol says who its clients are, so that only front-ends that are named"
    " may connect to such an address: by default, processes of the same machine.",
    "If the address is your front-end's, name it in `uwsgi_allow_from`. If it is a client's, the"
    " port should not be reachable from there: bind a unix socket, or an address of an inner"
    " network.",
)

CERTIFICATE_EXPIRES: Final = Message(
    "PEN-4110",
    WARNING,
    "the certificate for %(names)s expires in %(days)d days, on %(date)s",
    "Clients refuse the server from then on. It is logged at 21, 7 and 1 days.",
    "Renew it, and find out why the program that renews certificates has not. A new file is taken"
    " in by itself within seconds.",
)

CERTIFICATE_EXPIRED: Final = Message(
    "PEN-4120",
    ERROR,
    "the certificate for %(names)s has expired, on %(date)s",
    "Clients refuse the server. It goes on serving those that do not look at the date.",
    "Renew the certificate. A new file is taken in by itself within seconds.",
)

CERTIFICATES_NOT_RENEWED: Final = Message(
    "PEN-4130",
    ERROR,
    "the files of certificates have changed, and cannot be used, so that the old ones stay:"
    " %(error)s",
    "The server checks new certificates before it uses them. These have failed.",
    "Correct the file that the message names. It is looked at again as soon as it changes.",
)

TLS_KEYS_LOGGED: Final = Message(
    "PEN-4140",
    WARNING,
    "the secrets of all TLS sessions are written to %(path)s (from %(source)s)",
    "Each program that can read this file can decrypt the traffic. It is for finding faults.",
    "Unset tls_key_log and the variable SSLKEYLOGFILE in production, and remove the file.",
)

WORKER_CERTIFICATES_REFUSED: Final = Message(
    "PEN-4150",
    ERROR,
    "new certificates cannot be used in this worker, and the old ones stay: %(error)s",
    "The supervisor has checked them, and the worker's transport cannot use them all the same.",
    "Correct what the message names, such as ciphers or the kind of key.",
)

ACME_SELF_SIGNED: Final = Message(
    "PEN-4210",
    WARNING,
    "a self-signed certificate is served for %(names)s until the first one has come",
    "The server has no certificate for these names yet, and orders one. Until it has come, TLS"
    " clients warn of the certificate or refuse it.",
    "Wait: it takes some seconds after the server has begun to serve. If it does not come, a"
    " message PEN-4220 says why.",
)

ACME_NO_CERTIFICATE: Final = Message(
    "PEN-4211",
    WARNING,
    "there is no certificate yet: TLS handshakes fail until the first one has come",
    "The process that orders certificates (setting: acme_domain) has handed over none within 5"
    " seconds of the start, not even a self-signed one: this machine is very busy, or a file system"
    " hangs. All other addresses are served.",
    "Wait: it is served as soon as it comes. If none comes, a message PEN-4230 says why, or else"
    " the file system with the Python packages or with acme_dir does not answer.",
)

ACME_ATTEMPT_FAILED: Final = Message(
    "PEN-4220",
    WARNING,
    "no certificate for %(name)s for now: %(reason)s; the next attempt is in %(pause)s, and"
    " %(served)s",
    "An attempt to order or renew a certificate has failed. The server goes on with the one that it"
    " has, and tries again later and later, up to every 12 hours.",
    "Where the authority refuses: see that the name's A and AAAA records in the DNS lead to this"
    " server, and that its port 80 (http-01) or 443 (tls-alpn-01) can be reached from outside."
    " Where it does not answer: see that this machine may connect to it, and trusts its"
    " certificate (REQUESTS_CA_BUNDLE, for an authority of your own). To have the next attempt at"
    " once, remove the file schedule.json of the name in acme_dir, and restart or upgrade. A rate"
    " limit of the authority ends by itself. docs/acme.md has more.",
)

ACME_PROCESS_ENDED: Final = Message(
    "PEN-4230",
    ERROR,
    "the process that orders certificates has ended, and is started again in %(pause)g s:"
    " %(reason)s",
    "The server goes on with the certificates that it has, but renews none without this process.",
    "See the reason. A missing package: pip install 'penstock[acme]'. A directory: see the setting"
    " acme_dir.",
)

ACME_REFUSED: Final = Message(
    "PEN-4240",
    ERROR,
    "the process that orders certificates was ended, because it has sent %(what)s",
    "The supervisor takes certificates and answers to challenges of the configured names alone from"
    " that process. It runs as the user of the workers, so an application may have taken it over.",
    "Look for the cause as for an intrusion. Otherwise it is a defect of Penstock: report it.",
)

ACME_DIRECTORY: Final = Message(
    "PEN-4250",
    ERROR,
    "no certificates are ordered for now: %(path)s cannot be read or written: %(reason)s",
    "The directory of the setting acme_dir is full, read-only, or on a server that does not answer."
    " The server goes on with the certificates that it has, and looks again every two seconds.",
    "Make room, or make the directory writable for the user of the workers.",
)

STATIC_FILE_NOT_READ: Final = Message(
    "PEN-4510",
    WARNING,
    "could not read the static file of %(path)s: %(error)s",
    "A file of a directory of `--static` is there, and the worker cannot open or read it. The"
    " client got 403 where the worker's user has no right to read it, 503 where no file descriptor"
    " was left, else 500.",
    "Let the user that the workers run as (`--user`) read the file and its directories; for"
    " descriptors, raise the limit on open files (ulimit -n).",
)

SENDFILE_FAILED: Final = Message(
    "PEN-4520",
    WARNING,
    "could not send the file %(path)s, which the application named in %(field)s: %(error)s",
    "The file is in no directory of `--sendfile-root`, is hidden, is missing, or the worker cannot"
    " read it. The client got 404; 403 where the worker's user has no right to read it; 503 or 500"
    " for other errors.",
    "Name the directory with `--sendfile-root`, as DIR for `X-Sendfile` and as /PREFIX=DIR for"
    " `X-Accel-Redirect`; let the user that the workers run as read it.",
)

# -- 5: logs ------------------------------------------------------------------------------------

ACCESS_LOG_LINES_LOST: Final = Message(
    "PEN-5010",
    WARNING,
    "the access log is losing lines: %(reason)s (setting: access_logfile)",
    "Lines of the access log cannot be written. Requests are answered as before; only their lines"
    " are missing. The message is logged once, when the loss begins; `the access log is written"
    " again` follows when no line has been lost for some seconds.",
    "Act on the reason: free space on the file system, let the reader of the pipe keep up, or"
    " correct the path or the format.",
)

ACCESS_LOG_LINES_LOST_IN_ALL: Final = Message(
    "PEN-5011",
    WARNING,
    "the access log has lost lines: %(lines)d in all (setting: access_logfile)",
    "The worker stopped, and this is how many lines of the access log it could not write while it"
    " ran.",
    "Look for PEN-5010 earlier in the log: it tells the reason.",
)

LINES_NOT_WRITTEN: Final = Message(
    "PEN-5020",
    WARNING,
    "log lines could not be written here: %(lines)d",
    "Lines of this log are missing at this place. The line is written to the log itself as soon as"
    " it takes lines again.",
    "Free space on the file system, or let the reader of the pipe keep up.",
)

ERROR_LOG_UNWRITABLE: Final = Message(
    "PEN-5030",
    WARNING,
    "cannot write to %(path)r; logging to standard error until that is possible again (setting:"
    " error_logfile)",
    "The file of the error log does not take lines. They go to standard error meanwhile.",
    "Free space on the file system, or correct the path or its permissions; then send SIGUSR1 to"
    " open the file again.",
)

LOG_FILE_NOT_REOPENED: Final = Message(
    "PEN-5040",
    ERROR,
    "the %(kind)s log could not be opened again and goes on in the old file: %(error)s (setting:"
    " %(setting)s)",
    "SIGUSR1 asked for the log files to be opened again, after a rotation. This one could not be"
    " opened by its name, so its lines go to the rotated file, and are lost once that is"
    " removed.",
    "Correct what the error names: a directory that is missing, or to which the user named there"
    " may not write. Then send SIGUSR1 to the supervisor again, before the rotated file is"
    " compressed or removed.",
)

OBSERVER_FAILED: Final = Message(
    "PEN-5050",
    ERROR,
    "the observer %(observer)s failed and missed finished requests",
    "What records finished requests (a log, metrics) raised an exception; the traceback follows."
    " Requests are answered as before. Logged once for each observer.",
    "Report the traceback as a bug of Penstock.",
)

LOG_ENTRIES_LOST: Final = Message(
    "PEN-5060",
    WARNING,
    "log entries were lost: %(entries)s (too many waited while the application held the"
    " interpreter; settings: log_queue, log_queue_bytes)",
    "The native transport went on while the application kept the interpreter lock (GIL), and more"
    " requests were refused than it may keep for the logs. The requests were answered."
    " `penstockctl status` counts them as `log_dropped`.",
    "Look for a call of the application that holds the interpreter lock for seconds: PEN-6110 and"
    " `penstockctl requests` name it.",
)

LOG_DAEMON_FAILS: Final = Message(
    "PEN-5070",
    WARNING,
    "messages of the log do not reach their daemon: %(reason)s (setting: %(setting)s)",
    "Syslog, or systemd's journal, does not take messages, or not as fast as they come. Up to 1,000"
    " messages wait for syslog; further ones are lost, and a message says how many as soon as there"
    " is room. What was for the journal goes to the standard streams meanwhile. Logged once for"
    " each loss. Requests are answered as before.",
    "Act on the reason: start the daemon, correct the address, or let it keep up.",
)

LOG_DAEMON_LOST_IN_ALL: Final = Message(
    "PEN-5071",
    WARNING,
    "messages of the log did not reach their daemon: %(count)d in all (setting: %(setting)s)",
    "The worker stopped, and this is how many messages syslog or the journal did not take while it"
    " ran.",
    "Look for PEN-5070 earlier in the log: it tells the reason.",
)

SPAN_FAILED: Final = Message(
    "PEN-5080",
    ERROR,
    "spans are missing, or incomplete: making one failed (setting: otel)",
    "An exception was raised in OpenTelemetry, or in what the server does with it; the traceback"
    " follows. Requests are answered as before. Logged once for each worker.",
    "Look at the traceback: a sampler, propagator or processor of the application's may have"
    " failed. Otherwise report it as a bug of Penstock.",
)

SPANS_NOT_EXPORTED: Final = Message(
    "PEN-5081",
    WARNING,
    "the last spans were given up: the collector did not take them within %(seconds)g s (setting:"
    " otel)",
    "The worker stops. What it had not exported yet is lost: a second's spans or so, or all that"
    " wait in the queue of the SDK, where the collector cannot be reached.",
    "Look at the collector, and at the address in OTEL_EXPORTER_OTLP_ENDPOINT.",
)

# -- 6: the worker ------------------------------------------------------------------------------

OPEN_FILES_LIMIT: Final = Message(
    "PEN-6010",
    WARNING,
    "the limit on open files is %(limit)d, so that about %(room)d connections fit at a time;"
    " raise it (ulimit -n)%(or_lower)s",
    "Each connection takes a file descriptor. The server raised the limit as far as the system"
    " allows, and it is still lower than what `max_connections` needs. Where that is auto, it takes"
    " what fits, and the message says that fewer than 1,000 connections do. A `descriptor_reserve`"
    " that was set takes its part of the limit.",
    "Raise the hard limit (`ulimit -Hn`, `LimitNOFILE=` of systemd, `nofile` in limits.conf), set"
    " `max_connections` to what fits, or lower `descriptor_reserve`.",
)

NO_TEMPORARY_FILES: Final = Message(
    "PEN-6020",
    WARNING,
    "request bodies over %(body_memory)d bytes will be answered with 507: no temporary file can be"
    " made in %(directory)s: %(error)s (setting: temp_dir)",
    "Larger request bodies are stored in temporary files, and the directory for them cannot be"
    " used. Smaller bodies are kept in memory and work.",
    "Create the directory, correct its permissions or free space; or set `temp_dir` to a directory"
    " that the worker can write to.",
)

CALL_AT_HALF_OF_TIMEOUT: Final = Message(
    "PEN-6110",
    WARNING,
    "%(request)s has used half of its %(timeout)g s (settings: timeout, timeout_for); its thread is"
    " in:\n%(stack)s",
    "A call of the application holds its thread and has sent nothing for half of the time that it"
    " may. Time in which the thread waits for the client does not count. Nothing is ended yet.",
    "Read the stack: it shows where the call is. If the path needs longer, raise `timeout_for` for"
    " it.",
)

CALL_EXPIRED: Final = Message(
    "PEN-6120",
    ERROR,
    "%(request)s: timeout after %(timeout)g s (settings: timeout, timeout_for); %(outcome)s; its"
    " thread is in:\n%(stack)s",
    "A call of the application has sent nothing for as long as it may. Its client got 504, or the"
    " connection was cut where the head had been sent. The call goes on: whatever it reads or sends"
    " raises an OSError, and its output is discarded.",
    "Compare the stack with that of PEN-6110 for the same request: where both are the same, the"
    " call hangs there. Give what it waits for (database, HTTP client, lock) a shorter timeout of"
    " its own. Give paths that take long by nature more time with `timeout_for`, or let the"
    " application call `environ['penstock.extend_deadline']`.",
)

CALL_STUCK: Final = Message(
    "PEN-6130",
    CRITICAL,
    "%(request)s is stuck: the call has not returned %(grace)g s after its deadline (setting:"
    " timeout_grace); free threads of the worker: %(free)d. All threads of the process:"
    "\n%(stacks)s",
    "The thread is lost to other requests until the call returns. The worker is not ready any more,"
    " and the supervisor replaces it; its other requests are finished first.",
    "Read the stacks: those of the other threads show what the call may wait for, such as a lock"
    " that one of them holds.",
)

NO_CALL_STUCK: Final = Message(
    "PEN-6140",
    WARNING,
    "no thread is stuck any more: the worker is ready again",
    "The calls that PEN-6130 reported have returned.",
    "Look at the calls that PEN-6130 reported.",
)

IO_BOUND_WITH_ONE_THREAD: Final = Message(
    "PEN-6150",
    WARNING,
    "penstock.io_bound returned False: with one thread (setting: threads), no other can take the"
    " place of a call that waits",
    "The application has called `environ['penstock.io_bound']()`, so that a call that will wait"
    " does not count as one of the worker's `threads`. With `threads = 1`, the main thread alone"
    " runs the application, so that the call keeps it, and other requests wait. It is logged once"
    " for each worker.",
    "Set `threads` to 2 or more if the application is thread-safe. Else set `max_io_bound` to 0:"
    " then the worker does not warn.",
)

THREAD_NOT_STARTED: Final = Message(
    "PEN-6160",
    WARNING,
    "a thread could not be started in the place of one that waits (settings: max_io_bound,"
    " max_websockets): %(error)s",
    "The application has called `environ['penstock.io_bound']()`, or taken the socket of a"
    " WebSocket, and the system starts no more threads for this process. The call returned False,"
    " and the request keeps its thread; the WebSocket got 503.",
    "Raise the limit on processes and threads of the container (pids) or of the user (ulimit -u),"
    " or lower `max_io_bound` and `max_websockets`.",
)

WEBSOCKET_REFUSED: Final = Message(
    "PEN-6170",
    WARNING,
    "a WebSocket was refused with 503 (setting: max_websockets): %(reason)s",
    "The application wanted to take the socket of a WebSocket handshake. The worker has as many"
    " WebSockets as it may have, or the system has no socket or thread for another one.",
    "Raise `max_websockets`, or have more workers. Each WebSocket has a thread of its own.",
)

SIGNAL_WITHOUT_MEANING: Final = Message(
    "PEN-6210",
    WARNING,
    "%(signal)s was ignored: it has no meaning without a supervisor",
    "The signal reloads, scales or upgrades the workers of a supervisor, and this process serves"
    " without one.",
    "Start the server with a supervisor to use the signal, or restart it.",
)

REQUESTS_CUT_OFF: Final = Message(
    "PEN-6220",
    WARNING,
    "requests in progress are cut off: %(requests)d (%(reason)s)",
    "The worker stops and these requests did not end in time. Clients to which nothing was sent get"
    " 504; other responses end incomplete.",
    "Raise `graceful_timeout`, or make the requests shorter. After a second signal, or a request to"
    " stop at once, this is what was asked for.",
)

SUPERVISOR_GONE: Final = Message(
    "PEN-6230",
    WARNING,
    "the supervisor has gone; the worker finishes the requests in progress and exits",
    "The supervisor was killed, so nothing would restart or stop this worker.",
    "Start the server again, and let a process manager such as systemd do that. The kernel's log"
    " says if it was killed for its memory.",
)

SIGTERM_HANDLER_FAILED: Final = Message(
    "PEN-6240",
    WARNING,
    "the application's own SIGTERM handler failed while the worker stops",
    "The application has set a handler for SIGTERM. The worker ran it when it began to stop, and it"
    " raised the exception that follows. The worker stops all the same.",
    "Correct the handler.",
)

DEADLINES_DEFECT: Final = Message(
    "PEN-6900",
    CRITICAL,
    "the thread that watches deadlines met an internal error and goes on",
    "A defect of the server, or memory ran out at a bad place. The traceback follows.",
    "Report the traceback as a bug of Penstock.",
)

SERVING_THREAD_DEFECT: Final = Message(
    "PEN-6910",
    CRITICAL,
    "a serving thread met an internal error and goes on",
    "A defect of the server, memory ran out at a bad place, or a signal handler of the application"
    " raised an exception between two requests. The traceback follows. The request that the thread"
    " had may be lost; the thread takes the next one.",
    "Where the traceback ends in a signal handler of the application, cancel the timer or alarm"
    " before the view returns. Where it says MemoryError, give the worker more memory or fewer"
    " threads. Otherwise report it as a bug of Penstock.",
)

# -- 7: the supervisor --------------------------------------------------------------------------

WORKER_LOST_REQUESTS: Final = Message(
    "PEN-7010",
    WARNING,
    "%(worker)s %(how)s while it was draining (%(because)s)%(details)s",
    "A worker that was ordered to leave did not end by itself, or requests ended with it. The"
    " lines below name the requests.",
    "Find out why these requests take longer than graceful_timeout, or raise it.",
)

WORKER_CRASHED: Final = Message(
    "PEN-7020",
    ERROR,
    "%(worker)s %(how)s%(details)s",
    "A worker has ended otherwise than by a stop: by a signal, by an exit of its own, or killed by"
    " the supervisor because it hung. The line says which. The lines below it name the requests"
    " that ended with the worker, and the last ones before them. Those in progress are in the"
    " access log with status 502, or 504 where the client got that. Another worker starts in its"
    " place.",
    "By SIGSEGV, SIGABRT or SIGBUS: look for a fault of native code in an extension. PEN-7021"
    " follows with the stacks where they are known. By SIGKILL: look whether memory ran out, in the"
    " container or on the machine. Killed by the supervisor: find the call that hangs in the"
    " stacks. With an exit status: look for `os._exit`, or for a fault of the application.",
)

WORKER_STACKS: Final = Message(
    "PEN-7021",
    ERROR,
    "%(worker)s was doing this when it ended:\n%(stacks)s",
    "The Python stacks of a worker that crashed or was killed, as faulthandler has written them.",
    "Look for the call that is at the top of the stack of the thread in question.",
)

CHANNEL_BROKEN: Final = Message(
    "PEN-7022",
    ERROR,
    "%(worker)s is replaced: %(because)s",
    "The worker has written to its channel what no worker sends. Only code of the application can"
    " do that. The worker finishes its requests, and another one starts in its place.",
    "Find the code that writes to descriptors that it has not opened.",
)

WORKER_LEFT_CHILDREN: Final = Message(
    "PEN-7023",
    WARNING,
    "%(worker)s leaves processes behind: %(children)s",
    "The application has started these processes in the worker, and they go on after its end. They"
    " hold memory, and whatever else they have taken over, for as long as they run.",
    "End them in the application: by an atexit function, the hook worker_exit, or daemon=True of"
    " multiprocessing. Work that must outlive a worker belongs in a task queue. To end those that"
    " are there now, kill the process ids of the message.",
)

COUNTS_LEFT_OUT: Final = Message(
    "PEN-7024",
    ERROR,
    "what %(worker)s has counted is left out of the totals, because it is impossible: %(what)s"
    " (logged once)",
    "The worker has ended, and shared memory has a number for it that no worker can count in its"
    " time. Only code of the application, or a defect of native code, can have written that. The"
    " metrics lack the requests of this worker: their totals fall by as much.",
    "Find out what has written to the worker's memory. If it may be hostile code, treat the"
    " application's user as compromised.",
)

CRASH_LOOP: Final = Message(
    "PEN-7030",
    CRITICAL,
    "workers end soon after their start, again and again: the next one is started in %(pause)g s;"
    " %(serving)d of %(wanted)d serve",
    "Several workers in a row have ended within a second. The pauses between two starts double up"
    " to half a minute.",
    "Look at the reasons in PEN-7020 above, and correct the application or its environment.",
)

WORKER_NOT_STARTED: Final = Message(
    "PEN-7040",
    ERROR,
    "cannot start a worker: %(reason)s",
    "The system refused another process, descriptor or slot. It is tried again after a pause.",
    "Act on the reason: raise the limit on processes or open files (ulimit), or free memory. Where"
    " there is no slot, many workers are still leaving.",
)

WORKER_NOT_BOOTED: Final = Message(
    "PEN-7050",
    ERROR,
    "%(worker)s could not start: %(reason)s; the next attempt is in %(pause)g s%(traceback)s",
    "A worker of code that has served before could not load the application, or not in time.",
    "Act on the reason; the traceback is below. Where code was changed, correct it and reload.",
)

APPLICATION_NOT_PRELOADED: Final = Message(
    "PEN-7051",
    ERROR,
    "the application is preloaded again in %(pause)g s, because %(reason)s%(traceback)s",
    "The process that preloads the application has ended or could not load it (setting: preload)."
    " Workers that run go on; no other can start until it is there again.",
    "Act on the reason; the traceback is below.",
)

WAITING_FOR_CHANGE: Final = Message(
    "PEN-7052",
    ERROR,
    "%(worker)s could not start: %(reason)s; %(until)s%(traceback)s",
    "With --reload, the application could not be loaded at the first start. The server is tried"
    " again when a file of the application changes.",
    "Correct the code, and save the file.",
)

WORKER_BOOTS_SLOWLY: Final = Message(
    "PEN-7053",
    WARNING,
    "%(worker)s is still loading the application after %(seconds)g s, half of boot_timeout:"
    "\n%(stacks)s",
    "The import of the application takes long, or hangs: it waits for a database, say, or it starts"
    " a server of its own. At the end of boot_timeout the worker is killed.",
    "Look at the last call of the stack. A module that calls `app.run()` does so under"
    ' `if __name__ == "__main__":` alone. Raise `boot_timeout` where the import needs the time.',
)

PRELOAD_HAZARD: Final = Message(
    "PEN-7060",
    WARNING,
    "preload: %(hazard)s; make it in the worker instead, after the fork",
    "The application has made something while it was imported that a fork does not copy, or that"
    " processes must not share.",
    "Make it in the gunicorn hook post_fork, or on the first request. For a thread or a"
    " connection of an agent that makes it anew in each worker, as those of OpenTelemetry and"
    " Elastic do, nothing has to be done.",
)

PRELOAD_UNAVAILABLE: Final = Message(
    "PEN-7061",
    WARNING,
    "preload has no effect: this system has no PR_SET_CHILD_SUBREAPER; each worker loads the"
    " application itself",
    "preload needs Linux (PR_SET_CHILD_SUBREAPER).",
    "Nothing has to be done; workers use more memory than with preload.",
)

MEMORY_FROM_THE_START: Final = Message(
    "PEN-7070",
    WARNING,
    "%(worker)s has %(size)s of memory from the start, and is not replaced for that: raise"
    " max_memory, which comes to %(limit)s",
    "The worker was larger than max_memory before its first request. Its successor would be as"
    " large, so it is not replaced for its size.",
    "Raise max_memory well above the size of a fresh worker.",
)

LIVE_GAUGES_NOT_REMOVED: Final = Message(
    "PEN-7075",
    WARNING,
    "gauges of a worker that has ended may still count: %(error)s (setting: prometheus_multiproc,"
    " %(directory)s)",
    "A worker has ended. Files of the application's gauges of the modes live... could not be"
    " removed, so that `/metrics` of the application still has their last values. They are removed"
    " when another worker ends, or takes the slot.",
    "Correct what the error names: the directory has to be there, and to be writable by the user of"
    " the workers.",
)

WORKER_SILENT: Final = Message(
    "PEN-7080",
    WARNING,
    "%(worker)s has had no heartbeat for %(seconds)g s: native code keeps the interpreter lock"
    "%(requests)s\n%(stacks)s",
    "Half of timeout has passed, and no thread of the worker could run Python code. No request of"
    " the worker makes progress meanwhile. At the end of timeout and timeout_grace it is killed and"
    " replaced.",
    "Look for the call of native code in the stacks. It should release the lock while it computes"
    " or waits.",
)

WORKER_HALTED: Final = Message(
    "PEN-7081",
    WARNING,
    "%(worker)s is halted: it makes no progress until kill -CONT %(pid)d",
    "A signal such as SIGSTOP, or a debugger, has halted the process. Its clients wait. It is not"
    " killed for that.",
    "Let it go on with `kill -CONT`, or end it with `kill -KILL`: another one takes its place.",
)

RELOAD_FAILED: Final = Message(
    "PEN-7100",
    ERROR,
    "%(message)s%(traceback)s",
    "A reload did not succeed: the new settings, or a worker with the new code, failed. The old"
    " workers go on with the old settings and code.",
    "Act on the reason; the traceback is below. Then reload again.",
)

SUPERVISOR_LOG_NOT_RENEWED: Final = Message(
    "PEN-7110",
    ERROR,
    "the supervisor goes on with its old log: %(error)s (settings: error_logfile, log_level)",
    "A reload changed where the error log goes. The workers use the new place; the supervisor could"
    " not open it.",
    "Correct what the error names, then reload again.",
)

SETTING_NEEDS_UPGRADE: Final = Message(
    "PEN-7120",
    WARNING,
    "%(setting)s has changed; that takes an upgrade (SIGUSR2)",
    "A reload has read another value of a setting that belongs to the supervisor itself.",
    "Upgrade (SIGUSR2, penstockctl upgrade), or restart the server.",
)

UPGRADE_FAILED: Final = Message(
    "PEN-7200",
    ERROR,
    "%(message)s",
    "The new supervisor of an upgrade has ended or was not ready in time. This one goes on, and no"
    " request is lost.",
    "Act on the reason; messages of the new supervisor are in the log above.",
)

SUCCESSOR_NOT_STARTED: Final = Message(
    "PEN-7201",
    ERROR,
    "cannot start the new supervisor: %(reason)s",
    "The process of an upgrade could not run the command again.",
    "Act on the reason: the interpreter or the directory of the first start may have been removed.",
)

PID_FILE_NOT_MOVED: Final = Message(
    "PEN-7210",
    ERROR,
    "the pid file keeps its second name after the upgrade: %(error)s",
    "The new supervisor could not take the pid file's own name when the old one had ended.",
    "Act on the error; the process id is in the file that ends in .2.",
)

PID_FILE_OF_USER: Final = Message(
    "PEN-7211",
    WARNING,
    "the pid file %(path)s belongs to user %(user)d, because others than root can change its"
    " directory",
    "The server was started as root with `--user`. Another user can write any process id to the"
    " file, so that a script of root's signals a process of that user's choice.",
    "Put the pid file into a directory of root's, such as /run, or let the service manager keep the"
    " process id.",
)

COMMAND_REFUSED: Final = Message(
    "PEN-7300",
    ERROR,
    "%(command)s is refused: %(reason)s",
    "A signal asked for something that cannot be done in the state that the server is in.",
    "Send it again when the server serves; penstockctl status shows the state.",
)

SUPERVISOR_DEFECT: Final = Message(
    "PEN-7900",
    CRITICAL,
    "internal error in the supervisor",
    "A defect of Penstock. The supervisor goes on, and the workers serve.",
    "Report it, with the traceback.",
)

# -- 8: control -----------------------------------------------------------------------------------

CONTROL_REFUSED: Final = Message(
    "PEN-8010",
    WARNING,
    "control: refused process %(pid)d of user %(user)d: only %(allowed)s may ask",
    "A process that may not use the control socket has connected to it. It is logged once a"
    " minute for each user. Process 0 is one of another container. The user id 65534 (the kernel's"
    " overflow uid) can be any user of another user namespace.",
    "Run penstockctl as the server's user or as root, in the server's own container; else find"
    " out what that process does.",
)

CONTROL_NOT_OPENED: Final = Message(
    "PEN-8020",
    WARNING,
    "no control socket: %(reason)s (see --control, and RuntimeDirectory= of systemd)",
    "The socket of control = auto could not be made in any of its directories, for example"
    " because the root file system is read-only. The server serves; penstockctl does not reach it.",
    "Set RuntimeDirectory=penstock in the systemd unit, mount a writable /run or /tmp, or set"
    " control to a path in a writable directory of the server's user. Without a wish for control,"
    " set it to off.",
)

CONTROL_DIRECTORY_NOT_PRIVATE: Final = Message(
    "PEN-8025",
    WARNING,
    "control: a directory was not used: %(reason)s; the socket is %(address)s",
    "A directory for the control socket belongs to another user, is a symbolic link, or lets"
    " other users in. Another user may have made it to keep the socket away, or to take its place."
    " The server uses the next of its directories.",
    "Find out who made the directory, and remove it; or name another place with --control.",
)

CONTROL_SOCKET_REPLACEABLE: Final = Message(
    "PEN-8026",
    WARNING,
    "penstockctl will refuse the control socket %(address)s: %(reason)s",
    "In the directory of the control socket, another user can put a socket in its place, and would"
    " get the commands that are meant for the server. penstockctl refuses such a socket.",
    "Name a directory with --control that belongs to the server's user or to root, and in which no"
    " other user can write (`chmod go-w`), or one with the sticky bit, as `/tmp` has it.",
)

CONTROL_NOT_FOLLOWED: Final = Message(
    "PEN-8030",
    ERROR,
    "%(setting)s stays as it was: %(error)s",
    "A reload has changed an address of the control server that cannot be used.",
    "Correct the address, then reload again.",
)

CONTROL_OUT_OF_FILES: Final = Message(
    "PEN-8040",
    WARNING,
    "cannot accept connections on %(address)s for now: %(error)s",
    "The supervisor has no descriptor for another connection to the control server. It tries again"
    " twice a second.",
    "Raise the limit on open files (ulimit -n).",
)

STATSD_NOT_FOUND: Final = Message(
    "PEN-8050",
    WARNING,
    "nothing is sent to the statsd server %(address)s for now: %(error)s (setting: statsd)",
    "The host is not known, or the socket does not exist. The supervisor tries again once a minute,"
    " and logs another reason only.",
    "Correct the setting statsd, or start the server. Requests are served as before.",
)

CONTROL_DEFECT: Final = Message(
    "PEN-8900",
    ERROR,
    "internal error in the control server on %(address)s",
    "A defect of Penstock. The request was answered with 500, or its connection was closed.",
    "Report it, with the traceback.",
)

MESSAGES: Final = {
    name: value for name, value in list(globals().items()) if isinstance(value, Message)
}
"""Every message by its name in this module, in the order of the declarations."""
