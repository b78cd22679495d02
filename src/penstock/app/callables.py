"""What the signature of an object says: whether it is an application, or makes one."""

from __future__ import annotations

from inspect import Parameter, signature
from types import FunctionType
from typing import Any

DEFAULT_NAMES = ("application", "app")
"""The names to try, in this order, if the specification names only a module."""

FORMS = "module, module:callable, module:object.attribute or module:factory('argument', key=1)"


def binds(function: Any, count: int) -> bool | None:
    """Return True if a call with ``count`` positional arguments fits the signature.

    None where that is not known.
    """
    try:
        # The function that a decorator wraps may take other arguments, such as a request.
        parameters = signature(function, follow_wrapped=False)
    except Exception:  # there is no signature, or the application's __signature__ raises
        return None
    try:
        parameters.bind(*(None,) * count)
    except TypeError:
        return False
    except Exception:  # a class of signatures of the application's own
        return None
    return True


def is_factory_by_signature(found: Any) -> bool:
    """Return True for what fits PEP 3333 by chance: a call of it would return no response.

    A function of two parameters with defaults, of which neither has a name that an application
    gives it, is a factory such as ``create_app(config=None, testing=False)``. A class whose
    instances can be called and cannot be iterated over is not the application, but they are.
    """
    if isinstance(found, type):
        defined = {name for each in found.__mro__ for name in vars(each)}
        own = type(found).__call__ is type.__call__  # else a call may return anything
        iterable = not defined.isdisjoint(("__iter__", "__getitem__", "__getattr__"))
        return own and "__call__" in defined and not iterable and bool(binds(found, 0))
    if not isinstance(found, FunctionType):
        return False
    try:
        parameters = list(signature(found, follow_wrapped=False).parameters.values())
    except Exception:
        return False
    positional = [
        each
        for each in parameters
        if each.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    ]
    return (
        len(positional) >= 2
        and all(each.default is not Parameter.empty for each in positional)
        and not positional[0].name.startswith("e")
        and not positional[1].name.startswith("s")
    )
