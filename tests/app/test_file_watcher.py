"""Which files are watched with --reload, and what counts as a change."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

from penstock.app import file_watcher
from penstock.app.file_watcher import State, Watch, file_clock, files_of, state_of
from support.invariant import eventually

LONG_AGO = 1_500_000_000


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder from which modules are imported; those of a test are forgotten after it."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(path: Path, text: str) -> Path:
    """Write a file with a modification time of long ago, before anything can have read it."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def watch(*more: str) -> Watch:
    """Return a watch that was made long after all files were written, as far as it can tell."""
    found = Watch(more, lambda _: None)
    found._began = found._looked = found._began + 10**12
    return found


def known(found: Watch) -> set[str]:
    return set(found._states)


def test_files_of_python_of_packages_and_of_the_server_are_not_watched(folder: Path) -> None:
    write(folder / "edited_module.py", "import json, pytest, penstock\n")
    importlib.import_module("edited_module")
    found = watch()
    found.loaded()
    assert str(folder / "edited_module.py") in known(found)
    others = tuple(os.path.dirname(os.path.abspath(sys.modules[name].__file__ or "")) + os.sep
                   for name in ("json", "pytest", "penstock"))  # fmt: skip
    assert not [path for path in known(found) if path.startswith(others)]


def test_looking_does_not_load_a_lazy_module(folder: Path) -> None:
    write(folder / "lazy_module.py", "raise AssertionError('loaded')\n")
    spec = importlib.util.find_spec("lazy_module")
    assert spec is not None
    assert spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules["lazy_module"] = module
    spec.loader.exec_module(module)
    found = watch()
    found.loaded()
    assert str(folder / "lazy_module.py") in known(found)


def test_odd_objects_among_the_modules_do_no_harm(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Odd:
        def __getattribute__(self, name: str) -> object:
            raise RuntimeError(name)

    for name, odd in (("odd_one", None), ("odd_two", 7), ("odd_three", Odd())):
        monkeypatch.setitem(sys.modules, name, odd)
    watch().loaded()


def test_a_change_is_found_until_it_is_reported(folder: Path) -> None:
    path = write(folder / "page.html", "one")
    found = watch(str(path))
    found.loaded()
    assert found.look() == {}
    path.write_text("changed")
    assert found.look() == {str(path): state_of(str(path))}
    assert found.look() == {str(path): state_of(str(path))}
    path.unlink()
    assert found.look() == {str(path): None}


def test_a_file_that_is_renamed_into_place_is_a_change_whatever_its_times_are(
    folder: Path,
) -> None:
    path, new = write(folder / "page.html", "one"), write(folder / "new.html", "two")
    found = watch(str(path))
    found.loaded()
    new.rename(path)
    assert list(found.look()) == [str(path)]


def test_a_file_that_is_removed_and_written_again_is_one_change(folder: Path) -> None:
    path = write(folder / "page.html", "one")
    found = watch(str(path))
    found.loaded()
    path.unlink()
    changed = found.look()
    assert changed == {str(path): None}
    path.write_text("two")
    assert found._all_changes(changed) == {str(path): state_of(str(path))}


def test_a_change_that_is_undone_at_once_is_no_change(folder: Path) -> None:
    path = write(folder / "page.html", "one")
    found = watch(str(path))
    found.loaded()
    aside = path.rename(folder / "aside")
    changed = found.look()
    aside.rename(path)
    assert found._all_changes(changed) == {}


def test_what_changes_between_the_load_and_the_first_look_is_a_change(folder: Path) -> None:
    path = write(folder / "hasty_module.py", "value = 1\n")
    found = Watch((), lambda _: None)
    importlib.import_module("hasty_module")
    # With the time of the old one, as `cp -p` and archives do it.
    write(path, "value = 2\n")
    found.loaded()
    assert found.look()[str(path)] == state_of(str(path))


@pytest.mark.skipif(sys.platform != "linux", reason="the clock of files is known for Linux alone")
def test_no_file_that_is_saved_after_a_look_seems_to_be_older(folder: Path) -> None:
    """The last of two quick saves was lost where the kernel's timer interrupt came late."""
    path = folder / "saved"
    for _ in range(2000):
        looked = file_clock()
        path.write_text("x")
        assert path.stat().st_ctime_ns >= looked  # time.time_ns() is ahead by some milliseconds


def test_directories_and_patterns_are_read_again_each_time(folder: Path) -> None:
    words, pages = folder / "words", folder / "pages"
    write(words / "one.txt", "one")
    write(pages / "one.html", "one")
    found = watch(str(words), str(pages / "*.html"), str(folder / "not-there-yet"))
    found.loaded()
    found._looked -= 10**12
    assert known(found) >= {str(words / "one.txt"), str(pages / "one.html")}
    added = [write(words / "two.txt", "2"), write(pages / "two.html", "2")]
    added.append(write(folder / "not-there-yet", "3"))
    write(pages / "two.txt", "not of the pattern")
    assert set(found.look()) == {str(path) for path in added}


def error_of(name: str) -> BaseException:
    with pytest.raises(BaseException) as caught:
        importlib.import_module(name)
    return caught.value


def test_the_files_of_an_error_are_those_it_passed_through_and_the_one_it_is_about(
    folder: Path,
) -> None:
    outer = write(folder / "outer_module.py", "import inner_module\n")
    inner = write(
        folder / "inner_module.py",
        "try:\n    import worst_module\nexcept SyntaxError as error:\n"
        "    raise LookupError from error\n",
    )
    worst = write(folder / "worst_module.py", "def (:\n")
    found = files_of(error_of("outer_module")) - {__file__}
    assert found == {str(outer), str(inner), str(worst)}


def test_a_module_that_is_missing_is_looked_for_where_it_would_be_found(folder: Path) -> None:
    write(folder / "some_package" / "__init__.py", "")
    user = write(folder / "user_module.py", "import some_package.part\n")
    package = folder / "some_package"
    assert files_of(error_of("user_module")) - {__file__} == {
        str(user), str(package / "part.py"), str(package / "part" / "__init__.py")
    }  # fmt: skip
    write(user, "import nowhere_module\n")
    places = files_of(error_of("user_module"))
    assert places >= {str(folder / "nowhere_module.py"), str(folder / "nowhere_module/__init__.py")}


def test_the_thread_reports_each_change_once_and_ends(folder: Path) -> None:
    path = write(folder / "page.html", "one")
    told: list[dict[str, State]] = []
    found = Watch([str(path)], told.append)
    found._began = found._looked = found._began + 10**12
    found.loaded()
    found.begin()
    found.begin()
    assert len([t for t in threading.enumerate() if t.name == "penstock-reload"]) == 1
    for text in ("a change", "another change"):
        path.write_text(text)
        assert eventually(lambda: bool(told))
        assert told == [{str(path): state_of(str(path))}]
        told.clear()
    found.end()


@pytest.mark.parametrize("young", [True, False])
def test_a_late_clock_of_the_file_system_makes_no_code_old_enough_for_the_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch, young: bool
) -> None:
    late = 10 * file_watcher.CACHE_NS
    clock = file_clock() - late
    monkeypatch.setattr(file_watcher, "file_clock", lambda: clock)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    # What it replaces is put back after the test.
    monkeypatch.setattr(SourceFileLoader, "set_data", SourceFileLoader.set_data)
    path = folder / "late_module.py"
    path.write_text("version = 1\n")
    # Saved a moment ago by that clock, or long ago.
    saved = clock - file_watcher.CACHE_NS // 2 if young else clock - 2 * file_watcher.CACHE_NS
    os.utime(path, ns=(saved, saved))
    file_watcher.keep_young_code_out_of_the_cache()
    importlib.import_module("late_module")
    assert Path(importlib.util.cache_from_source(str(path))).exists() is not young
