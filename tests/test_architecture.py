"""The rules of the code's shape: what may import what, and how long anything may be."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
TESTS = ROOT / "tests"

MODULE_LINES = 700
TEST_MODULE_LINES = 800  # cases are long, and simple
FUNCTION_LINES = 50

OPTIONAL = {"penstock.app.file_watcher": {"watchfiles"}}
"""What a module takes where it is installed, and does without elsewhere."""

PURE = ("penstock.http1", "penstock.wsgi")
"""The packages that know nothing of what is built upon them."""

BENEATH_ALL = {"penstock.errors", "penstock.messages", "penstock.http1.reason_phrases"}
"""What any module may import, because they import nothing of Penstock."""

TYPES_ONLY = {"penstock.wsgi": {"penstock.transport", "penstock.http1"}}
"""What a pure package may import for type checking alone. The gateway is written against the
contract, and the environ is built from a parsed request; neither is there when they are tested."""

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
every_module = pytest.mark.parametrize("module", MODULES)


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


@every_module
def test_http1_and_wsgi_import_nothing_above_them(module: str) -> None:
    package = next((package for package in PURE if within(module, package)), None)
    for imported, types_only in imports_of(module) if package else ():
        assert package is not None
        if not within(imported, "penstock") or within(imported, package):
            continue
        allowed = BENEATH_ALL | (TYPES_ONLY.get(package, set()) if types_only else set())
        assert imported in allowed, f"{module} imports {imported}"


@every_module
def test_http1_imports_nothing_that_waits_or_tells_the_time(module: str) -> None:
    if within(module, "penstock.http1"):
        imported = {name.partition(".")[0] for name, _ in imports_of(module)}
        assert not imported & NO_INPUT_OR_OUTPUT


@pytest.mark.parametrize("module", sorted(BENEATH_ALL))
def test_what_any_module_may_import_imports_nothing_of_penstock(module: str) -> None:
    assert not [name for name, _ in imports_of(module) if within(name, "penstock")]


@every_module
def test_nothing_but_the_standard_library_and_penstock_is_imported(module: str) -> None:
    import sys

    allowed = sys.stdlib_module_names | {"penstock"} | OPTIONAL.get(module, set())
    needed = {name.partition(".")[0] for name, types_only in imports_of(module) if not types_only}
    assert needed <= allowed


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


@every_module
def test_every_module_postpones_its_annotations(module: str) -> None:
    if len(TREES[module].body) > 1:  # more than a docstring
        assert ("__future__", False) in set(imports_of(module))


def python_files(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def identify(path: object) -> str:
    return str(path.relative_to(ROOT)) if isinstance(path, Path) else repr(path)


every_file = pytest.mark.parametrize("path", python_files(SOURCE, TESTS), ids=identify)


@every_file
def test_no_module_has_more_than_600_lines(path: Path) -> None:
    limit = TEST_MODULE_LINES if path.is_relative_to(TESTS) else MODULE_LINES
    assert len(path.read_text("utf-8").splitlines()) <= limit


def code_lines(source: str) -> set[int]:
    """Return the numbers of the lines that hold more than a comment."""
    blank = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in blank | {tokenize.ENDMARKER}:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines


def lines_of(node: Function, code: set[int]) -> int:
    """Count a function's lines of code: without docstring, blank and comment lines."""
    lines = code & set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        lines -= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return len(lines)


@every_file
def test_no_function_has_more_than_50_lines_of_code(path: Path) -> None:
    source = path.read_text("utf-8")
    code = code_lines(source)
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, Function)]
    long = {node.name: lines_of(node, code) for node in functions}
    assert not {name: lines for name, lines in long.items() if lines > FUNCTION_LINES}


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


def is_told_elsewhere(node: ast.AST) -> bool:
    """Tell whether another definition has the docstring: an overload's, a setter's, a base's."""
    decorators = {
        getattr(name, "attr", getattr(name, "id", ""))
        for name in getattr(node, "decorator_list", [])
    }
    return bool(decorators & {"overload", "setter", "deleter", "override"})


@every_module
def test_every_public_name_has_a_docstring(module: str) -> None:
    tree = TREES[module]
    missing = [] if ast.get_docstring(tree) else [module]
    for name, node in public_definitions(tree.body, module):
        assert isinstance(node, Function | ast.ClassDef)
        if not ast.get_docstring(node) and not is_told_elsewhere(node):
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


@every_module
def test_every_public_name_is_typed(module: str) -> None:
    untyped = {
        name: parts
        for name, node in public_definitions(TREES[module].body, module)
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


@pytest.mark.parametrize("path", python_files(TESTS), ids=identify)
def test_no_test_sleeps(path: Path) -> None:
    """A test waits for the event itself; an application under test may well sleep on an Event."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute):
            assert node.attr != "sleep", f"line {node.lineno} sleeps"
        elif isinstance(node, ast.ImportFrom):
            assert "sleep" not in {alias.name for alias in node.names}, f"line {node.lineno}"


@pytest.mark.parametrize(
    "folder", [path for path in TESTS.rglob("*") if path.is_dir()], ids=identify
)
def test_no_test_folder_is_a_package(folder: Path) -> None:
    """Two packages of one name would hide each other's modules."""
    assert not (folder / "__init__.py").exists()
