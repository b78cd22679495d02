"""Modules in the place of gunicorn's, for a configuration file that imports some without having it.

Files name classes of gunicorn's as the base of their own, or as a value. None of these classes is
used here, so a class that does nothing but say what it is takes the place of each. The modules are
there while a file runs alone: the application sees whether gunicorn is installed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from penstock.config.gunicorn_settings import HOOKS

_PACKAGE = "gunicorn"
_WORDS = "is Penstock's stand-in for configuration files: gunicorn is not installed"
_PLACE = "Penstock's stand-in, because gunicorn is not installed"
_PACKAGES = {"gunicorn", "gunicorn.app", "gunicorn.workers", "gunicorn.http", "gunicorn.instrument"}

_VALUES: dict[str, dict[str, object]] = {
    "gunicorn": {
        "__version__": f"0 (this {_WORDS})",
        "version_info": (0,),
        "SERVER": "penstock",
        "SERVER_SOFTWARE": "penstock",
    },
}
"""What is no class, by module. Files set SERVER_SOFTWARE, which has no effect here."""


@contextmanager
def in_place_of_gunicorn() -> Iterator[None]:
    """Let ``import gunicorn`` and the like give stand-ins, where gunicorn is not installed."""
    if _PACKAGE in sys.modules or find_spec(_PACKAGE) is not None:
        yield
        return
    finder = _Finder()
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if _is_of_gunicorn(name)]:
            del sys.modules[name]


def _is_of_gunicorn(name: str) -> bool:
    return name == _PACKAGE or name.startswith(f"{_PACKAGE}.")


class _StandIn(ModuleType):
    """A module whose classes are made when they are asked for."""

    def __getattr__(self, name: str) -> Any:
        if name == "CONFIG_DEFAULTS" and self.__name__ == "gunicorn.glogging":
            from penstock.telemetry.log_config import GUNICORNS_DEFAULTS

            return deepcopy(GUNICORNS_DEFAULTS)
        if not name[:1].isupper() or name.isupper():
            raise AttributeError(f"{self.__name__} {_WORDS}, and has no {name}")
        made = _made_class(self.__name__, name)
        setattr(self, name, made)
        return made


def _made_class(module: str, name: str) -> type:
    def refuse(self: object, *_: object, **__: object) -> None:
        raise TypeError(
            f"{module}.{name} {_WORDS}; {type(self).__name__} cannot be used (a program that "
            "starts gunicorn calls penstock.serve instead)"
        )

    base = Exception if name.endswith(("Error", "Server", "Exception")) else object
    words = f"{module}.{name} {_WORDS}."
    body: dict[str, Any] = {"__module__": module, "__doc__": words}
    if module == "gunicorn.config":  # of a hook's class, files take the function that does nothing
        body |= {hook: staticmethod(_do_nothing) for hook in HOOKS}
    return type(name, (base,), body if base is Exception else {**body, "__init__": refuse})


def _do_nothing(*_: object) -> None:
    pass


class _Finder(MetaPathFinder, Loader):
    """Finds every module of gunicorn's."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for a module of gunicorn's."""
        if not _is_of_gunicorn(fullname):
            return None
        return ModuleSpec(fullname, self, origin=_PLACE, is_package=fullname in _PACKAGES)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the stand-in."""
        made = _StandIn(spec.name, f"{spec.name} {_WORDS}.")
        made.__file__ = _PLACE  # which an ImportError names
        return made

    def exec_module(self, module: ModuleType) -> None:
        """Give the module what it has besides classes."""
        vars(module).update(_VALUES.get(module.__name__, {}))
