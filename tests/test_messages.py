"""Messages of level WARNING and above have stable ids, a meaning, a remedy and a page."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from penstock import messages
from penstock.messages import MESSAGES, Message
from penstock.telemetry.messages_page import messages_page

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "penstock"
NATIVE = ROOT / "native"

DIRECT_CALLS = {"warn", "warning", "error", "exception", "critical", "fatal"}
WITH_ARGUMENTS = {"log", "notice", "render"}
ARGUMENT = re.compile(r"%\((\w+)\)")
RUST_CALL = re.compile(r"\bmessage\(\s*\"(\w+)\",\s*\[(.*?)\],?\s*\)", re.DOTALL)
RUST_ARGUMENT = re.compile(r"\(\s*\"(\w+)\",")

TREES = {
    path.relative_to(SOURCE).as_posix(): ast.parse(path.read_text("utf-8"))
    for path in sorted(SOURCE.rglob("*.py"))
}


def calls() -> Iterator[tuple[str, ast.Call, ast.Attribute]]:
    """Yield each call of a method in the source: the file, the call, and the method."""
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                yield file, node, node.func


def message_named(node: ast.expr) -> str | None:
    """Return the name of the message that an expression like ``messages.NAME`` stands for."""
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)
    is_constant = isinstance(name, str) and name.isupper()
    from_module = isinstance(node, ast.Attribute) and ast.unparse(node.value) == "messages"
    return name if is_constant and (from_module or name in MESSAGES) else None


def rust_calls() -> Iterator[tuple[str, str, set[str]]]:
    """Yield each message that native code logs: the file, its name, and its arguments."""
    for path in sorted(NATIVE.glob("*/src/**/*.rs")):
        for name, given in RUST_CALL.findall(path.read_text("utf-8")):
            yield path.relative_to(ROOT).as_posix(), name, set(RUST_ARGUMENT.findall(given))


def test_each_id_is_used_once_and_belongs_to_a_part() -> None:
    ids = [message.id for message in MESSAGES.values()]
    assert len(set(ids)) == len(ids)
    assert [each for each in ids if not re.fullmatch(r"PEN-[1-8]\d{3}", each)] == []


def test_the_declarations_are_in_the_order_of_their_ids() -> None:
    ids = [message.id for message in MESSAGES.values()]
    assert ids == sorted(ids)


def test_the_levels_are_those_of_logging() -> None:
    levels = (messages.WARNING, messages.ERROR, messages.CRITICAL)
    assert levels == (logging.WARNING, logging.ERROR, logging.CRITICAL)


def test_each_message_is_a_warning_or_worse_and_says_what_to_do() -> None:
    wanting = [
        message.id
        for message in MESSAGES.values()
        if message.level < logging.WARNING
        or not message.meaning.endswith(".")
        or not message.remedy.endswith(".")
        or message.text.endswith((".", "\n"))
    ]
    assert wanting == []


def test_messages_without_an_id_are_logged_only_below_warning() -> None:
    offenders = [
        f"{file}:{call.lineno}: {ast.unparse(call)[:80]}"
        for file, call, method in calls()
        if (method.attr in DIRECT_CALLS and call.args and ast.unparse(method.value) != "parser")
        or (method.attr == "log" and ast.unparse(method.value).endswith("logger"))
        if file != "messages.py"
    ]
    assert offenders == []


def test_each_call_gives_the_arguments_that_the_text_has() -> None:
    wrong = []
    for file, call, method in calls():
        name = message_named(method.value)
        if name is None or method.attr not in WITH_ARGUMENTS or file == "messages.py":
            continue
        given = {keyword.arg for keyword in call.keywords} - {"exc_info"}
        if name not in MESSAGES or given != set(ARGUMENT.findall(MESSAGES[name].text)):
            wrong.append(f"{file}:{call.lineno}: {name} {sorted(map(str, given))}")
    for path, name, given_in_rust in rust_calls():
        if name not in MESSAGES or given_in_rust != set(ARGUMENT.findall(MESSAGES[name].text)):
            wrong.append(f"{path}: {name} {sorted(given_in_rust)}")
    assert wrong == []


def test_each_message_is_logged_somewhere() -> None:
    used = {name for _, name, _ in rust_calls()}
    for file, tree in TREES.items():
        if file != "messages.py":
            used |= {
                name
                for node in ast.walk(tree)
                if isinstance(node, ast.expr) and (name := message_named(node))
            }
    assert sorted(set(MESSAGES) - used) == []


def test_the_page_of_messages_is_made_from_the_declarations() -> None:
    page = ROOT / "docs" / "messages.md"
    assert page.read_text("utf-8") == messages_page(), "run `make docs`"


def record_of(message: Message, **arguments: object) -> logging.LogRecord:
    records: list[logging.LogRecord] = []
    logger = logging.Logger("test")
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[assignment, method-assign]
    logger.addHandler(handler)
    message.log(logger, **arguments)
    (record,) = records
    return record


def test_a_record_has_the_id_the_arguments_and_the_place_of_the_call() -> None:
    record = record_of(messages.ACCESS_LOG_LINES_LOST_IN_ALL, lines=3)
    assert record.getMessage() == (
        "PEN-5011 the access log has lost lines: 3 in all (setting: access_logfile)"
    )
    assert record.levelno == logging.WARNING
    assert record.__dict__["message_id"] == "PEN-5011"
    assert record.args == {"lines": 3}
    assert record.funcName == "record_of"


def test_a_notice_is_the_text_until_it_is_logged_with_its_id() -> None:
    notice = messages.LINES_NOT_WRITTEN.notice(lines=2)
    assert str(notice) == "log lines could not be written here: 2"
    assert messages.LINES_NOT_WRITTEN.render(lines=2) == f"PEN-5020 {notice}"
