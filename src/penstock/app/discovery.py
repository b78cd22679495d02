"""The application of a project in whose directory the command was typed without naming one.

The project's files are read and not imported: the command decides before it loads anything. Only
what is certain to be a WSGI application counts, and of several of the same rank none.
"""

from __future__ import annotations

import ast
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from penstock.app.callables import DEFAULT_NAMES
from penstock.records import dataclass

_FRAMEWORKS = {"apiflask", "bottle", "cherrypy", "dash", "falcon", "flask", "pyramid", "web"}
_FRAMEWORKS |= {"werkzeug", "tg"}
"""Top-level packages whose import marks a module of a WSGI application."""

_MODULES = ("wsgi", "app", "application", "main", "server")
"""The names of files that are looked at, in the order of their rank."""

_FACTORIES = ("create_app", "make_app")
_MOST_BYTES = 1 << 20
"""Of a file that is read: source code that people write is shorter."""

_MOST_FOLDERS = 200
"""Of the project's directory that are looked at."""

_MOST_FILES = 50
"""Of other names that are read, where no file with a usual name has an application."""


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}"


LOOKED_FOR = (
    "manage.py of a Django project",
    "FLASK_APP in the environment",
    f"{_listed([f'{name}.py' for name in _MODULES])}, or __init__.py or wsgi.py of a package,",
    "  with " + _listed([*DEFAULT_NAMES, "a Flask object", *(f"{each}()" for each in _FACTORIES)]),
)
"""What `discover` looks for, in lines for people."""


@dataclass(frozen=True)
class Discovery:
    """What was found: what can be served, and what shows that."""

    candidates: tuple[tuple[str, str], ...] = ()
    """Specifications, each with what it was found by, those of the best rank alone."""
    suggestions: tuple[tuple[str, str], ...] = ()
    """The same of files with other names: they may be tools or tests, so none is served unasked."""

    @property
    def only(self) -> tuple[str, str] | None:
        """The one application there is; None where there is none, or where there are several."""
        return self.candidates[0] if len(self.candidates) == 1 else None


def discover(directory: str, environ: Mapping[str, str]) -> Discovery:
    """Look for a Django project, for FLASK_APP, and for files with the usual names. Never raises.

    `LOOKED_FOR` says the same to people.

    ``environ`` has FLASK_APP where that names the application.
    """
    here = Path(directory)
    django = _django(here)
    if django:
        return Discovery(tuple(django))
    if environ.get("FLASK_APP"):
        return Discovery((("penstock.contrib.flask:application()", "FLASK_APP"),))
    for name in _MODULES:
        if spec := _application_in(here / f"{name}.py", name):
            return Discovery(((spec, f"{name}.py"),))
    packages = []
    for folder in _folders(here):
        if spec := _application_in(folder / "__init__.py", folder.name):
            packages.append((spec, f"{folder.name}/__init__.py"))
        elif spec := _application_in(folder / "wsgi.py", f"{folder.name}.wsgi"):
            packages.append((spec, f"{folder.name}/wsgi.py"))
    if packages:
        return Discovery(tuple(packages))
    found = ((_application_in(here / f"{name}.py", name), f"{name}.py") for name in _others(here))
    return Discovery(suggestions=tuple((spec, file) for spec, file in found if spec))


def _django(here: Path) -> list[tuple[str, str]]:
    """Return the applications of a Django project: that which ``manage.py`` names comes first."""
    text = _source(here / "manage.py")
    if text is None or "DJANGO_SETTINGS_MODULE" not in text:
        return []
    found = []
    for package in (*_named_settings(text), *(folder.name for folder in _folders(here))):
        # The settings are mysite.settings or mysite.settings.production, mysite/wsgi.py is beside.
        if (here.joinpath(*package.split(".")) / "wsgi.py").is_file():
            found.append((f"{package}.wsgi", "manage.py"))
            break
    return found


def _named_settings(text: str) -> list[str]:
    """Return the packages that may hold the settings which ``manage.py`` names."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or len(node.args) != 2:
            continue
        key, value = node.args
        if (
            isinstance(key, ast.Constant)
            and key.value == "DJANGO_SETTINGS_MODULE"
            and isinstance(value, ast.Constant)
            and isinstance(value.value, str)
        ):
            parts = value.value.split(".")[:-1]
            return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    return []


def _application_in(path: Path, module: str) -> str | None:
    """Return the specification of the application in a file; None where none is certain."""
    text = _source(path)
    if text is None:
        return None
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    uses_framework = path.name == "wsgi.py" or not _FRAMEWORKS.isdisjoint(_imported(tree))
    assigned, functions = _defined(tree)
    for name in DEFAULT_NAMES:
        if (uses_framework and name in assigned) or functions.get(name) == 2:
            return f"{module}:{name}"
    if len(instances := _flask_instances(tree)) == 1:
        return f"{module}:{instances[0]}"
    for name in _FACTORIES:
        if uses_framework and functions.get(name) == 0:
            return f"{module}:{name}()"
    return None


def _flask_instances(tree: ast.Module) -> list[str]:
    """Return the names to which a module assigns a call of ``Flask``, as ``flask run`` has them."""
    if "flask" not in _imported(tree):
        return []
    found = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            called = node.value.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name == "Flask":
                found += [each.id for each in node.targets if isinstance(each, ast.Name)]
    return found


def _imported(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def _defined(tree: ast.Module) -> tuple[set[str], dict[str, int]]:
    """Return the names that a module assigns or imports, and its functions.

    The functions have the number of their arguments that a caller has to give.
    """
    assigned: set[str] = set()
    functions: dict[str, int] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            assigned |= {each.id for each in node.targets if isinstance(each, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            assigned.add(node.target.id)
        elif isinstance(node, ast.ImportFrom):
            assigned |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef):
            required = len(node.args.args) - len(node.args.defaults)
            required += sum(1 for default in node.args.kw_defaults if default is None)
            functions[node.name] = required
    return assigned, functions


def _others(here: Path) -> list[str]:
    """Return the modules of a directory."""
    try:
        with os.scandir(here) as entries:
            found = [entry.name[:-3] for entry in entries if entry.name.endswith(".py")]
    except OSError:
        return []
    return sorted(name for name in found if name.isidentifier())[:_MOST_FILES]


def _folders(here: Path) -> list[Path]:
    """Return the packages of a directory, those of the Python environment left out."""
    try:
        with os.scandir(here) as entries:
            names = sorted(
                entry.name
                for entry in entries
                if entry.name.isidentifier() and entry.is_dir(follow_symlinks=True)
            )
    except OSError:
        return []
    return [here / name for name in names[:_MOST_FOLDERS]]


def _source(path: Path) -> str | None:
    """Return the text of a regular file that is not larger than what people write."""
    try:
        # O_NONBLOCK: a named pipe would wait for a writer.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            data = file.read(_MOST_BYTES + 1)
    except OSError:
        return None
    return data.decode("utf-8", "replace") if len(data) <= _MOST_BYTES else None
