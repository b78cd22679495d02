"""A Flask application, as small as it gets."""

from __future__ import annotations

from flask import Flask, Response

app = Flask("applications_flask")


@app.route("/hello")
def hello() -> Response:
    return Response("Hello, world!\n", mimetype="text/plain")
