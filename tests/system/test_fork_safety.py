"""What is looked for before a fork: the check runs no code of what it looks at."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from types import ModuleType

import pytest

from penstock.system.fork_safety import fork_hazards, open_descriptors


@pytest.fixture
def module() -> Iterator[ModuleType]:
    made = sys.modules["of_the_shop"] = ModuleType("of_the_shop")
    yield made
    del sys.modules["of_the_shop"]


def test_a_lock_that_is_held_is_named(module: ModuleType) -> None:
    module.lock = threading.Lock()  # type: ignore[attr-defined]
    with module.lock:
        hazards = "\n".join(fork_hazards(open_descriptors()))
    assert "the lock 'lock' of of_the_shop is held" in hazards


def test_a_lazy_object_is_not_evaluated(module: ModuleType) -> None:
    """Django's and werkzeug's look like what they stand for as soon as they are asked."""
    asked = []

    class Lazy:
        __slots__ = ()

        def refuse(self) -> type:
            asked.append("its class")
            raise RuntimeError("not configured")

        locals()["__class__"] = property(refuse)

        def __getattr__(self, name: str) -> object:
            asked.append(name)
            raise RuntimeError("not configured")

    module.lazy = Lazy()  # type: ignore[attr-defined]
    fork_hazards(open_descriptors())
    assert asked == []


def test_an_object_that_does_not_show_its_attributes_is_passed_over(module: ModuleType) -> None:
    """Proxies of wrapt, as agents that trace applications use them, ask what they stand for."""
    wrapt = pytest.importorskip("wrapt")
    module.proxy = wrapt.ObjectProxy(object())  # type: ignore[attr-defined]
    with pytest.raises((AttributeError, TypeError)):  # by the version of wrapt
        vars(module.proxy)
    fork_hazards(open_descriptors())
