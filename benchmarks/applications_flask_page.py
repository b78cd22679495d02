"""A Flask application: a page as a site has it."""

from __future__ import annotations

from flask import Flask, render_template, session
from jinja2 import DictLoader

from applications_page import FLASK_TEMPLATE, ROWS, SECRET

app = Flask("applications_flask_page")
app.secret_key = SECRET
app.jinja_loader = DictLoader({"page.html": FLASK_TEMPLATE})


@app.route("/hello")
@app.route("/page")
def page() -> str:
    """Count the visit in the session, which is a signed cookie, and render a template."""
    session["visits"] = session.get("visits", 0) + 1
    return render_template("page.html", rows=ROWS, visits=session["visits"])
