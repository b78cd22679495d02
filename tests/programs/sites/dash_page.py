"""A Dash application: what is typed comes back from the server, with a graph."""

from __future__ import annotations

import dash
from dash import Input, Output, dcc, html

_dash = dash.Dash(__name__)
_dash.layout = html.Div(
    [
        dcc.Input(id="typed", value=""),
        html.P(id="told"),
        dcc.Graph(id="graph"),
        dcc.Interval(id="clock", interval=100),
        html.P(id="ticks"),
    ]
)


@_dash.callback(Output("told", "children"), Output("graph", "figure"), Input("typed", "value"))
def tell(value: str) -> tuple[str, object]:
    bars = {"data": [{"type": "bar", "y": list(range(len(value) + 1))}]}
    return value[::-1], bars


@_dash.callback(Output("ticks", "children"), Input("clock", "n_intervals"))
def tick(count: int | None) -> str:
    return str(count)


# Dash sets itself up during its first request, and has no lock there: another request at the same
# time finds it half set up. So the first one is made here.
_dash.server.test_client().get("/")

app = _dash.server
