"""The forms in which penstockctl prints a profile."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from penstock import __version__

COLLAPSED, SPEEDSCOPE = "collapsed", "speedscope"

_SCHEMA = "https://www.speedscope.app/file-format-schema.json"


def collapsed(profile: Mapping[str, Any]) -> str:
    """Return a line for each stack, the outermost function first, and how often it was seen.

    ``flamegraph.pl``, inferno, speedscope and others read this.
    """
    frames = profile["frames"]
    lines = [
        f"{';'.join(frames[index] for index in stack)} {count}\n"
        for count, stack in profile["stacks"]
    ]
    return "".join(sorted(lines))


def speedscope(profile: Mapping[str, Any]) -> str:
    """Return the profile in the format of https://www.speedscope.app, as JSON."""
    seconds = 1 / profile["rate"]
    stacks = sorted(profile["stacks"], key=lambda each: each[1])
    name = f"worker {profile['worker']} (pid {profile['pid']})"
    weights = [round(count * seconds, 6) for count, _ in stacks]
    document = {
        "$schema": _SCHEMA,
        "exporter": f"penstock {__version__}",
        "name": name,
        "activeProfileIndex": 0,
        "shared": {"frames": [{"name": frame} for frame in profile["frames"]]},
        "profiles": [
            {
                "type": "sampled",
                "name": name,
                "unit": "seconds",
                "startValue": 0,
                "endValue": round(sum(weights), 6),
                "samples": [stack for _, stack in stacks],
                "weights": weights,
            }
        ],
    }
    return json.dumps(document) + "\n"


def summary(profile: Mapping[str, Any]) -> str:
    """Return one line about how the profile was made."""
    missed = f", {profile['late']} more came too late" if profile["late"] else ""
    # Threads without a request are left out, unless they are asked for.
    empty = "" if profile["stacks"] else "; no thread had a request (--idle shows the others)"
    return (
        f"{profile['samples']} samples in {profile['seconds']:.1f} s{missed}; "
        f"sampling took {profile['cost']:.3f} s of processor time{empty}"
    )
