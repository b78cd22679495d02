"""The rules of the code's shape: what may import what, and what each module and name has."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
TESTS = ROOT / "tests"

ROOMS = [
    {"__main__"},
    {"contrib"},
    {"api"},
    {"cli"},
    {"supervisor"},
    {"control"},
    {"worker"},
    {"compat"},
    {"transport"},
    {"wsgi"},
    {"edge"},
    {"http1"},
    {"telemetry"},
    {"app"},
    {"listeners"},
    {"config"},
    {"system"},
    {"errors", "messages", "percent", "records"},
]
"""Rooms and modules of the package, the highest first. Each imports from below it alone."""

OPTIONAL = {
    "penstock.app.file_watcher": {"watchfiles"},
    "penstock.compat.paste": {"paste"},
    "penstock.contrib.flask": {"click", "flask"},
    "penstock.contrib.pytest_plugin": {"pytest"},
    "penstock.contrib.django.apps": {"django"},
    "penstock.contrib.django.checks": {"django"},
    "penstock.contrib.django.management.commands.penstock": {"django"},
    "penstock.contrib.django.server_settings": {"django"},
    "penstock.contrib.django.testing": {"django"},
    "penstock.contrib.django.wsgi": {"django"},
    "penstock.edge.acme.orders": {"acme", "cryptography", "josepy", "requests"},
    "penstock.telemetry.application_metrics": {"prometheus_client"},
    "penstock.telemetry.spans": {"opentelemetry"},
}
"""What a module takes where it is installed, and does without elsewhere."""

BENEATH_ALL = {
    "penstock.errors",
    "penstock.messages",
    "penstock.percent",
    "penstock.records",
    "penstock.http1.statuses",
}
"""What any module may import, because they import nothing of Penstock but one another."""

PURE = {
    "penstock.http1": set[str](),
    "penstock.wsgi": {"penstock.transport", "penstock.http1"},
}
"""The rooms that import nothing of Penstock but `BENEATH_ALL`, and the rooms that they import for
type checking alone. The gateway is written against the contract of a transport, and the environ is
built from a parsed request; neither is there when they are tested."""

NO_INPUT_OR_OUTPUT = {"socket", "ssl", "select", "selectors", "threading", "time", "logging"}
NO_INPUT_OR_OUTPUT |= {"asyncio", "os", "signal", "subprocess", "queue", "multiprocessing"}

Function = ast.FunctionDef | ast.AsyncFunctionDef
Import = tuple[str, bool]
"""A module's full name, and whether it is imported for type checking alone."""


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(SOURCE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text("utf-8")) for name, path in MODULES.items()}


def is_type_checking(node: ast.AST) -> bool:
    if not isinstance(node, ast.If):
        return False
    test = node.test
    return getattr(test, "id", getattr(test, "attr", "")) == "TYPE_CHECKING"


def is_main_block(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)


def imports_of(module: str, *, outside_functions: bool = False) -> Iterator[Import]:
    """Yield what a module imports: of ``from package import name`` the module, if name is one."""

    def walk(node: ast.AST, types_only: bool) -> Iterator[Import]:
        if outside_functions and (isinstance(node, Function) or is_main_block(node)):
            return
        if isinstance(node, ast.Import):
            yield from ((alias.name, types_only) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(module, node)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield (inner if inner in MODULES else base), types_only
        types_only = types_only or is_type_checking(node)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, types_only)

    yield from walk(TREES[module], False)


def absolute(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    is_package = MODULES[module].name == "__init__.py"
    parts = module.split(".")
    parts = parts[: len(parts) - node.level + is_package]
    return ".".join([*parts, *([node.module] if node.module else [])])


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def room_of(module: str) -> str:
    """Return the room that a module of the package is in: ``""`` for the package itself."""
    return module.split(".")[1] if "." in module else ""


HEIGHT = {room: -height for height, rooms in enumerate(ROOMS) for room in rooms}


def test_every_module_is_in_a_room() -> None:
    unknown = {module for module in MODULES if room_of(module) not in HEIGHT | {"": 0}}
    assert not unknown, "give it a room, or add the room to ROOMS"


def upward_imports() -> Iterator[tuple[str, str]]:
    for module in MODULES:
        own = room_of(module)
        for imported, types_only in imports_of(module):
            other = room_of(imported)
            if not within(imported, "penstock") or imported in BENEATH_ALL or types_only:
                continue
            if own and other and own != other and HEIGHT[other] > HEIGHT[own]:
                yield module, imported


def test_every_import_goes_down_to_a_lower_room() -> None:
    """An import for type checking alone may go up: it is not there when the program runs."""
    found = sorted(set(upward_imports()))
    assert not found, "these imports go upward"


def test_the_package_is_imported_for_its_version_alone() -> None:
    found = [
        f"{module} imports {alias.name}"
        for module, tree in TREES.items()
        if room_of(module) not in ("__main__", "api")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and absolute(module, node) == "penstock"
        for alias in node.names
        if f"penstock.{alias.name}" not in MODULES and alias.name not in {"__version__", "_native"}
    ]
    assert not found


def test_http1_and_wsgi_import_nothing_of_penstock_but_errors() -> None:
    found = [
        f"{module} imports {imported}"
        for module in MODULES
        for package, for_types in PURE.items()
        if within(module, package)
        for imported, types_only in imports_of(module)
        if within(imported, "penstock") and not within(imported, package)
        if imported not in BENEATH_ALL | (for_types if types_only else set())
    ]
    assert not found


def test_http1_imports_nothing_that_waits_or_reads_a_clock() -> None:
    found = [
        f"{module} imports {imported}"
        for module in MODULES
        if within(module, "penstock.http1")
        for imported, _ in imports_of(module)
        if imported.partition(".")[0] in NO_INPUT_OR_OUTPUT
    ]
    assert not found


def test_what_any_module_may_import_imports_nothing_else_of_penstock() -> None:
    found = {
        module: imported
        for module in BENEATH_ALL
        for imported, types_only in imports_of(module)
        if within(imported, "penstock") and not types_only and imported not in BENEATH_ALL
    }
    assert not found


def test_nothing_but_the_standard_library_and_penstock_is_imported() -> None:
    found = [
        f"{module} imports {imported}"
        for module in MODULES
        for imported, types_only in imports_of(module)
        if not types_only
        if imported.partition(".")[0]
        not in sys.stdlib_module_names | {"penstock"} | OPTIONAL.get(module, set())
    ]
    assert not found


def test_no_import_goes_round_in_a_circle() -> None:
    # An import inside a function is run later, as is one in a module's main block;
    # only the others can close a circle.
    edges = {
        module: {
            name
            for name, types_only in imports_of(module, outside_functions=True)
            if name in MODULES and not types_only and name != module
        }
        for module in MODULES
    }
    while ends := {module for module, targets in edges.items() if not targets}:
        edges = {name: targets - ends for name, targets in edges.items() if name not in ends}
    assert not edges, f"a circle runs through some of {sorted(edges)}"


def test_every_module_postpones_its_annotations() -> None:
    found = [
        module
        for module, tree in TREES.items()
        if len(tree.body) > 1  # more than a docstring
        if ("__future__", False) not in set(imports_of(module))
    ]
    assert not found


def public_definitions(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.AST]]:
    """Yield each public class and function of a module or class, with its dotted name."""
    for node in body:
        if isinstance(node, ast.If | ast.Try | ast.With):
            yield from public_definitions(node.body, prefix)
            yield from public_definitions(getattr(node, "orelse", []), prefix)
        elif isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield f"{prefix}.{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node.body, f"{prefix}.{node.name}")


def is_documented_elsewhere(node: ast.AST) -> bool:
    """Return True if another definition has the docstring: an overload's, a setter's, a base's."""
    decorators = {
        getattr(name, "attr", getattr(name, "id", ""))
        for name in getattr(node, "decorator_list", [])
    }
    return bool(decorators & {"overload", "setter", "deleter", "override"})


def test_every_public_name_has_a_docstring() -> None:
    missing = [module for module, tree in TREES.items() if not ast.get_docstring(tree)]
    for module, tree in TREES.items():
        for name, node in public_definitions(tree.body, module):
            assert isinstance(node, Function | ast.ClassDef)
            if not ast.get_docstring(node) and not is_documented_elsewhere(node):
                missing.append(name)
    assert not missing


def untyped_parts(node: Function) -> list[str]:
    arguments = node.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    rest = [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
    untyped = [item.arg for item in [*named, *rest] if item.annotation is None]
    if node.returns is None:
        untyped.append("return")
    return [name for name in untyped if name not in {"self", "cls"}]


def test_every_public_name_is_typed() -> None:
    untyped = {
        name: parts
        for module, tree in TREES.items()
        for name, node in public_definitions(tree.body, module)
        if isinstance(node, Function) and (parts := untyped_parts(node))
    }
    assert not untyped


def test_no_module_hides_a_name_of_the_package() -> None:
    """Importing ``penstock.x`` sets ``x`` in the package, whatever was there before."""
    modules = {name.removeprefix("penstock.") for name in MODULES}
    functions = {name for name, _ in public_definitions(TREES["penstock"].body, "penstock")}
    assert not modules & {name.removeprefix("penstock.") for name in functions}


def test_the_package_says_that_it_is_typed() -> None:
    assert (SOURCE / "penstock" / "py.typed").is_file()


def test_no_test_sleeps() -> None:
    """A test waits for the event itself; an application under test may well sleep on an Event."""
    found = []
    for path in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute):
                names = {node.attr}
            elif isinstance(node, ast.ImportFrom):
                names = {alias.name for alias in node.names}
            else:
                continue
            if "sleep" in names:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found


def test_no_test_folder_is_a_package() -> None:
    """Two packages of one name would hide each other's modules."""
    assert not [str(path.relative_to(ROOT)) for path in TESTS.rglob("__init__.py")]


# -- the crates of native/ ----------------------------------------------------------------------

CRATES = {path.parent.name: path for path in sorted((ROOT / "native").glob("*/src"))}
IN_CRATE = re.compile(r"\bcrate::(?:\{(?P<several>[^}]*)\}|(?P<one>\w+))")


def crate_files(crate: str) -> dict[str, list[Path]]:
    """Return the files of each module of a crate; a folder belongs to its module."""
    files: dict[str, list[Path]] = {}
    for path in sorted(CRATES[crate].rglob("*.rs")):
        module = path.relative_to(CRATES[crate]).parts[0].removesuffix(".rs")
        if module not in {"lib", "tests"}:
            files.setdefault(module, []).append(path)
    return files


def crate_imports(files: list[Path]) -> set[str]:
    """Return the modules of its own crate that a module names anywhere outside of its tests."""
    found: set[str] = set()
    for path in files:
        text = path.read_text("utf-8").partition("#[cfg(test)]\nmod tests")[0]
        text = re.sub(r"#\[cfg\(test\)\]\s*if [^{]*\{[^}]*\}", "", text)
        code = "\n".join(line.partition("//")[0] for line in text.splitlines())
        for match in IN_CRATE.finditer(code):
            names = match["several"].split(",") if match["several"] else [match["one"]]
            found.update(name.strip().partition("::")[0] for name in names)
    return found


@pytest.mark.parametrize("crate", CRATES)
def test_no_import_of_a_crate_goes_round_in_a_circle(crate: str) -> None:
    files = crate_files(crate)
    edges = {
        module: (crate_imports(paths) & set(files)) - {module} for module, paths in files.items()
    }
    assert any(edges.values()), "no import was found"
    while ends := {module for module, targets in edges.items() if not targets}:
        edges = {name: targets - ends for name, targets in edges.items() if name not in ends}
    assert not edges, f"a circle runs through some of {sorted(edges)}"


METHODS = re.compile(
    r"(?<!#\[pymethods\]\n)^impl(?:<[^>]*>)? (?:\w+(?:<[^>]*>)? for )?(?P<type>\w+)", re.MULTILINE
)
DECLARED = re.compile(r"^pub(?:\(crate\))? (?:struct|enum) (?P<type>\w+)", re.MULTILINE)


@pytest.mark.parametrize("crate", CRATES)
def test_a_type_has_its_methods_where_it_is_declared(crate: str) -> None:
    """A method in another module would be called, and so imported, without a line of ``use``.

    Methods for Python may be elsewhere: the crate does not call them.
    """
    texts = {
        module: "".join(path.read_text("utf-8") for path in paths)
        for module, paths in crate_files(crate).items()
    }
    declared = {
        match["type"]: module for module, text in texts.items() for match in DECLARED.finditer(text)
    }
    found = [
        f"{module} has methods of {match['type']}"
        for module, text in texts.items()
        for match in METHODS.finditer(text)
        if declared.get(match["type"], module) != module
    ]
    assert not found
