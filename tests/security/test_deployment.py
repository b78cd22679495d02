"""What `deploy/` and the workflows promise: the examples are rated, parsed, and run as they say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from support.server_process import ROOT, ServerProcess, checkout_environ
from support.serving import eventually
from support.wire import Client

UNIT = ROOT / "deploy" / "penstock.service"
MANIFEST = ROOT / "deploy" / "kubernetes.yaml"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
LONGEST = 60.0
"""Seconds that a tool may take on a busy machine."""

APPLICATION = """
def app(environ, start_response):
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(len(body)).encode()]
"""
SPOOLED = 200_000
"""Bytes of a body that goes to a file."""

linux = pytest.mark.skipif(sys.platform != "linux", reason="these are interfaces of Linux")


def tool(name: str) -> str:
    """Return the path of a program; skip the test where it is missing."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def settings_of_unit() -> dict[str, list[str]]:
    """Return the values of each setting of the service's unit."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text("utf-8").splitlines():
        name, mark, value = line.partition("=")
        if mark and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a folder with an application, which any user can read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "module.py").write_text(APPLICATION)
        (folder / "tmp").mkdir()
        yield folder


def check_it_serves(server: ServerProcess) -> None:
    with Client(server.address) as client:
        head = f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {SPOOLED}\r\n\r\n"
        client.send(head.encode() + bytes(SPOOLED))
        response = client.read_response()
        assert (response.status, response.body) == (200, str(SPOOLED).encode())


# -- systemd --------------------------------------------------------------------------------------


def test_systemd_rates_the_unit_OK() -> None:
    command = [tool("systemd-analyze"), "security", "--offline=yes", "--no-pager", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, check=False)
    if "Unknown" in done.stderr or "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze rates no files")
    rating = re.search(r"Overall exposure level for \S+: ([\d.]+) (\S+)", done.stdout)
    assert rating is not None, done.stderr
    assert float(rating[1]) <= 2.0
    assert rating[2] == "OK"


def allowed_calls() -> set[str]:
    """Return the system calls that the unit's filters allow, as systemd knows them."""
    analyze = tool("systemd-analyze")

    def members(name: str) -> set[str]:
        command = [analyze, "syscall-filter", "--no-pager", name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, check=True)
        names = re.findall(r"^\s+([@\w-]+)$", done.stdout, re.M)
        return set().union(*(members(n) if n.startswith("@") else {n} for n in names))

    allowed: set[str] = set()
    for value in settings_of_unit()["SystemCallFilter"]:
        names = set().union(*map(members, value.removeprefix("~").split()))
        allowed = allowed - names if value.startswith("~") else allowed | names
    return allowed


@linux
def test_the_server_makes_no_system_call_that_the_unit_forbids(
    place: Path, transport: str, tmp_path: Path
) -> None:
    allowed = allowed_calls()
    summary = tmp_path / "calls"
    # A supervisor and two workers, a large body, a reload, a command and a stop.
    # The tracer is no parent of what it traces (-D), so that signals reach the server.
    prefix = (tool("strace"), "-D", "-f", "-qq", "-c", "-o", str(summary), sys.executable)
    server = ServerProcess(
        "module:app",
        "--workers=2",
        f"--transport={transport}",
        f"--control={tmp_path / 'control.sock'}",
        cwd=place,
        python=prefix,
    )
    with server:
        check_it_serves(server)
        command = [sys.executable, "-m", "penstock.control.penstockctl"]
        subprocess.run(
            [*command, "--control", str(tmp_path / "control.sock"), "reload"],
            env=checkout_environ(),
            timeout=LONGEST,
            check=True,
            capture_output=True,
        )
        check_it_serves(server)
    eventually(lambda: summary.exists() and "total" in summary.read_text())
    made = set(re.findall(r"(\w+)$", summary.read_text(), re.M)) - {"syscall", "total"}
    assert {"accept4", "execve"} <= made
    # Those that ask before they act, and go on without: see the comments where they are made.
    assert made - allowed <= {"capset"}


_WITHOUT_WRITABLE_CODE = """
import ctypes, os, sys
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0):
    sys.exit(77)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@linux
def test_the_server_needs_no_memory_that_is_written_and_then_run(
    place: Path, transport: str
) -> None:
    probe = [sys.executable, "-c", _WITHOUT_WRITABLE_CODE, "-c", ""]
    if subprocess.run(probe, timeout=LONGEST, check=False).returncode == 77:
        pytest.skip("this kernel cannot forbid it (Linux 6.3)")
    prefix = (sys.executable, "-c", _WITHOUT_WRITABLE_CODE)
    arguments = ("module:app", "--workers=2", f"--transport={transport}")
    with ServerProcess(*arguments, cwd=place, python=prefix) as server:
        check_it_serves(server)


# -- Kubernetes -----------------------------------------------------------------------------------


def deployment() -> dict[str, Any]:
    """Return the Deployment's pod specification."""
    documents = yaml.safe_load_all(MANIFEST.read_text("utf-8"))
    (found,) = [it for it in documents if it["kind"] == "Deployment"]
    template = found["spec"]["template"]
    labels = template["metadata"]["labels"].items()
    assert found["spec"]["selector"]["matchLabels"].items() <= labels
    spec: dict[str, Any] = template["spec"]
    return spec


def test_the_deployment_meets_the_restricted_pod_security_standard() -> None:
    pod = deployment()
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod.keys()
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] not in (0, 65534)  # the latter cannot use control
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    volumes = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "projected", "secret"}
    for volume in pod["volumes"]:
        assert volume.keys() - {"name"} <= volumes | {"persistentVolumeClaim"}
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] is True
        assert not any("hostPort" in port for port in container["ports"])


def test_the_deployment_agrees_with_itself() -> None:
    pod = deployment()
    (container,) = pod["containers"]
    arguments = dict(part[2:].split("=", 1) for part in container["command"][2:])
    seconds = int(arguments["graceful-timeout"].removesuffix("s"))
    assert pod["terminationGracePeriodSeconds"] > seconds
    assert int(arguments["shutdown-delay"].removesuffix("s")) < seconds
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert arguments["bind"] == f"0.0.0.0:{ports['http']}"
    assert arguments["admin"] == f"0.0.0.0:{ports['admin']}"
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    (volume,) = pod["volumes"]
    assert mounts[arguments["temp-dir"]] == volume["name"]
    assert volume["emptyDir"]["sizeLimit"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == "admin"


_POD = """
set -eu
mount --make-rprivate /
mount -t tmpfs -o size=64m,mode=1777 tmpfs "$TMPDIR"
mount -o remount,bind,ro /
for folder in /tmp /var /run; do
    ! mountpoint -q "$folder" || mount -o remount,bind,ro "$folder"
done
exec setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --bounding-set=-all \
    --inh-caps=-all "$@"
"""


def in_a_pod(temporary: Path) -> tuple[str, ...]:
    """Return what starts a program as the Deployment does; skip where that is forbidden."""
    prefix = (tool("unshare"), "--mount", tool("sh"), "-c", _POD, "sh")
    tool("setpriv")
    variables = os.environ | {"TMPDIR": str(temporary)}
    probe = subprocess.run(
        [*prefix, sys.executable, "-c", ""],
        env=variables,
        capture_output=True,
        timeout=LONGEST,
        check=False,
    )
    if probe.returncode:
        pytest.skip(f"no such namespace can be made here: {probe.stderr.decode()[-200:]}")
    return (*prefix, sys.executable)


@linux
def test_the_deployments_command_runs_as_its_user_on_a_read_only_root(
    place: Path, transport: str
) -> None:
    temporary = place / "tmp"
    (container,) = deployment()["containers"]
    command = [
        part.replace("=/tmp", f"={temporary}")
        for part in container["command"][1:]
        if not part.startswith(("--bind", "--admin"))
    ]
    server = ServerProcess(
        *command,
        "--admin=127.0.0.1:0",
        f"--transport={transport}",
        cwd=place,
        environ={"TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1"},
        python=in_a_pod(temporary),
    )
    with server:
        check_it_serves(server)
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        assert re.search(r"^Uid:\t10001\t10001\t10001\t10001$", status, re.M)
        assert re.search(r"^CapBnd:\t0+$", status, re.M)
        assert re.search(r"^NoNewPrivs:\t1$", status, re.M)


# -- workflows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_by_commit_and_every_job_has_few_rights(path: Path) -> None:
    text = path.read_text("utf-8")
    used = re.findall(r"uses: (\S+)(.*)", text)
    assert used
    for action, comment in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), f"{action}: which version is it?"
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] in ({}, {"contents": "read"})
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 90
        more = job.get("permissions", {}).keys() - {"contents"}
        assert more == ({"id-token", "attestations"} if name == "attest" else set())


def test_fuzzers_the_sanitizer_and_the_audit_run_every_night() -> None:
    nightly = yaml.safe_load((ROOT / ".github/workflows/nightly.yml").read_text("utf-8"))
    assert nightly[True]["schedule"]  # YAML 1.1 takes `on` for true
    runs = str(nightly["jobs"])
    for target in ("fuzz", "native-fuzz", "make asan", "make test-all", "make audit"):
        assert target in runs
