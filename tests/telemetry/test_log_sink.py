"""A log sink under everything that can go wrong with a log; real files, pipes and terminals."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from penstock.errors import SettingsError
from penstock.telemetry.log_sink import LogSink

MakeSink = Callable[[int], LogSink]
needs_dev_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
needs_pipe_size = pytest.mark.skipif(
    not hasattr(fcntl, "F_SETPIPE_SZ"), reason="the size of a pipe cannot be set"
)


@pytest.fixture
def make_sink() -> Iterator[MakeSink]:
    sinks: list[LogSink] = []

    def make(descriptor: int) -> LogSink:
        sinks.append(LogSink(descriptor))
        return sinks[-1]

    yield make
    for sink in sinks:
        sink.close()


@pytest.fixture
def small_pipe() -> Iterator[tuple[int, int]]:
    """A pipe of one page, whose reading end is closed here unless the test did it."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, select.PIPE_BUF)
    yield reader, writer
    try:
        os.close(reader)
    except OSError:
        pass


def line_of(size: int, letter: str = "x") -> str:
    return letter * (size - 1) + "\n"


def test_a_file_is_appended_to_and_created_for_owner_and_group_only(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    for text in ("one\n", "two\n"):
        sink = LogSink.open(str(path), setting="access_logfile")
        assert sink.write(text)
        sink.close()
    assert path.read_text() == "one\ntwo\n"
    assert stat.S_IMODE(path.stat().st_mode) & ~0o640 == 0


def test_a_descriptor_of_a_log_is_not_inherited_and_none_of_the_standard_ones(
    tmp_path: Path,
) -> None:
    sink = LogSink.open(str(tmp_path / "log"), setting="error_logfile")
    assert not os.get_inheritable(sink._descriptor)
    assert sink._descriptor > 2
    sink.close()


@pytest.mark.parametrize("name", ["missing/access.log", ".", "nul\0"])
def test_a_path_that_cannot_be_opened_is_an_error_that_names_setting_and_path(
    tmp_path: Path, name: str
) -> None:
    path = f"{tmp_path}/{name}"
    with pytest.raises(SettingsError, match="access_logfile: cannot open") as caught:
        LogSink.open(path, setting="access_logfile")
    assert repr(path) in str(caught.value)


def test_a_named_pipe_that_nobody_reads_is_an_error_and_does_not_hang(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with pytest.raises(SettingsError, match="fifo"):
        LogSink.open(str(path), setting="access_logfile")


@needs_dev_full
def test_faults_44_a_full_disk_costs_the_lines_and_they_are_counted() -> None:
    sink = LogSink.open("/dev/full", setting="access_logfile")
    assert not sink.write("one\n")
    assert not sink.write("two\nthree\n")
    assert sink.dropped == 3
    sink.close()


@needs_dev_full
def test_faults_44_the_first_line_after_an_outage_says_how_many_are_missing(
    tmp_path: Path,
) -> None:
    target = tmp_path / "log"
    target.symlink_to("/dev/full")
    sink = LogSink.open(str(target), setting="access_logfile")
    assert not sink.write("one\ntwo\n")
    target.unlink()
    sink.reopen()
    assert sink.write("three\n")
    assert sink.write("four\n")
    sink.close()
    assert target.read_text() == (
        "penstock: PEN-5020 log lines could not be written here: 2\nthree\nfour\n"
    )
    assert sink.dropped == 2


def test_faults_44_a_reader_that_is_gone_raises_nothing(make_sink: MakeSink) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    sink = make_sink(writer)
    assert not sink.write("one\n")
    assert sink.dropped == 1


@needs_pipe_size
def test_faults_44_a_full_pipe_does_not_block_and_its_flags_stay_as_they_were(
    make_sink: MakeSink, small_pipe: tuple[int, int]
) -> None:
    reader, writer = small_pipe
    shared = os.dup(writer)
    before = fcntl.fcntl(shared, fcntl.F_GETFL)
    sink = make_sink(writer)
    assert sink.write(line_of(select.PIPE_BUF))
    assert not sink.write("lost\n")
    assert fcntl.fcntl(shared, fcntl.F_GETFL) == before
    os.close(shared)
    os.read(reader, select.PIPE_BUF)
    assert sink.write("found\n")
    assert os.read(reader, select.PIPE_BUF) == (
        b"penstock: PEN-5020 log lines could not be written here: 1\nfound\n"
    )


@needs_pipe_size
def test_a_line_that_is_written_in_part_is_completed_before_the_next(
    make_sink: MakeSink, small_pipe: tuple[int, int]
) -> None:
    reader, writer = small_pipe
    sink = make_sink(writer)
    long = line_of(select.PIPE_BUF + 10, "a")
    assert not sink.write(long + "lost\n")
    assert not sink.write("lost too\n")
    received = os.read(reader, select.PIPE_BUF)
    assert sink.write("next\n")
    received += os.read(reader, select.PIPE_BUF)
    notice = "penstock: PEN-5020 log lines could not be written here: 2\n"
    assert received.decode() == long + notice + "next\n"
    assert sink.dropped == 2


@needs_pipe_size
def test_whole_lines_go_into_a_pipe_in_pieces_that_it_takes_at_once(
    make_sink: MakeSink, small_pipe: tuple[int, int]
) -> None:
    reader, writer = small_pipe
    sink = make_sink(writer)
    lines = [line_of(1500, letter) for letter in "abc"]
    assert not sink.write("".join(lines))
    assert os.read(reader, 8192).decode() == lines[0] + lines[1]
    assert sink.dropped == 1


@needs_pipe_size
def test_with_patience_a_slow_reader_gets_everything(
    make_sink: MakeSink, small_pipe: tuple[int, int]
) -> None:
    reader, writer = small_pipe
    sink = make_sink(writer)
    text = "".join(f"line {number}\n" for number in range(5000))
    received = bytearray()

    def read_slowly() -> None:
        while len(received) < len(text):
            received.extend(os.read(reader, 1000))

    thread = threading.Thread(target=read_slowly)
    thread.start()
    assert sink.write(text, patience=30.0)
    thread.join(30.0)
    assert received.decode() == text


@needs_pipe_size
def test_of_a_record_that_does_not_fit_the_middle_is_dropped_and_the_end_written_next(
    make_sink: MakeSink, small_pipe: tuple[int, int]
) -> None:
    reader, writer = small_pipe
    sink = make_sink(writer)
    record = "".join(f"line {number}\n" for number in range(10_000))
    assert not sink.write(record, keep_end=True)
    received = os.read(reader, select.PIPE_BUF)
    sink.write("next\n")  # there is room for a part of what is kept
    received += os.read(reader, select.PIPE_BUF)
    sink.close()  # which writes the rest
    received += os.read(reader, select.PIPE_BUF)
    lines = received.decode().splitlines()
    assert lines[0] == "line 0"
    left_out = next(line for line in lines if "left out" in line)
    count = int(left_out.split()[1])
    at = lines.index(left_out)
    assert lines[at - 1] == f"line {at - 1}"
    assert lines[at + 1 : at + 10] == [f"line {at + count + each}" for each in range(9)]
    assert "line 9999" in lines


@needs_pipe_size
def test_what_one_sink_has_begun_another_one_of_the_same_place_ends(
    make_sink: MakeSink, small_pipe: tuple[int, int]
) -> None:
    reader, writer = small_pipe
    second = make_sink(os.dup(writer))
    first = make_sink(writer)
    long = line_of(select.PIPE_BUF + 10, "a")
    assert not first.write(long)
    received = os.read(reader, select.PIPE_BUF)
    assert second.write("next\n")
    assert (received + os.read(reader, select.PIPE_BUF)).decode() == long + "next\n"


@contextmanager
def writing(sink: LogSink) -> Iterator[None]:
    """Have another thread write, as it were, for as long as the block lasts."""
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with sink._lock:
            held.set()
            release.wait(30.0)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(30.0)
        yield
    finally:
        release.set()
        thread.join()


def test_a_line_is_dropped_where_another_thread_writes_without_end(make_sink: MakeSink) -> None:
    reader, writer = os.pipe()
    sink = make_sink(writer)
    with writing(sink):
        assert not sink.write("lost\n")
    assert sink.write("one\n")
    assert b"not be written here: 1\none\n" in os.read(reader, 200)
    os.close(reader)


class RacingSink(LogSink):
    """Sees room that another process takes before the write."""

    def _room(self, deadline: float) -> bool:
        return True


def racing_sink(writer: int) -> RacingSink:
    os.set_blocking(writer, False)
    os.write(writer, line_of(select.PIPE_BUF).encode())
    return RacingSink(writer)


@needs_pipe_size
def test_room_that_another_process_takes_first_is_no_error(small_pipe: tuple[int, int]) -> None:
    sink = racing_sink(small_pipe[1])
    assert not sink.write("one\n")
    assert sink.dropped == 1
    sink.close()


@needs_pipe_size
def test_with_patience_room_that_another_process_takes_first_is_waited_for(
    small_pipe: tuple[int, int],
) -> None:
    reader, writer = small_pipe
    sink = racing_sink(writer)
    thread = threading.Thread(target=os.read, args=(reader, select.PIPE_BUF))
    thread.start()
    assert sink.write("one\n", patience=30.0)
    thread.join()
    assert os.read(reader, 10) == b"one\n"
    sink.close()


def test_a_socket_as_a_service_manager_gives_it_is_written_to(make_sink: MakeSink) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        sink = make_sink(ours.detach())
        assert sink.write("one\n")
        assert theirs.recv(100) == b"one\n"


def test_a_socket_whose_buffer_is_full_does_not_block(make_sink: MakeSink) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        sink = make_sink(ours.detach())
        bound = 10_000
        while sink.write(line_of(4000)) and bound:
            bound -= 1
        assert bound
        assert sink.dropped == 1


def test_a_closed_sink_drops_and_raises_nothing(make_sink: MakeSink) -> None:
    reader, writer = os.pipe()
    sink = make_sink(writer)
    sink.close()
    sink.close()
    assert not sink.write("one\n")
    assert os.read(reader, 10) == b""
    os.close(reader)


def test_a_descriptor_that_the_application_closed_raises_nothing(make_sink: MakeSink) -> None:
    reader, writer = os.pipe()
    sink = make_sink(writer)
    os.close(sink._descriptor)
    assert not sink.write("one\n")
    os.close(reader)


def test_text_that_is_no_unicode_is_written_escaped_and_ended(make_sink: MakeSink) -> None:
    reader, writer = os.pipe()
    sink = make_sink(writer)
    assert sink.write("\udcff é")
    assert os.read(reader, 100) == b"\\udcff \xc3\xa9\n"
    os.close(reader)


def test_lines_of_several_threads_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "log"
    sink = LogSink.open(str(path), setting="access_logfile")

    def work(letter: str) -> None:
        for _ in range(50):
            sink.write(line_of(3000, letter))

    threads = [threading.Thread(target=work, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sink.close()
    lines = path.read_text().splitlines()
    assert len(lines) == 200
    assert {len(set(line)) for line in lines} == {1}


def test_faults_44_after_a_rotation_reopen_writes_to_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    sink = LogSink.open(str(path), setting="access_logfile")
    sink.write("old\n")
    path.rename(tmp_path / "log.1")
    sink.write("old too\n")
    sink.reopen()
    sink.write("new\n")
    sink.close()
    assert (tmp_path / "log.1").read_text() == "old\nold too\n"
    assert path.read_text() == "new\n"


ROTATION = """
import os, resource, sys
from penstock.telemetry.log_sink import LogSink

sink = LogSink.open("log", setting="access_logfile")
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))  # the disk is full in the middle of a line
sink.write("0123456789 is a line\\n")
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
os.rename("log", "log.1")
sink.reopen()
sink.write("new\\n")
sink.close()
"""


def test_a_rotation_completes_the_line_that_was_begun_in_the_old_file(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", ROTATION], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "log.1").read_text() == "0123456789 is a line\n"
    assert (tmp_path / "log").read_text() == "new\n"


def test_a_reopen_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "log"
    sink = LogSink.open(str(path), setting="access_logfile")
    folder.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError):
        sink.reopen()
    assert sink.write("still\n")
    sink.close()
    assert (tmp_path / "moved" / "log").read_text() == "still\n"


def test_reopen_does_nothing_without_a_path_and_after_close(
    make_sink: MakeSink, tmp_path: Path
) -> None:
    reader, writer = os.pipe()
    make_sink(writer).reopen()
    os.close(reader)
    sink = LogSink.open(str(tmp_path / "log"), setting="access_logfile")
    sink.close()
    sink.reopen()
    assert not sink.write("one\n")
    assert not sink.is_terminal()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_child_that_is_forked_while_a_thread_writes_can_write_too(make_sink: MakeSink) -> None:
    reader, writer = os.pipe()
    sink = make_sink(writer)
    with writing(sink):
        child = os.fork()
        if child == 0:
            os._exit(0 if sink.write("from the child\n") else 1)
        status = os.waitpid(child, 0)[1]
    assert os.waitstatus_to_exitcode(status) == 0
    assert os.read(reader, 100) == b"from the child\n"
    os.close(reader)


def run_python(code: str, shell_redirection: str = "") -> subprocess.CompletedProcess[str]:
    source = Path(__file__).resolve().parents[2] / "src"
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" -c "$1" {shell_redirection}', sys.executable, code],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": str(source)},
        check=False,
    )


OPEN_BOTH = """
import os
from penstock.telemetry.log_sink import LogSink
out = LogSink.open("-", setting="access_logfile", stream=1)
err = LogSink.open("-", setting="error_logfile", stream=2)
"""


def test_faults_28_an_application_that_closes_descriptors_0_to_2_does_not_stop_the_log() -> None:
    code = OPEN_BOTH + "os.closerange(0, 3)\nout.write('to out\\n'); err.write('to err\\n')\n"
    result = run_python(code)
    assert (result.stdout, result.stderr) == ("to out\n", "to err\n")


def test_faults_28_started_with_closed_streams_nothing_is_written_to_what_has_their_number() -> (
    None
):
    code = (
        "import os\nreader, writer = os.pipe()\nassert {reader, writer} == {1, 2}\n"
        + OPEN_BOTH
        + "assert out.write('x\\n') and err.write('x\\n')\n"
        "os.set_blocking(reader, False)\n"
        "try:\n    os.read(reader, 1)\nexcept BlockingIOError:\n    os._exit(7)\n"
    )
    assert run_python(code, ">&- 2>&-").returncode == 7


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc")
def test_a_pipe_on_standard_output_is_opened_anew_so_that_no_race_for_room_can_block() -> None:
    code = OPEN_BOTH + (
        "import fcntl\n"
        "assert fcntl.fcntl(out._descriptor, fcntl.F_GETFL) & os.O_NONBLOCK\n"
        "assert not fcntl.fcntl(1, fcntl.F_GETFL) & os.O_NONBLOCK\n"
        "out.write('fine\\n')\n"
    )
    result = run_python(code)
    assert (result.stdout, result.stderr) == ("fine\n", "")


def test_a_terminal_is_known_as_one_and_written_to(make_sink: MakeSink) -> None:
    ours, theirs = os.openpty()
    sink = make_sink(theirs)
    assert sink.is_terminal()
    assert sink.write("hello\n")
    assert os.read(ours, 100) == b"hello\r\n"
    os.close(ours)
