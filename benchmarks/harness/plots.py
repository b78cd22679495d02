"""Pictures of the figures: bars, as SVG."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH = 720
LABELS = 190
NUMBERS = 90
"""Room at the left for what a bar stands for, and at the right for its number."""
BAR = 16
STEP = 24
TOP = 44
BOTTOM = 14

OURS = "#0b6e4f"
THEIRS = "#9aa5b1"
MARK = "#c2410c"
INK = "#1f2933"


@dataclass(frozen=True)
class Bar:
    """A bar, from zero to its value, with the least and the most of what it is the median of."""

    label: str
    value: float
    least: float
    most: float
    ours: bool


def bars(title: str, rows: Sequence[Bar], mark: float | None = None, digits: int = 0) -> str:
    """Return a picture of horizontal bars; `mark` is a value to draw a line at."""
    height = TOP + STEP * len(rows) + BOTTOM
    largest = max([row.most for row in rows] + ([mark] if mark else []), default=0.0) or 1.0
    scale = (WIDTH - LABELS - NUMBERS) / largest
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12" fill="{INK}">',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="10" y="24" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]
    for number, row in enumerate(rows):
        lines += _bar(row, TOP + STEP * number, scale, digits)
    if mark:
        x = LABELS + mark * scale
        lines.append(
            f'<line x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{height - BOTTOM + 4}" '
            f'stroke="{MARK}" stroke-dasharray="4 3"/>'
        )
    return "\n".join([*lines, "</svg>", ""])


def _bar(row: Bar, top: int, scale: float, digits: int) -> list[str]:
    middle = top + BAR / 2
    least, most = (LABELS + value * scale for value in (row.least, row.most))
    colour = OURS if row.ours else THEIRS
    weight = ' font-weight="bold"' if row.ours else ""
    return [
        f'<text x="{LABELS - 8}" y="{top + 12}" text-anchor="end"{weight}>'
        f"{escape(row.label)}</text>",
        f'<rect x="{LABELS}" y="{top}" width="{row.value * scale:.1f}" height="{BAR}" '
        f'fill="{colour}"/>',
        f'<line x1="{least:.1f}" y1="{middle}" x2="{most:.1f}" y2="{middle}" stroke="{INK}"/>',
        f'<text x="{most + 6:.1f}" y="{top + 12}"{weight}>{row.value:,.{digits}f}</text>',
    ]


POINTS = 320
"""Height of the field in which lines are drawn."""
STROKES = ("", "6 3", "2 3", "8 3 2 3", "1 5")
"""Dashes tell lines apart that have one colour."""


def lines(
    title: str,
    curves: Mapping[str, Sequence[tuple[float, float]]],
    ours: Collection[str],
    mark: float | None = None,
) -> str:
    """Return a picture of lines over equidistant positions, with a legend; ``mark`` is a level.

    All curves have to have the same positions.
    """
    places = [place for place, _ in next(iter(curves.values()))]
    values = [value for curve in curves.values() for _, value in curve]
    largest = max([*values, mark or 0.0]) * 1.05 or 1.0
    height = TOP + POINTS + 40
    left, right = 60, WIDTH - 170

    def x(number: int) -> float:
        return left + (right - left) * number / max(1, len(places) - 1)

    def y(value: float) -> float:
        return TOP + POINTS * (1 - value / largest)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12" fill="{INK}">',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="10" y="24" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]
    for step in range(5):
        value = largest * step / 4
        parts.append(
            f'<text x="{left - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:,.0f}</text>'
            f'<line x1="{left}" x2="{right}" y1="{y(value):.1f}" y2="{y(value):.1f}" '
            f'stroke="{THEIRS}" stroke-width="0.3"/>'
        )
    for number, place in enumerate(places):
        parts.append(
            f'<text x="{x(number):.1f}" y="{TOP + POINTS + 20}" text-anchor="middle">'
            f"{place:g}</text>"
        )
    if mark:
        parts.append(
            f'<line x1="{left}" x2="{right}" y1="{y(mark):.1f}" y2="{y(mark):.1f}" '
            f'stroke="{MARK}" stroke-dasharray="4 3"/>'
        )
    for number, (name, curve) in enumerate(curves.items()):
        colour = OURS if name in ours else THEIRS
        points = " ".join(
            f"{x(index):.1f},{y(value):.1f}" for index, (_, value) in enumerate(curve)
        )
        style = f'stroke="{colour}" stroke-width="2" stroke-dasharray="{STROKES[number % 5]}"'
        at = TOP + 18 * number
        parts += [
            f'<polyline points="{points}" fill="none" {style}/>',
            f'<line x1="{right + 16}" x2="{right + 46}" y1="{at}" y2="{at}" {style}/>',
            f'<text x="{right + 52}" y="{at + 4}">{escape(name)}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])
