"""The scripts by which shells complete the command line."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from penstock.cli.completion import script
from penstock.config.settings import OPTIONS


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_setting_is_completed_and_the_shell_can_read_it(shell: str) -> None:
    text = script(shell)
    for option in OPTIONS.values():
        flags = (option.flag.removeprefix("--"), option.negative_flag.removeprefix("--"))
        assert any(flag in text for flag in flags)
    for name in ("status", "recycle", "import", "no-wait", "now"):  # of penstockctl
        assert name in text
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=text, text=True, check=True, timeout=30)


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["penstock", "--access-logf"], ["--access-logfile", "--access-logformat"]),
        (["penstock", "--transport", "n"], ["native"]),
        (["penstockctl", "re"], ["recent", "recycle", "refused", "reload", "requests"]),
        (["penstockctl", "--json", "sta"], ["stacks", "status"]),
        (["penstockctl", "stop", "--n"], ["--no-wait", "--now"]),
        (["penstockctl", "--n"], []),
        (["penstockctl", "import", "--cont"], ["--control"]),
    ],
)
def test_bash_completes_flags_and_values(words: list[str], completed: list[str]) -> None:
    asked = " ".join(words)
    program = (
        f"{script('bash')}\nCOMP_WORDS=({asked}); COMP_CWORD={len(words) - 1}; _{words[0]}\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    assert sorted(done.stdout.split()) == completed
