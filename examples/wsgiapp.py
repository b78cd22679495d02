"""The smallest application there is: a callable, as PEP 3333 describes it.

Serve it with `penstock wsgiapp:app`, and see http://127.0.0.1:8000/hello.
"""


def app(environ, start_response):
    if environ["PATH_INFO"] != "/hello":
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"There is nothing here but /hello.\n"]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"Hello world from a simple WSGI application!\n"]
