"""From ``module:callable`` to the application, with a separate error for each step that fails.

The steps are: parse the specification, import the module, find the attribute, call the factory
if the specification says so, and check that the result is a WSGI application.
"""

from __future__ import annotations

import ast
import importlib
import os
import sys
from functools import partial
from inspect import getattr_static, signature
from types import FunctionType, MethodType, TracebackType
from typing import TYPE_CHECKING, Any, cast

from penstock.app.callables import DEFAULT_NAMES, FORMS, binds, is_factory_by_signature
from penstock.errors import PenstockError
from penstock.records import dataclass
from penstock.system.greenlet_patches import greenlet_patches

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

_COROUTINE_FLAGS = 0x80 | 0x200  # inspect.CO_COROUTINE, CO_ASYNC_GENERATOR


class LoadError(PenstockError):
    """The application cannot be loaded. The text names the step that failed."""

    traceback = ""
    """If the application's code raised: its part of the traceback, with a line end."""


class SpecError(LoadError):
    """The specification does not have a known form."""

    exit_status = 2


class ModuleMissingError(LoadError):
    """The module itself does not exist, as opposed to a module that it imports."""

    exit_status = 3


class ApplicationRaisedError(LoadError):
    """The module raised while it was imported, or the factory while it was called."""

    exit_status = 4

    def __init__(self, message: str, error: BaseException, hint: str = "") -> None:
        super().__init__(f"{message}: {_in_one_line(error)}{hint}")
        self.traceback = _application_traceback(error)


class ThreadsReplacedError(LoadError):
    """The application has the standard library's threads replaced by greenlets."""

    exit_status = 4


class AttributeMissingError(LoadError):
    """The module, or an object in it, does not have the attribute."""

    exit_status = 5


class NotCallableError(LoadError):
    """The object, or what the factory returned, is not a WSGI application."""

    exit_status = 6


@dataclass(frozen=True)
class Spec:
    """A specification's parts."""

    text: str
    module: str
    attributes: tuple[str, ...] = ()
    """The names after the colon, split at the dots; empty if there is no colon."""
    arguments: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    """The arguments for the factory; None if the object is not to be called."""

    @property
    def place(self) -> str:
        """The specification without the arguments."""
        return f"{self.module}:{'.'.join(self.attributes)}"


def load_application(text: str) -> WSGIApplication:
    """Return the application that ``module:callable`` names. Raises a `LoadError`."""
    spec = parse_spec(text)
    module = _import(spec)
    found, place = _find(spec, module)
    if spec.arguments is not None:
        found = _call_factory(spec, found)
    _check_application(spec, found, place)
    if patches := greenlet_patches():
        raise ThreadsReplacedError(patches)
    return cast("WSGIApplication", found)


def parse_spec(text: str, *, may_look: bool = True) -> Spec:
    """Return the parts of a specification. Arguments have to be literals. Raises `SpecError`.

    Its hint may come from the files that are there, unless ``may_look`` is False.
    """
    module, colon, rest = text.partition(":")
    if not all(part.isidentifier() for part in module.split(".")) or module.endswith(".py"):
        from penstock.app import hints

        raise SpecError(f"{module!r} is not a module name{hints.of_form(module, rest, may_look)}")
    if not colon:
        return Spec(text, module)
    try:
        # Python would take leading space for an indent.
        expression = ast.parse(rest.strip(), mode="eval").body
        if not isinstance(expression, ast.Call):
            return Spec(text, module, _names(expression))
        arguments = tuple(ast.literal_eval(argument) for argument in expression.args)
        by_name = {str(key.arg): ast.literal_eval(key.value) for key in expression.keywords}
        if None in [key.arg for key in expression.keywords]:
            raise ValueError(rest)
        return Spec(text, module, _names(expression.func), (arguments, by_name))
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        raise SpecError(
            f"cannot read {rest!r} after the colon of {text!r}: allowed is {FORMS}, "
            "and arguments are literals"
        ) from None


def _names(expression: ast.expr) -> tuple[str, ...]:
    if isinstance(expression, ast.Name):
        return (expression.id,)
    if isinstance(expression, ast.Attribute):
        return (*_names(expression.value), expression.attr)
    raise ValueError(expression)


def _import(spec: Spec) -> Any:
    try:
        return importlib.import_module(spec.module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may call sys.exit()
        from penstock.app import hints

        if isinstance(error, ModuleNotFoundError) and _module_is_missing(spec, error):
            missing = error.name or spec.module
            raise ModuleMissingError(_missing_module(spec.module, missing)) from None
        raise ApplicationRaisedError(
            f"cannot import module {spec.module!r}",
            error,
            hints.of_missing_dependency(spec.module, error),
        ) from error


def _module_is_missing(spec: Spec, error: ModuleNotFoundError) -> bool:
    """Return True if the specification's module is missing, and not one that it imports."""
    wanted = spec.module == error.name or spec.module.startswith(f"{error.name}.")
    return wanted and _application_part(error.__traceback__) is None


def _missing_module(module: str, missing: str) -> str:
    from penstock.app import hints

    parent, _, _ = missing.rpartition(".")
    hint = hints.of_missing_module(module, missing)
    if parent:
        kind = "package" if hasattr(sys.modules.get(parent), "__path__") else "module"
        return f"cannot import {module!r}: the {kind} {parent!r} has no module {missing!r}{hint}"
    return f"there is no module {missing!r} in {os.getcwd()} or elsewhere on Python's path{hint}"


def _find(spec: Spec, module: Any) -> tuple[Any, str]:
    """Return the object, and its place as ``module:name``."""
    if not spec.attributes:
        for name in DEFAULT_NAMES:
            try:
                return _attribute(module, name, spec.module), f"{spec.module}:{name}"
            except AttributeError:
                pass
        from penstock.app import hints

        wanted = " nor ".join(repr(name) for name in DEFAULT_NAMES)
        raise AttributeMissingError(
            f"module {spec.module!r} has neither {wanted}"
            f"{hints.of_missing_default(module)}{_other_file(module)}"
        )
    found, path = module, spec.module
    for name in spec.attributes:
        owner, separator = (f"module {path!r}", ":") if found is module else (repr(path), ".")
        try:
            found = _attribute(found, name, path)
        except AttributeError:
            from penstock.app import hints

            hint = hints.of_missing_attribute(found, name, module)
            if found is module:
                hint += _other_file(module)
            raise AttributeMissingError(f"{owner} has no attribute {name!r}{hint}") from None
        path += separator + name
    return found, path


def _attribute(owner: Any, name: str, path: str) -> Any:
    """Return an attribute. Raises `AttributeError` if there is none.

    If the code of a property, or of the module's own ``__getattr__``, raises another exception,
    that becomes an `ApplicationRaisedError`, which names the owner by ``path``.
    """
    try:
        return getattr(owner, name)
    except (AttributeError, KeyboardInterrupt):
        raise
    except BaseException as error:  # also sys.exit()
        raise ApplicationRaisedError(f"cannot get {name!r} of {path!r}", error) from error


def _other_file(module: Any) -> str:
    """Return a hint if the module is not the file of that name in the current directory.

    Python does not look for a file if a module of that name is already imported, as ``site`` is.
    """
    here = os.path.abspath(f"{module.__name__}.py")
    file = getattr(module, "__file__", None)
    if not os.path.exists(here) or file is None or os.path.abspath(file) == here:
        return ""
    return f" (it is {file}; {here} needs another name)"


def _call_factory(spec: Spec, factory: Any) -> Any:
    if not callable(factory):
        raise NotCallableError(
            f"{spec.place!r} is of type {type(factory).__name__} and cannot be called"
        )
    arguments, by_name = spec.arguments or ((), {})
    try:
        return factory(*arguments, **by_name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        hint = ""
        if not arguments and not by_name and _misses_two_arguments(factory, error):
            hint = f"; if it is the application itself, write {spec.place!r}, without ()"
        raise ApplicationRaisedError(f"the factory {spec.text!r} raised", error, hint) from error


def _misses_two_arguments(function: Any, error: BaseException) -> bool:
    """Return True if the call failed because the function takes environ and start_response."""
    if not isinstance(error, TypeError) or _application_part(error.__traceback__) is not None:
        return False
    try:
        signature(function).bind(None, None)
    except (TypeError, ValueError):
        return False
    return True


def _check_application(spec: Spec, found: Any, place: str) -> None:
    """Refuse an object that cannot be called with environ and start_response.

    Only if that is certain. Of other callables, the first request shows it.
    """
    what = repr(spec.text)
    if spec.arguments is not None:
        what = f"what the factory {what} returned"
    if not callable(found):
        reason = f"its type {type(found).__name__} is not callable"
    elif _is_async(found):
        reason = "it is async, as in ASGI"
    elif _cannot_take_two_arguments(found):
        reason = "it cannot be called with the two positional arguments (environ, start_response)"
    elif spec.arguments is None and is_factory_by_signature(found):
        reason = "a call of it makes one, and does not answer a request"
    else:
        return
    hint = ""
    if spec.arguments is None:
        from penstock.app import hints

        hint = hints.of_no_application(found, place, spec.module)
    raise NotCallableError(f"{what} is not a WSGI application: {reason}{hint}")


def _is_async(found: Any) -> bool:
    function = found if isinstance(found, FunctionType) else type(found).__call__
    return isinstance(function, FunctionType) and bool(
        function.__code__.co_flags & _COROUTINE_FLAGS
    )


def _cannot_take_two_arguments(found: Any) -> bool:
    """Return True if a call with two arguments is certain to fail."""
    given = 2
    if isinstance(found, type):
        if type(found).__call__ is not type.__call__:
            return False
    elif not isinstance(found, FunctionType | MethodType | partial):
        # An instance. Only a plain function is certain to get it as its first argument.
        found = getattr_static(type(found), "__call__", None)
        given = 3
        if not isinstance(found, FunctionType):
            return False
    return binds(found, given) is False


def _in_one_line(error: BaseException) -> str:
    try:
        text = " ".join(str(error).split())
    except Exception:  # the error's own __str__
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _application_part(traceback: TracebackType | None) -> TracebackType | None:
    """Return the traceback from the application's first frame on; None without such a frame."""
    while traceback is not None:
        file_name = traceback.tb_frame.f_code.co_filename
        ours = file_name in (__file__, importlib.__file__) or file_name.startswith("<frozen ")
        if not ours:
            return traceback
        traceback = traceback.tb_next
    return None


def _application_traceback(error: BaseException) -> str:
    from traceback import format_exception  # its import takes longer than the rest of the start

    return "".join(format_exception(type(error), error, _application_part(error.__traceback__)))
