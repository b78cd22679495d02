"""What a wrong specification of an application most likely means: the hints after the errors.

Nothing here decides whether an application can be loaded, so this is imported only after an error.
A hint is the empty string where nothing is known.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
from importlib.machinery import PathFinder
from inspect import getattr_static, iscoroutinefunction
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from penstock.app.callables import DEFAULT_NAMES, FORMS, binds
from penstock.app.discovery import discover
from penstock.config.options import nearest

_FACTORIES = ("create_app", "make_app", "create_application", "make_application", "build_app")
_ENVIRONMENTS = (".venv", "venv", "env")
_CONFIGURATIONS = {
    ".conf.py": "-c {file} reads one of gunicorn",
    ".toml": "-c {file} reads it",
    ".ini": "--ini {file} reads one of uWSGI, and --paste {file} one of PasteDeploy",
    ".yaml": "--yaml {file} reads one of uWSGI",
    ".yml": "--yaml {file} reads one of uWSGI",
    ".xml": "--xml {file} reads one of uWSGI",
    ".json": "--json {file} reads one of uWSGI",
}
"""What reads a file of settings that was typed in the place of the application, by its ending."""


def meant(form: str) -> str:
    """Return the question for a form that is certain to be a correct one."""
    return f"; did you mean {form!r}?"


def did_you_mean(name: str, known: list[str]) -> str:
    """Return a hint with the one of ``known`` that is nearest to ``name``."""
    found = nearest(name, known)
    return meant(found) if found is not None else ""


# -- the specification ---------------------------------------------------------------------------


def of_form(module: str, rest: str, may_look: bool = True) -> str:
    """Return what is wrong with the name of a module that is none."""
    path = Path(module)
    if may_look and (reads := _configuration(module)):
        return reads
    if may_look and path.name == "manage.py" and (spec := _of_django(path.parent)):
        return f", but a path; did you mean {spec!r}{_with_chdir(path.parent)}?"
    if "/" not in module and path.suffix != ".py":
        if "-" in module and all(
            part.isidentifier() for part in module.replace("-", "_").split(".")
        ):
            file = module.replace("-", "_") + ".py"
            return f": Python cannot import a name with a hyphen: rename the file to {file}"
        return f": allowed is {FORMS}"
    name, folder = path.stem, path.parent
    while may_look and folder.name and (folder / "__init__.py").is_file():  # a module of a package
        name, folder = f"{folder.name}.{name}", folder.parent
    named = f"{name}:{rest}" if rest else name
    return f", but a path; did you mean {named!r}{_with_chdir(folder)}?"


def _with_chdir(folder: Path) -> str:
    return f" with --chdir {shlex.quote(str(folder))}" if folder != Path(".") else ""


def _configuration(name: str) -> str:
    """Return what reads the file of this name, if there is one and it is no module."""
    for ending, reads in _CONFIGURATIONS.items():
        if name.endswith(ending) and os.path.isfile(name):
            flags = reads.format(file=shlex.quote(name))
            return f", but a file of settings: {flags}"
    return ""


def _of_django(folder: Path) -> str:
    """Return the application of the Django project whose ``manage.py`` is in a directory."""
    found = discover(str(folder), {}).only
    return found[0] if found is not None and found[1] == "manage.py" else ""


# -- the module ----------------------------------------------------------------------------------


def of_missing_module(module: str, missing: str) -> str:
    """Return a hint for a module that was not found, ``missing`` or one above it in ``module``."""
    if reads := _configuration(module):
        return f"; {module} is no module{reads}"
    parent, _, name = missing.rpartition(".")
    if parent:
        owner = sys.modules.get(parent)
        if owner is not None and hasattr(owner, name):
            return meant(f"{parent}:{module.removeprefix(parent + '.')}")
        return ""
    if found := _directory_above(missing):
        above, way = found
        return f"; it is in {above}: add --chdir {way}"
    names = modules_here()
    hyphened = [each for each in names if "-" in each and each.replace("-", "_") == missing]
    if hyphened:
        file = f"{hyphened[0]}.py"
        return f"; Python cannot import a name with a hyphen: rename {file} to {missing}.py"
    for below in _folders_here():
        if _has_module(below, missing):
            return f"; it is in {below.name}: add --chdir {shlex.quote(below.name)}"
    near = did_you_mean(missing, [each for each in names if each.isidentifier()])
    return near if near and missing not in names else of_closed_directory()


def _directory_above(module: str) -> tuple[Path, str] | None:
    """Return the directory above this one that has a module, and the way to it for a shell."""
    here = Path.cwd()
    for above in (here.parent, here.parent.parent):
        if _has_module(above, module):
            return above, shlex.quote(os.path.relpath(above, here))
    return None


def of_missing_dependency(module: str, error: BaseException) -> str:
    """Return a hint for an application that imports what this Python does not have.

    Most often it is installed for another one: that of a virtual environment nearby, say. Or
    ``module`` is part of a package, and the command was typed in the package's own directory.
    """
    if hides := _hidden_package(error):
        return hides
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    if not name or "." in name or _has_module(Path.cwd(), name):
        return ""
    if found := _directory_above(name):
        above, way = found
        inner = ".".join((*Path.cwd().relative_to(above).parts, module))
        return f"; {name!r} is in {above}: add --chdir {way} and write {inner!r}"
    if closed := of_closed_directory():
        return closed
    hint = f"; this server runs on {sys.executable}: install what is missing there"
    for folder in _ENVIRONMENTS:
        other = Path(folder, "bin", "python").absolute()
        if other.exists() and other.parent.parent != Path(sys.prefix):
            return f"{hint}, or install penstock in {folder} and start {folder}/bin/penstock"
    return hint


def _hidden_package(error: BaseException) -> str:
    """Return a hint for a file here that has the name of an installed package: ``flask.py``."""
    found = getattr(error, "obj", None) if isinstance(error, AttributeError) else None
    name = error.name if isinstance(error, ImportError) else getattr(found, "__name__", None)
    module = sys.modules.get(name) if isinstance(name, str) else None
    file = getattr(error, "path", None) or getattr(module, "__file__", None)
    if not name or not file or Path(file).absolute() != Path(f"{name}.py").absolute():
        return ""
    here = os.getcwd()
    elsewhere = [entry for entry in sys.path if os.path.abspath(entry) != here]
    try:
        other = PathFinder.find_spec(name, elsewhere)
    except (ImportError, ValueError):
        return ""
    if other is None or other.origin is None:
        return ""
    return f"; {file} hides {other.origin}: give it another name"


def of_closed_directory() -> str:
    """Return a hint for a directory of the search path that this user cannot read.

    Python says nothing of it. With ``--user`` that is a home of mode 0700, say, with the
    application, the virtual environment or Python itself.
    """
    for entry in sys.path:
        folder = Path(entry).absolute()
        if folder.suffix == ".zip":  # Python has one on its path that does not exist
            continue
        try:
            os.scandir(folder).close()
        except PermissionError:
            closed = next((each for each in reversed(folder.parents) if _is_closed(each)), folder)
            return (
                f"; Python takes {folder} for empty, since user {os.geteuid()} cannot read "
                f"{closed}: let that user read it (chmod, chown), or keep the modules elsewhere"
            )
        except OSError:
            continue
    return ""


def _is_closed(folder: Path) -> bool:
    """Return True for a directory that this user may not enter."""
    return not os.access(folder, os.X_OK, effective_ids=True)


def _has_module(folder: Path, name: str) -> bool:
    try:
        return (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()
    except OSError:
        return False


def modules_here() -> list[str]:
    """Return the names of the modules and packages in the current directory."""
    try:
        with os.scandir() as entries:
            return [
                entry.name.removesuffix(".py")
                for entry in entries
                if entry.name.endswith(".py") or entry.is_dir()
            ]
    except OSError:  # the directory may be searchable and not readable
        return []


def _folders_here() -> list[Path]:
    return [Path(name) for name in sorted(modules_here()) if not name.startswith(".")]


# -- the attribute -------------------------------------------------------------------------------


def of_missing_default(module: Any) -> str:
    """Return a hint for a module without the usual names."""
    if hasattr(module, "__path__") and _can_find(f"{module.__name__}.wsgi"):
        return meant(f"{module.__name__}.wsgi")
    if module.__name__ == "manage" and (spec := _of_django(Path.cwd())):
        return meant(spec)
    found = candidates(module)
    if len(found) == 1:
        return meant(found[0])
    if found:
        return f"; it may be one of {', '.join(found[:5])}"
    return f": say which object is the application, as in {module.__name__}:name"


def of_missing_attribute(owner: Any, name: str, module: Any) -> str:
    """Return a hint for an attribute that ``owner`` lacks, which may be the module itself."""
    names = attributes(owner)
    if owner is not module:
        return did_you_mean(name, names)
    if name in DEFAULT_NAMES:
        for usual in DEFAULT_NAMES:
            if usual in names:
                return meant(f"{module.__name__}:{usual}")
        if hasattr(module, "__path__") and _can_find(f"{module.__name__}.wsgi"):
            return meant(f"{module.__name__}.wsgi")
    # A module that the file imports is no application.
    imported = [it for it in names if isinstance(getattr_static(owner, it, None), ModuleType)]
    near = nearest(name, [it for it in names if it not in imported])
    found = candidates(module)
    common = [it for it in found if it.rpartition(":")[2] in DEFAULT_NAMES]
    if near is None and (len(found) == 1 or common):
        return meant((common or found)[0])
    return meant(near) if near is not None else ""


def candidates(module: Any) -> list[str]:
    """Return the specifications of what in a module looks like an application or a factory."""
    found, factories = [], []
    for name in attributes(module):
        value = getattr_static(module, name, None)
        if name.startswith("_") or isinstance(value, type):
            continue
        place = f"{module.__name__}:{name}"
        if isinstance(value, FunctionType):
            if value.__module__ != module.__name__:
                continue
            if name in _FACTORIES and binds(value, 0):
                factories.append(f"{place}()")
            elif _is_named_as_application(value, 0):
                found.append(place)
            continue
        call = getattr_static(type(value), "__call__", None)
        if isinstance(call, FunctionType) and _is_named_as_application(call, 1):
            found.append(place)
    return found or factories


def _is_named_as_application(function: FunctionType, skipped: int) -> bool:
    """Return True if a function's parameters have the names that PEP 3333 uses."""
    names = function.__code__.co_varnames[: function.__code__.co_argcount][skipped:]
    return len(names) == 2 and names[0].startswith("env") and names[1].startswith("start")


def attributes(found: Any) -> list[str]:
    """Return the names of an object's attributes."""
    try:
        return [name for name in dir(found) if not name.startswith("__")]
    except Exception:  # the object's own __dir__
        return []


def _can_find(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError, AttributeError):
        return False


# -- the object ----------------------------------------------------------------------------------


def of_no_application(found: Any, place: str, module: str) -> str:
    """Return a hint for an object that is no WSGI application."""
    if module.endswith("asgi") and _can_find(wsgi := module.removesuffix("asgi") + "wsgi"):
        return meant(wsgi)
    if isinstance(found, type):
        return f"; it is a class: if its instances are the application, write {place + '()'!r}"
    if isinstance(found, FunctionType) and not iscoroutinefunction(found):
        if binds(found, 0):
            return f"; it seems to be a factory: write {place + '()'!r}"
        return f"; a factory is written with its arguments, as in {place + '(1)'!r}"
    return ""
