"""A Flask application.

Serve it with `penstock flaskapp:app`, and see http://127.0.0.1:8000/ and /hello.
"""

from flask import Flask, Response

flask_app = Flask("flaskapp")


@flask_app.route("/")
def start():
    return Response("Penstock serves this. See /hello, too.\n", mimetype="text/plain")


@flask_app.route("/hello")
def hello_world():
    return Response("Hello world from Flask!\n", mimetype="text/plain")


app = flask_app.wsgi_app
