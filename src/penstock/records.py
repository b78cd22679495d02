"""``dataclass`` as the standard library has it, for classes that cost little until they are used.

The standard library compiles up to six functions for each class: 8 kB, and a third of the time that
it takes to import the server, which has a hundred such classes. Here the classes share all of them
but ``__init__``, and that is compiled when the first object is made: most processes make objects of
half of the classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any

__all__ = ["compile_now", "dataclass"]


def _dataclass(
    cls: type | None = None,
    /,
    *,
    frozen: bool = False,
    eq: bool = True,
    repr: bool = True,
    slots: bool = False,
    kw_only: bool = False,
) -> Any:
    """Make a dataclass. The arguments mean what they mean to `dataclasses.dataclass`."""

    def made(cls: type) -> type:
        own = cls.__dict__
        # A class that defines __eq__ alone has None here.
        hashes = own.get("__hash__") is not None
        made: Any = dataclasses.dataclass(
            cls, init=False, eq=False, repr=False, slots=slots, kw_only=kw_only
        )
        if repr and "__repr__" not in own:
            made.__repr__ = _shown
        if eq:
            if "__eq__" not in own:
                made.__eq__ = _equals
            if not hashes:
                made.__hash__ = _hash if frozen else None
        if frozen:
            made.__setattr__ = _refuse_assignment
            made.__delattr__ = _refuse_deletion
            if slots:
                made.__getstate__, made.__setstate__ = _state, _set_state

        def compile_init() -> None:
            made.__init__ = _compiled_init(made, frozen, slots)

        def __init__(self: object, *values: object, **named: object) -> None:
            compile_init()
            made.__init__(self, *values, **named)

        made.__init__ = __init__
        _uncompiled[made] = compile_init
        return made  # type: ignore[no-any-return]

    return made if cls is None else made(cls)


if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    dataclass = _dataclass


_uncompiled: dict[type, Callable[[], None]] = {}
"""Compiles ``__init__`` of a class, where no object was made yet."""


def compile_now(*classes: type) -> None:
    """Compile what the first object of a class would compile.

    A process does so before it forks others: they share the function, and the memory that the
    compiler takes is not theirs.
    """
    for cls in classes:
        if (compile_init := _uncompiled.get(cls)) is not None:
            compile_init()


def _compiled_init(cls: Any, frozen: bool, slots: bool) -> Any:
    """Return the ``__init__`` of a class."""
    _uncompiled.pop(cls, None)  # two threads may both compile it
    known: dict[str, object] = {"_missing": dataclasses.MISSING, "_set": object.__setattr__}
    positional: list[str] = ["self"]
    named: list[str] = []
    body: list[str] = []
    for field in dataclasses.fields(cls):
        name, value = field.name, field.name
        parameter = name
        if field.default is not dataclasses.MISSING:
            known[f"_default_{name}"] = field.default
            parameter = f"{name}=_default_{name}"
            if not field.init and not slots:
                continue  # the class has it
            value = name if field.init else f"_default_{name}"
        elif field.default_factory is not dataclasses.MISSING:
            known[f"_make_{name}"] = field.default_factory
            parameter = f"{name}=_missing"
            value = f"_make_{name}()"
            if field.init:
                value += f" if {name} is _missing else {name}"
        elif not field.init:
            continue  # __post_init__ sets it
        if field.init:
            (named if field.kw_only else positional).append(parameter)
        body.append(f"_set(self, {name!r}, {value})" if frozen else f"self.{name} = {value}")
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    parameters = ", ".join([*positional, *(["*", *named] if named else [])])
    lines = "".join(f"\n    {line}" for line in body or ["pass"])
    exec(f"def __init__({parameters}):{lines}", known)
    function: Any = known["__init__"]
    function.__qualname__ = f"{cls.__qualname__}.__init__"
    return function


def _compared(value: Any) -> tuple[object, ...]:
    return tuple(getattr(value, field.name) for field in dataclasses.fields(value) if field.compare)


def _equals(self: object, other: object) -> object:
    if other.__class__ is not self.__class__:
        return NotImplemented
    return _compared(self) == _compared(other)


def _hash(self: object) -> int:
    return hash(_compared(self))


@recursive_repr()
def _shown(self: Any) -> str:
    shown = ", ".join(
        f"{field.name}={getattr(self, field.name)!r}"
        for field in dataclasses.fields(self)
        if field.repr
    )
    return f"{self.__class__.__qualname__}({shown})"


def _refuse_assignment(self: object, name: str, value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_deletion(self: object, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _state(self: Any) -> list[object]:
    return [getattr(self, field.name) for field in dataclasses.fields(self)]


def _set_state(self: Any, state: list[object]) -> None:
    for field, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, field.name, value)
