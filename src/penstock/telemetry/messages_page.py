"""The page of all messages, docs/messages.md, made from their declarations."""

from __future__ import annotations

import logging
import re

from penstock.messages import MESSAGES, Message

_INTRODUCTION = """\
# Messages

Each message of level WARNING, ERROR or CRITICAL that the server logs has an id, such as
`PEN-6010`. The id stays the same when the text is reworded, so search and alert for the id. In a
log record it is also the attribute `message_id`, and the arguments of the text are the record's
`args`.

This page is made from the declarations in `src/penstock/messages.py` by
`python -m penstock.telemetry.messages_page`; change them, and not this page. Words in *italics*
stand for what a message names at that place.
"""

_PARTS = {
    "1": "Settings and start-up",
    "2": "Listeners and connections",
    "3": "The application",
    "4": "The edge",
    "5": "Logs",
    "6": "The worker",
    "7": "The supervisor",
    "8": "Control",
}

_ARGUMENT = re.compile(r"%\((\w+)\)[-+ #0]*\d*(?:\.\d+)?[a-z]")


def messages_page() -> str:
    """Return the page, in Markdown."""
    pieces = [_INTRODUCTION]
    part = ""
    for message in sorted(MESSAGES.values(), key=lambda message: message.id):
        number = message.id.removeprefix("PEN-")
        if number[0] != part:
            part = number[0]
            pieces.append(f"\n## {_PARTS[part]}\n")
        pieces.append(_entry(message))
    return "".join(pieces)


def _entry(message: Message) -> str:
    text = _ARGUMENT.sub(lambda found: f"*{found[1]}*", message.text.replace("*", "\\*"))
    level = logging.getLevelName(message.level)
    return (
        f"\n### {message.id}\n\n{level}: {text}\n\n{message.meaning}\n\n"
        f"What to do: {message.remedy}\n"
    )


if __name__ == "__main__":
    print(messages_page(), end="")
