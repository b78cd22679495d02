"""What the pages of both frameworks show: a list as a shop has it, some 20 KiB of HTML."""

from __future__ import annotations

SECRET = "these applications keep no secrets"
ROWS = [
    {"number": number, "name": f"Article {number} & more", "price": number * 3.25, "sale": False}
    for number in range(1, 41)
]

_HEAD = """<!doctype html>
<html><head><title>Articles</title><link rel="stylesheet" href="/static/shop.css"></head>
<body><h1>Articles</h1><p>Visit number {{ visits }}</p><table>
"""
_ROW = """<tr{% if row.sale %} class="sale"{% endif %}><td>{{ row.number }}</td>
<td><a href="/articles/{{ row.number }}">{{ row.name|upper }}</a></td><td>PRICE</td>
<td>In stock; sent within two days, and taken back within thirty.</td>
<td><p>What comes with it is listed on the page of the article, with photographs of each part, its
weight and its measures. Questions are answered by telephone on weekdays, and by letter at any time;
the answer to most of them is on the page already, with drawings where words would not do. Spare
parts are kept.</p></td></tr>
"""
_FOOT = "</table></body></html>\n"


def _template(price: str) -> str:
    rows = "{% for row in rows %}" + _ROW.replace("PRICE", price) + "{% endfor %}"
    return _HEAD + rows + _FOOT


FLASK_TEMPLATE = _template('{{ "%.2f"|format(row.price) }}')
DJANGO_TEMPLATE = _template("{{ row.price|floatformat:2 }}")
