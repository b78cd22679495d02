"""An application in Flask, watched by the agent that ``AGENT`` names, as the agent's manual says.

Agents that the command line starts need nothing here.
"""

from __future__ import annotations

import os

import flask

AGENT = os.environ["AGENT"]

if AGENT == "sentry":
    import sentry_sdk

    sentry_sdk.init(os.environ["SENTRY_DSN"], traces_sample_rate=1.0)

app = flask.Flask(__name__)

if AGENT == "elastic":
    from elasticapm.contrib.flask import ElasticAPM

    ElasticAPM(app)


@app.get("/marks/<mark>")
def answer(mark: str) -> str:
    return str(os.getpid())
