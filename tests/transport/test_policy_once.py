"""Policy is written once: no named number stands in Python and in Rust, nor twice by its value.

What both transports need is a field of `TransportConfig`, which Rust reads. What one of them alone
needs is a constant of that one. This looks at the source, so that it runs without native code.
"""

from __future__ import annotations

import ast
import operator
import re
from dataclasses import fields
from pathlib import Path

import pytest

from penstock.http1 import ParserLimits
from penstock.transport.config import TransportConfig

ROOT = Path(__file__).parents[2]
PYTHON_ROOMS = ("transport", "http1", "wsgi", "edge", "telemetry")
UNITS = ("_SECONDS", "_BYTES", "_NANOSECONDS", "_NS")

# What Rust has for itself, though a number of the policy happens to be the same.
COINCIDENCES = {
    "COALESCED_BYTES": "how output is kept in memory",
    "EVICTION_RANK": "what sets kinds of connections apart, and no time",
    "FILE_BLOCK": "how a file is read where there is no sendfile",
    "ATTACHED_TIME": "how long native code keeps the interpreter lock in a row",
    "BATCH_BYTES": "how much is encrypted at once",
    "HEAVY_BYTES": "whether an answer is worth a turn of its own",
    "MAX_BYTES": "what a field cache remembers",
    "MOST_KEPT": "when a buffer is freed",
    "READS_PER_CALL": "how often a TLS stream asks the kernel for more",
    "SECTIONS": "how many field sections the field cache has",
    "TICK": "how often the stall monitor looks",
}
# Written out in both, where a test compares them: the constants of the parsers (with those in the
# exported corpus), and the pure functions of `decisions` (`test_decisions`).
HELD_TOGETHER = {"MAX_METHOD", "CHUNK_SIZE_DIGITS", "ALL_SLOW", "EVICTION_RANK", "MEAN_SHIFT"}
# The table of rates, whose words `test_rate_limit` compares.
HELD_TOGETHER |= {"IPV4", "ROW_WORDS", "TICK_BITS", "TIME_BITS", "TIME", "WORD"}
# The queue that is shared by client, whose order `test_fair_queue` compares.
HELD_TOGETHER |= {"ITEM_COST", "MOST_AHEAD", "REMEMBERED", "NO_ADDRESS"}
# What the specification of the PROXY protocol says, of which `test_proxy_protocol` has the bounds.
HELD_TOGETHER |= {"LONGEST_LINE", "FIXED"}
# The same of the uwsgi protocol, and of `edge/test_uwsgi`.
HELD_TOGETHER |= {"HEADER"}
# A value below this is too common to mean anything.
DISTINCTIVE = 32
# The layout of memory that both write is compared by `test_native`.
SHARED_LAYOUT = ("scoreboard.py", "scoreboard.rs")

_OPERATORS = {
    ast.Mult: operator.mul,
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.LShift: operator.lshift,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
_RUST_NAMES = {"SECOND": 1.0, "MILLISECOND": 0.001}


def _number(node: ast.expr, names: dict[str, float]) -> float | None:
    """Return what an expression of numbers comes to; None for any other expression."""
    if isinstance(node, ast.Constant):
        return float(node.value) if isinstance(node.value, int | float) else None
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _number(node.left, names), _number(node.right, names)
        if left is None or right is None:
            return None
        if isinstance(node.op, ast.LShift):
            return float(int(left) << int(right))
        return float(_OPERATORS[type(node.op)](left, right))
    return None


def python_constants() -> dict[str, float]:
    """Return the named numbers of the rooms that native code has a counterpart of."""
    found = {}
    for room in PYTHON_ROOMS:
        for path in (ROOT / "src/penstock" / room).rglob("*.py"):
            if path.name in SHARED_LAYOUT:
                continue
            for node in ast.parse(path.read_text()).body:
                if not isinstance(node, ast.AnnAssign | ast.Assign) or node.value is None:
                    continue
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                number = _number(node.value, {})
                for target in targets:
                    if isinstance(target, ast.Name) and number is not None:
                        found[target.id.lstrip("_")] = number
    return found


def rust_constants() -> dict[str, float]:
    """Return the named numbers of native code; times are in seconds."""
    found = {}
    pattern = re.compile(r"^ *(?:pub(?:\([a-z]+\))? )?const ([A-Z_]+): [^=]+= ([^;]+);", re.M)
    for path in (ROOT / "native").glob("*/src/**/*.rs"):
        if path.name in SHARED_LAYOUT or path.name == "portable.rs" or path.name == "linux.rs":
            continue
        for name, text in pattern.findall(path.read_text()):
            text = re.sub(r"(?<=\d)_(?=[\da-f])", "", text)
            text = re.sub(r"Duration::from_millis\((\d+)\)", r"\1 * MILLISECOND", text)
            try:
                number = _number(ast.parse(text, mode="eval").body, _RUST_NAMES)
            except SyntaxError:
                continue
            if number is not None and name not in _RUST_NAMES:
                found[name] = number
    return found


def configured() -> dict[str, float]:
    """Return the numbers of `TransportConfig` and of the parser's limits, under such names."""
    found = {}
    for holder in (TransportConfig(), ParserLimits()):
        for field in fields(holder):
            value = getattr(holder, field.name)
            if type(value) in (int, float):
                found[field.name.upper()] = float(value)
    return found


def bare(name: str) -> str:
    """Return a constant's name without its unit."""
    for unit in UNITS:
        name = name.removesuffix(unit)
    return name


def test_the_search_finds_constants_in_both_languages() -> None:
    assert len(python_constants()) > 10
    assert len(rust_constants()) > 10


def test_no_named_number_stands_in_both_languages() -> None:
    python = {bare(name) for name in python_constants()} | {bare(name) for name in configured()}
    both = python & {bare(name) for name in rust_constants()}
    assert both <= HELD_TOGETHER


def test_no_constant_of_python_repeats_a_field_of_the_config() -> None:
    assert not set(map(bare, python_constants())) & set(map(bare, configured()))


@pytest.mark.parametrize("name", sorted(rust_constants()))
def test_no_constant_of_rust_has_a_value_of_the_policy(name: str) -> None:
    value = rust_constants()[name]
    if name not in COINCIDENCES and (value >= DISTINCTIVE or value % 1):
        assert [known for known, number in configured().items() if number == value] == []


def unnamed_times() -> list[str]:
    """Return the places where code of a transport has a time or a share without a name."""
    found = []
    for path in (ROOT / "src/penstock/transport/python").glob("*.py"):
        for part in ast.walk(ast.parse(path.read_text())):
            if isinstance(part, ast.FunctionDef):
                for node in ast.walk(part):
                    value = node.value if isinstance(node, ast.Constant) else None
                    if isinstance(value, float) and 0 < value < 1:
                        found.append(f"{path.name}: {value}")
    for path in (ROOT / "native").glob("*/src/*.rs"):
        for line in path.read_text().partition("#[cfg(test)]\nmod ")[0].splitlines():
            if "const " not in line and re.search(r"\b\d+ \* (MILLI)?SECOND", line):
                found.append(f"{path.name}: {line.strip()}")
    return found


def test_no_time_stands_in_the_code_of_a_transport_without_a_name() -> None:
    assert unnamed_times() == []
