"""The common pages in Flask."""

from __future__ import annotations

import flask

from frameworks.contents import PAGE, PAGE_ETAG, hang, stream, summary

site = flask.Flask(__name__)


@site.post("/upload")
def upload() -> str:
    file = flask.request.files["file"]
    return f"{flask.request.form['title']} {file.filename} {summary(file.read())}"


@site.route("/body", methods=["POST", "PUT"])
def body() -> str:
    return summary(flask.request.get_data())


@site.get("/stream")
def streamed() -> flask.Response:
    return flask.Response(stream(), mimetype="application/octet-stream")


@site.get("/page")
def page() -> flask.Response:
    response = flask.Response(PAGE, mimetype="text/plain")
    response.set_etag(PAGE_ETAG)
    response.make_conditional(flask.request)
    return response


@site.get("/hang")
def hanging() -> str:
    hang()
    return ""


@site.get("/cookies")
def cookies() -> flask.Response:
    seen = sorted(flask.request.cookies.items())
    response = flask.Response(str(seen), mimetype="text/plain")
    response.set_cookie("first", "1")
    response.set_cookie("second", "2", httponly=True)
    return response


app = site.wsgi_app
