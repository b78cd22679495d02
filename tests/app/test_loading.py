"""From a specification to an application: each step that fails has its own error and status."""

from __future__ import annotations

import errno
import importlib
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from wsgiref.types import WSGIApplication

import pytest

from penstock.app.loading import (
    ApplicationRaisedError,
    AttributeMissingError,
    LoadError,
    ModuleMissingError,
    NotCallableError,
    SpecError,
    load_application,
    parse_spec,
)

APPLICATION = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"app"]
"""

_numbers = itertools.count()

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a module into the current directory and return its name, which no other has."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write_module(text: str, name: str = "", **more: str) -> str:
        name = name or f"loaded_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text(text)
        for other, content in more.items():
            (tmp_path / f"{other}.py").write_text(content)
        importlib.invalidate_caches()
        return name

    return write_module


def body_of(application: WSGIApplication) -> list[bytes]:
    return list(application({}, lambda *_: lambda _: None))


def refusal(kind: type[LoadError], spec: str) -> LoadError:
    with pytest.raises(kind) as error:
        load_application(spec)
    assert type(error.value) is kind
    assert "\n" not in str(error.value)
    return error.value


# What can be loaded


def test_an_attribute_of_a_module(write: Write) -> None:
    assert body_of(load_application(f"{write(APPLICATION)}:app")) == [b"app"]


def test_a_module_alone_takes_application_before_app(write: Write) -> None:
    both = APPLICATION + "def application(e, s): return [b'application']"
    assert body_of(load_application(write(both))) == [b"application"]
    assert body_of(load_application(write(APPLICATION))) == [b"app"]


def test_an_attribute_of_an_object(write: Write) -> None:
    name = write(
        APPLICATION + "class Site: pass\nsite = Site(); site.inner = site; site.wsgi = app"
    )
    assert body_of(load_application(f"{name}:site.inner.wsgi")) == [b"app"]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("make()", b"() {}"),
        ("make('a', 1)", b"('a', 1) {}"),
        (" make( 'a:b', key=[1, {'x': None}], other=-1.5 )", b"('a:b',) {'key': [1, {'x': None}], "
         b"'other': -1.5}"),
        ("factories.make(True)", b"(True,) {}"),
    ],
)  # fmt: skip
def test_a_factory_is_called_with_literals(write: Write, call: str, said: bytes) -> None:
    name = write(
        "def make(*args, **by_name):\n"
        "    return lambda environ, start_response: [repr(args).encode(), b' ', "
        "repr(by_name).encode()]\n"
        "class factories:\n    make = staticmethod(make)\n"
    )
    assert b"".join(body_of(load_application(f"{name}:{call}"))) == said


def test_objects_classes_and_wrapped_callables_are_applications(write: Write) -> None:
    name = write(
        "import functools\n"
        "class Object:\n    def __call__(self, environ, start_response): return [b'object']\n"
        "class Response:\n"
        "    def __init__(self, environ, start_response): pass\n"
        "    def __iter__(self): return iter([b'class'])\n"
        "instance = Object()\n"
        "bound = Object().__call__\n"
        "partial = functools.partial(lambda prefix, e, s: [prefix], b'partial')\n"
        "def anything(*args): return [b'anything']\n"
    )
    loaded = {
        attribute: body_of(load_application(f"{name}:{attribute}"))
        for attribute in ("instance", "Response", "bound", "partial", "anything")
    }
    assert loaded == {
        "instance": [b"object"],
        "Response": [b"class"],
        "bound": [b"object"],
        "partial": [b"partial"],
        "anything": [b"anything"],
    }


# 2: the specification


@pytest.mark.parametrize(
    "spec",
    [
        "",
        ":app",
        "a b:app",
        "mod..ule:app",
        "module:",
        "module:a b",
        "module:app(",
        "module:1",
        "module:make(other)",
        "module:make(open('x'))",
        "module:make(*[1])",
        "module:make(**{'a': 1})",
        "module:make()()",
        "module:make()[0]",
        "module:a;b",
        "module:make({[]: 1})",
        "module:" + 5000 * "(" + 5000 * ")",
    ],
)
def test_a_specification_without_a_known_form_is_refused(spec: str) -> None:
    error = refusal(SpecError, spec)
    assert error.exit_status == 2
    assert "allowed is" in str(error)


@pytest.mark.parametrize(
    ("spec", "meant"),
    [
        ("app.py", "did you mean 'app'?"),
        ("app.py:make()", "did you mean 'app:make()'?"),
        ("./site/app.py:app", "did you mean 'app:app' with --chdir site?"),
        ("site/app:app", "did you mean 'app:app' with --chdir site?"),
    ],
)
def test_a_path_is_refused_with_the_module_that_is_meant(spec: str, meant: str) -> None:
    assert meant in str(refusal(SpecError, spec))


def test_a_path_in_a_package_and_manage_py_are_refused_with_the_module_that_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop").mkdir()
    for name in ("__init__.py", "settings.py", "wsgi.py"):
        (tmp_path / "shop" / name).write_text("")
    (tmp_path / "manage.py").write_text(
        "import os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')\n"
    )
    for spec in ("shop/wsgi.py", "shop/wsgi", "manage.py"):
        assert str(refusal(SpecError, spec)).endswith("did you mean 'shop.wsgi'?"), spec
    said = str(refusal(SpecError, f"{tmp_path}/shop/wsgi.py:app"))
    assert said.endswith(f"did you mean 'shop.wsgi:app' with --chdir {tmp_path}?")
    with pytest.raises(SpecError, match=r"did you mean 'wsgi' with --chdir shop\?"):
        parse_spec("shop/wsgi.py", may_look=False)


@pytest.mark.parametrize(
    ("file", "flag"),
    [
        ("gunicorn.conf.py", "-c gunicorn.conf.py"),
        ("penstock.toml", "-c penstock.toml"),
        ("uwsgi.ini", "--ini uwsgi.ini"),
        ("uwsgi-live.yaml", "--yaml uwsgi-live.yaml"),
        ("site.xml", "--xml site.xml"),
    ],
)
def test_a_file_of_settings_is_refused_with_the_flag_that_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, flag: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / file).write_text("")
    with pytest.raises(LoadError) as error:
        load_application(file)
    assert flag in str(error.value)


def test_the_parts_of_a_specification() -> None:
    spec = parse_spec("a.b:c.d(1, k='x')")
    assert (spec.module, spec.attributes, spec.place) == ("a.b", ("c", "d"), "a.b:c.d")
    assert spec.arguments == ((1,), {"k": "x"})


# 3: the module


def test_a_missing_module_is_named_with_the_nearest(write: Write) -> None:
    write(APPLICATION, name="flaskapp_here")
    error = refusal(ModuleMissingError, "flaskap_here:app")
    assert error.exit_status == 3
    assert "no module 'flaskap_here'" in str(error)
    assert "did you mean 'flaskapp_here'?" in str(error)
    assert error.traceback == ""


def test_a_missing_submodule_names_its_parent(write: Write) -> None:
    assert "the package 'json' has no module 'json.nope'" in str(
        refusal(ModuleMissingError, "json.nope:app")
    )
    name = write(APPLICATION)
    assert f"the module {name!r} has no module" in str(
        refusal(ModuleMissingError, f"{name}.sub:app")
    )
    assert "no module 'nowhere'" in str(refusal(ModuleMissingError, "nowhere.sub:app"))


def test_a_directory_that_cannot_be_listed_has_no_nearest_module(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(APPLICATION, name="flaskapp_unseen")

    def scandir(path: str = ".") -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "scandir", scandir)  # root, as whom tests may run, lists everything
    error = refusal(ModuleMissingError, "flaskap_unseen:app")
    assert "no module 'flaskap_unseen'" in str(error)
    assert "did you mean" not in str(error)


# 4: the application's code


def test_a_module_that_imports_a_missing_one_is_not_itself_missing(write: Write) -> None:
    name = write("def load():\n    import not_installed_here\nload()\n")
    error = refusal(ApplicationRaisedError, f"{name}:app")
    assert error.exit_status == 4
    assert f"cannot import module {name!r}: ModuleNotFoundError: No module" in str(error)
    assert "import not_installed_here" in error.traceback


def test_a_module_that_fails_to_import_itself_is_not_missing(write: Write) -> None:
    name = f"loaded_{next(_numbers)}"
    write(f"raise ModuleNotFoundError('gone', name={name!r})", name=name)
    assert refusal(ApplicationRaisedError, name).exit_status == 4


def test_the_traceback_is_the_applications_alone(write: Write) -> None:
    helper = f"helper_{next(_numbers)}"
    name = write(f"import {helper}\n", **{helper: "def f():\n    return 1 / 0\nf()\n"})
    error = refusal(ApplicationRaisedError, f"{name}:app")
    lines = error.traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert f"{name}.py" in lines[1]
    assert lines[-1] == "ZeroDivisionError: division by zero"
    assert "penstock" not in error.traceback.replace(str(Path.cwd()), "")
    assert "importlib" not in error.traceback


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def app(:\n", "SyntaxError"),
        ("raise SystemExit(3)\n", "SystemExit: 3"),
        ("import sys; sys.exit()\n", "SystemExit"),
        ("raise BaseException('two\\nlines')\n", "BaseException: two lines"),
        ("def f(): f()\nf()\n", "RecursionError"),
    ],
)
def test_any_exception_of_a_module_is_reported(write: Write, text: str, said: str) -> None:
    error = refusal(ApplicationRaisedError, f"{write(text)}:app")
    assert said in str(error)
    assert said.partition(":")[0] in error.traceback


def test_a_factory_that_raises_is_reported_with_its_traceback(write: Write) -> None:
    name = write("def make():\n    raise SystemExit('no database')\n")
    error = refusal(ApplicationRaisedError, f"{name}:make()")
    assert error.exit_status == 4
    assert f"the factory '{name}:make()' raised: SystemExit: no database" in str(error)
    assert "in make" in error.traceback
    assert "takes 0 positional arguments" in str(refusal(ApplicationRaisedError, f"{name}:make(1)"))


@pytest.mark.parametrize("raised", ["RuntimeError", "SystemExit"])
@pytest.mark.parametrize("attribute", ["", ":app"])
def test_an_attribute_whose_code_raises_is_reported(
    write: Write, attribute: str, raised: str
) -> None:
    name = write(f"def __getattr__(name):\n    raise {raised}('not today')\n")
    error = refusal(ApplicationRaisedError, f"{name}{attribute}")
    assert f"of {name!r}: {raised}: not today" in str(error)


def test_an_exception_that_cannot_be_shown_is_named_by_its_type(write: Write) -> None:
    text = "class Odd(Exception):\n    def __str__(self):\n        raise ValueError\n"
    name = write(text + "raise Odd")
    error = refusal(ApplicationRaisedError, f"{name}:app")
    assert str(error) == f"cannot import module {name!r}: Odd"
    assert "Odd" in error.traceback


@pytest.mark.parametrize(
    "text", ["raise KeyboardInterrupt", "def app():\n raise KeyboardInterrupt"]
)
def test_an_interrupt_is_not_an_error_of_the_application(write: Write, text: str) -> None:
    name = write(text)
    with pytest.raises(KeyboardInterrupt):
        load_application(f"{name}:app()")


# 5: the attribute


def test_a_missing_attribute_is_named_with_the_nearest(write: Write) -> None:
    name = write(APPLICATION + "class site:\n    wsgi = app\n")
    error = refusal(AttributeMissingError, f"{name}:aap")
    assert error.exit_status == 5
    assert f"module {name!r} has no attribute 'aap'; did you mean 'app'?" == str(error)
    inner = refusal(AttributeMissingError, f"{name}:site.wsgy")
    assert f"'{name}:site' has no attribute 'wsgy'; did you mean 'wsgi'?" == str(inner)


def test_an_object_that_cannot_list_its_attributes_has_no_nearest(write: Write) -> None:
    name = write("class Odd:\n    def __dir__(self):\n        raise ValueError\nsite = Odd()\n")
    error = refusal(AttributeMissingError, f"{name}:site.app")
    assert str(error) == f"'{name}:site' has no attribute 'app'"


@pytest.mark.parametrize("attribute", ["", ":app"])
def test_the_error_names_a_file_with_the_name_of_an_imported_module(
    write: Write, tmp_path: Path, attribute: str
) -> None:
    write(APPLICATION, name="site")
    error = refusal(AttributeMissingError, f"site{attribute}")
    assert f"(it is {sys.modules['site'].__file__}; " in str(error)
    assert f"{tmp_path / 'site.py'} needs another name)" in str(error)


def test_a_module_alone_without_the_usual_names_says_which(write: Write) -> None:
    error = refusal(AttributeMissingError, write("x = 1"))
    assert "neither 'application' nor 'app'" in str(error)


# 6: no application


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("None", "its type NoneType is not callable"),
        ("'text'", "its type str is not callable"),
        ("lambda: None", "cannot be called with the two positional arguments"),
        ("lambda environ: None", "a factory is written with its arguments, as in"),
    ],
)
def test_an_object_that_cannot_be_called_is_not_an_application(
    write: Write, expression: str, said: str
) -> None:
    name = write(f"app = {expression}\nmake = lambda: app\n")
    error = refusal(NotCallableError, f"{name}:app")
    assert error.exit_status == 6
    assert said in str(error)
    assert "what the factory" in str(refusal(NotCallableError, f"{name}:make()"))


def test_an_application_that_is_called_as_a_factory_is_told_so(write: Write) -> None:
    name = write(APPLICATION + "def make(x): pass\ndef fails(a=1, b=2): raise TypeError('no')\n")
    error = refusal(ApplicationRaisedError, f"{name}:app()")
    assert "missing 2 required positional arguments" in str(error)
    assert str(error).endswith(f"; if it is the application itself, write '{name}:app', without ()")
    assert "without ()" not in str(refusal(ApplicationRaisedError, f"{name}:make()"))
    assert "without ()" not in str(refusal(ApplicationRaisedError, f"{name}:fails()"))


def test_a_factory_that_cannot_be_called_is_refused(write: Write) -> None:
    name = write("app = 1")
    assert "cannot be called" in str(refusal(NotCallableError, f"{name}:app()"))


@pytest.mark.parametrize(
    "text",
    [
        "def app(environ, start_response, more): pass",
        "def app(environ, start_response, *, more): pass",
        "def app(*, environ, start_response): pass",
        "class A:\n    def __call__(self): pass\napp = A()",
        "class A:\n    def __call__(self, environ): pass\napp = A()",
        "class A:\n    def run(self, environ): pass\napp = A().run",
        "import functools\napp = functools.partial(lambda a, e, s: None, 1, 2)",
        "class app:\n    def __init__(self): pass\n    def __call__(self, e, s): pass",
        "class app:\n    def __call__(self, environ, start_response): pass",
    ],
)
def test_PEP3333_an_object_that_cannot_take_two_positional_arguments_is_not_an_application(
    write: Write, text: str
) -> None:
    name = write(text)
    error = refusal(NotCallableError, f"{name}:app")
    assert error.exit_status == 6
    assert "cannot be called with the two positional arguments (environ, start_response)" in str(
        error
    )


@pytest.mark.parametrize(
    "text",
    [
        "def app(environ, start_response, more=None, *, other=None): pass",
        "class A:\n    __call__ = staticmethod(lambda environ, start_response: None)\napp = A()",
        "class A:\n    @classmethod\n    def __call__(cls, environ, start_response): pass\n"
        "app = A()",
        "def view(request): pass\n@functools.wraps(view)\ndef app(*args): pass",
        "def view(request): pass\n@functools.wraps(view)\ndef app(environ, start_response): pass",
        "class A:\n    @functools.wraps(print)\n    def __call__(self, *args): pass\napp = A()",
        "class Any:\n    def __getattr__(self, name): raise RuntimeError\n"
        "    def __call__(self, *args): pass\napp = Any()",
        "class Meta(type):\n    def __call__(cls, *args): pass\n"
        "class app(metaclass=Meta):\n    def __init__(self): pass",
        "class Meta(type):\n    def __getattr__(cls, name): raise RuntimeError\n"
        "class app(metaclass=Meta):\n    def __init__(self): pass",
        "def app(environ, start_response): pass\napp.__signature__ = 'nonsense'",
        "app = dict.fromkeys",
        "app = operator.methodcaller('x')",
        "app = divmod",
    ],
)
def test_what_may_take_two_arguments_is_left_to_the_first_request(write: Write, text: str) -> None:
    assert callable(load_application(f"{write(f'import functools, operator{chr(10)}{text}')}:app"))


@pytest.mark.parametrize(
    "text",
    [
        "async def app(scope, receive, send): pass",
        "class A:\n    async def __call__(self, scope, receive, send): pass\napp = A()",
        "async def app(environ, start_response):\n    yield b''",
    ],
)
def test_an_async_application_is_told_apart(write: Write, text: str) -> None:
    assert "async" in str(refusal(NotCallableError, f"{write(text)}:app"))


# What is said about common mistakes


FACTORY = """
def create_app(config=None):
    def application(environ, start_response):
        start_response("200 OK", [])
        return [b"made"]
    return application
"""
CLASS = """
class App:
    def __init__(self, first=1, second=2): pass
    def __call__(self, environ, start_response):
        start_response("200 OK", [])
        return [b"instance"]
"""


@pytest.mark.parametrize(
    ("text", "attribute", "said"),
    [
        (FACTORY, "create_app", "write 'MODULE:create_app()'"),
        (FACTORY.replace("config", "config=1, testing"), "create_app", "'MODULE:create_app()'"),
        (CLASS, "App", "it is a class: if its instances are the application, write 'MODULE:App()'"),
        (FACTORY, "", "did you mean 'MODULE:create_app()'?"),
        (CLASS + "server = App()", "", "did you mean 'MODULE:server'?"),
        (CLASS + "server = App()", "application", "did you mean 'MODULE:server'?"),
        (CLASS + "one = App()\ntwo = App()", "", "it may be one of MODULE:one, MODULE:two"),
        (CLASS + "application = App()", "app", "did you mean 'MODULE:application'?"),
        ("import threading\n" + CLASS + "app = application = App()", "nothing", "MODULE:app"),
        ("import not_installed_here", "app", f"this server runs on {sys.executable}: install"),
    ],
)
def test_a_common_mistake_is_answered_with_what_to_write(
    write: Write, text: str, attribute: str, said: str
) -> None:
    name = write(text)
    with pytest.raises(LoadError) as error:
        load_application(f"{name}:{attribute}" if attribute else name)
    assert said.replace("MODULE", name) in str(error.value)


def test_a_function_whose_two_parameters_have_defaults_is_an_application_by_their_names(
    write: Write,
) -> None:
    name = write("def app(environ=None, start_response=None):\n    return [b'ok']\n")
    assert body_of(load_application(f"{name}:app")) == [b"ok"]


def test_a_class_whose_instances_are_responses_is_an_application(write: Write) -> None:
    name = write(CLASS + "    def __iter__(self): return iter([b'iterated'])\n")
    assert body_of(load_application(f"{name}:App")) == [b"iterated"]


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("from wsgiref_like import make\n", "wsgiref_like"),
        ("", "uses_it"),
        ("", "names_it"),
    ],
)
def test_a_file_that_hides_an_installed_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, spec: str
) -> None:
    package = tmp_path / "installed" / "wsgiref_like" / "__init__.py"
    here = tmp_path / "here"
    package.parent.mkdir(parents=True)
    package.write_text("def make(): pass\n")
    here.mkdir()
    (here / "wsgiref_like.py").write_text(text)
    (here / "uses_it.py").write_text("import wsgiref_like\napp = wsgiref_like.make()\n")
    (here / "names_it.py").write_text("from wsgiref_like import make\napp = make()\n")
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(tmp_path / "installed")
    monkeypatch.syspath_prepend(here)
    for name in ("wsgiref_like", "uses_it", "names_it"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    said = str(refusal(ApplicationRaisedError, spec))
    assert said.endswith(f"{here}/wsgiref_like.py hides {package}: give it another name")
    sys.modules.pop("wsgiref_like", None)


def test_places_of_the_module_that_is_meant_are_named(write: Write, tmp_path: Path) -> None:
    number = next(_numbers)
    package = tmp_path / f"outer_{number}"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "wsgi.py").write_text(APPLICATION)
    (package / "asgi.py").write_text("async def application(scope, receive, send): pass\n")
    one = write(APPLICATION)
    (tmp_path / f"with-hyphen-{number}.py").write_text(APPLICATION)
    importlib.invalidate_caches()
    wanted = f"did you mean 'outer_{number}.wsgi'?"
    cases = {
        f"outer_{number}": wanted,
        f"outer_{number}:app": wanted,
        f"outer_{number}.asgi": wanted,
        f"{one}.app": f"did you mean '{one}:app'?",
        f"with-hyphen-{number}:app": f"rename the file to with_hyphen_{number}.py",
        f"with_hyphen_{number}:app": f"rename with-hyphen-{number}.py to with_hyphen_{number}.py",
    }
    for spec, said in cases.items():
        with pytest.raises(LoadError) as error:
            load_application(spec)
        assert said in str(error.value), spec


def test_the_directory_that_has_the_module_is_named(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    number = next(_numbers)
    (tmp_path / f"above_{number}.py").write_text(APPLICATION)
    (inner / f"below_{number}.py").write_text(APPLICATION)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(tmp_path)])
    assert "it is in inner: add --chdir inner" in str(
        refusal(ModuleMissingError, f"below_{number}:app")
    )
    monkeypatch.chdir(inner)
    said = f"it is in {tmp_path}: add --chdir .."
    assert said in str(refusal(ModuleMissingError, f"above_{number}:app"))


def test_the_directory_that_has_what_the_module_imports_is_named(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / f"site_{next(_numbers)}"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "inner_wsgi.py").write_text(f"import {package.name}\n{APPLICATION}")
    monkeypatch.setattr(sys, "path", [str(package), *sys.path[1:]])
    monkeypatch.chdir(package)
    with pytest.raises(LoadError) as error:
        load_application("inner_wsgi:app")
    said = (
        f"{package.name!r} is in {tmp_path}: add --chdir .. and write '{package.name}.inner_wsgi'"
    )
    assert said in str(error.value)
