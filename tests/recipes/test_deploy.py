"""The files that deploy: real schemas where a package of them is installed, our own look at what
matters, and their own command lines run."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

RECIPES = Path(__file__).parents[2] / "recipes"
YAML = ("compose.yml", "compose_rpc.yml", "kubernetes.yaml", "kubernetes_rpc.yaml")
UNITS = ("localllm-serve.service", "localllm-worker.service")
KEY = "a-key-of-the-tests"

posix = pytest.mark.skipif(sys.platform == "win32", reason="they run on POSIX systems")


def documents(name: str) -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml")
    return list(yaml.safe_load_all((RECIPES / name).read_text(encoding="utf-8")))


def seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+)(s|m)?", text)
    assert match is not None, text
    return int(match[1]) * (60 if match[2] == "m" else 1)


def option(args: list[str], name: str) -> str | None:
    """`--name=value` or `--name value`."""
    for i, arg in enumerate(args):
        if arg == name:
            return args[i + 1]
        if arg.startswith(f"{name}="):
            return arg.partition("=")[2]
    return None


@pytest.mark.parametrize("name", [*YAML, *UNITS, "Dockerfile"])
def test_each_opens_with_the_command_that_runs_it(name: str) -> None:
    first = (RECIPES / name).read_text(encoding="utf-8").splitlines()[0]
    assert re.match(r"# (.*&& )?(sudo|docker|kubectl|python) ", first), first
    assert f"recipes/{name}" in first


# --- compose ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", YAML[:2])
def test_compose_by_its_specification(name: str) -> None:
    spec = pytest.importorskip("compose_spec", reason="pip install compose-spec")
    (document,) = documents(name)  # with its anchors resolved, as compose reads it
    found = spec.PyCompose.from_json(json.dumps(document))
    found.validate()
    assert set(found.service_names()) == set(document["services"])


@pytest.mark.parametrize("name", YAML[:2])
def test_compose_services_are_locked_down(name: str) -> None:
    (found,) = documents(name)
    for service in found["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["user"].split(":")[0] not in ("0", "root")
        assert service["deploy"]["resources"]["limits"]["memory"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        build = service["build"]
        assert (RECIPES.parent / build["dockerfile"]).is_file()
    serve = found["services"]["serve"]
    assert "/health" in serve["healthcheck"]["test"][-1]
    assert seconds(serve["stop_grace_period"]) > float(option(serve["command"], "--grace") or 10)
    assert option(serve["command"], "--api-key-file") == "/run/secrets/api_key"
    assert serve["secrets"] == ["api_key"]
    if name == "compose_rpc.yml":
        workers = {n for n, s in found["services"].items() if s["command"][0] == "worker"}
        named = {a.partition("=")[2] for a in serve["command"] if a.startswith("--rpc=")}
        assert named == {f"{worker}:50052" for worker in workers}
        assert all(found["services"][w]["networks"] == ["rpc"] for w in workers)
        assert found["networks"]["rpc"]["internal"] is True  # it has no protection of its own


# --- Kubernetes ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", YAML[2:])
def test_kubernetes_by_its_schemas(name: str) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    for document in documents(name):
        validate.validate(document, "1.31", strict=True)


@pytest.mark.parametrize("name", YAML[2:])
def test_kubernetes_pods_are_locked_down(name: str) -> None:
    found = documents(name)
    workload = next(d for d in found if d["kind"] in ("Deployment", "StatefulSet"))
    pod = workload["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        locked = container["securityContext"]
        assert locked["readOnlyRootFilesystem"] is True
        assert locked["allowPrivilegeEscalation"] is False
        assert locked["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    labels = workload["spec"]["template"]["metadata"]["labels"]
    assert workload["spec"]["selector"]["matchLabels"].items() <= labels.items()
    service = next(d for d in found if d["kind"] == "Service")
    assert service["spec"]["selector"].items() <= labels.items()


def test_kubernetes_waits_for_the_server() -> None:
    found = documents("kubernetes.yaml")
    pod = next(d for d in found if d["kind"] == "Deployment")["spec"]["template"]["spec"]
    (serve,) = pod["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert serve[probe]["httpGet"] == {"path": "/health", "port": "http"}
    pause = float(serve["lifecycle"]["preStop"]["exec"]["command"][1])
    grace = float(option(serve["args"], "--grace") or 10)
    assert pod["terminationGracePeriodSeconds"] > pause + grace
    service = next(d for d in found if d["kind"] == "Service")
    assert option(serve["args"], "--allow-host") == service["metadata"]["name"]
    mounted = {mount["mountPath"] for mount in serve["volumeMounts"]}
    key = Path(option(serve["args"], "--api-key-file") or "")
    assert str(key.parent) in mounted
    claims = {d["metadata"]["name"] for d in found if d["kind"] == "PersistentVolumeClaim"}
    assert {v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"]
            if "persistentVolumeClaim" in v} == claims  # fmt: skip


# --- systemd ---------------------------------------------------------------------------------


def unit(name: str) -> dict[str, list[tuple[str, str]]]:
    """Sections with their settings, in order. Raises for a line that is neither."""
    found: dict[str, list[tuple[str, str]]] = {}
    section = ""
    for line in (RECIPES / name).read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith(("#", ";")):
            continue
        if match := re.fullmatch(r"\[(\w+)\]", line):
            section = match[1]
            found[section] = []
            continue
        key, equals, value = line.partition("=")
        assert equals and section and re.fullmatch(r"[A-Za-z0-9]+", key), line
        found[section].append((key, value))
    return found


@pytest.mark.parametrize("name", UNITS)
def test_units_are_locked_down_and_end_in_time(name: str) -> None:
    found = unit(name)
    assert list(found) == ["Unit", "Service", "Install"]
    service = dict(found["Service"])
    assert service["DynamicUser"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["NoNewPrivileges"] == "yes"
    assert service["CapabilityBoundingSet"] == ""
    words = shlex.split(service["ExecStart"])
    assert words[0] == "/opt/localllm/bin/localllm"
    grace = option(words, "--grace")
    assert float(service["TimeoutStopSec"]) > float(grace or 3)
    state = re.search(r"LOCALLLM_HOME=(\S+)", service["Environment"])
    assert state is not None
    assert state[1] == f"/var/lib/{service['StateDirectory']}"


@posix
@pytest.mark.parametrize("name", UNITS)
def test_units_by_systemd_itself(name: str, tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("there is no systemd-analyze here")
    copy = tmp_path / name
    text = (RECIPES / name).read_text(encoding="utf-8")
    copy.write_text(text.replace("/opt/localllm/bin/localllm", sys.executable))
    done = subprocess.run([tool, "verify", "--man=no", str(copy)], capture_output=True, text=True,
                          check=False, timeout=60)  # fmt: skip
    if "Failed to initialize manager" in done.stderr or "Failed to setup" in done.stderr:
        pytest.skip(f"systemd-analyze cannot work here: {done.stderr.splitlines()[0]}")
    complaints = [line for line in done.stderr.splitlines() if name in line]
    assert not complaints


# --- the image -------------------------------------------------------------------------------


def test_the_image_runs_as_nobody_special() -> None:
    text = (RECIPES / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#")]
    known = {"ARG", "FROM", "RUN", "COPY", "ENV", "USER", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT",
             "CMD"}  # fmt: skip
    assert {word for word, _ in lines} <= known
    last = dict(lines)
    assert last["USER"] == "10001:10001"
    assert json.loads(last["ENTRYPOINT"]) == ["localllm"]
    for word, rest in lines:
        sources = rest.split()[:-1] if word == "COPY" and "--from" not in rest else []
        assert all((RECIPES.parent / source).exists() for source in sources)


# --- their command lines, run ------------------------------------------------------------------


def served() -> list[tuple[str, list[str]]]:
    """(recipe, arguments of `localllm`) of every server in the recipes that needs no worker."""
    pytest.importorskip("yaml")
    (compose,) = documents("compose.yml")
    deployment = next(d for d in documents("kubernetes.yaml") if d["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    exec_start = dict(unit("localllm-serve.service")["Service"])["ExecStart"]
    return [
        ("compose.yml", compose["services"]["serve"]["command"]),
        ("kubernetes.yaml", pod["containers"][0]["args"]),
        ("localllm-serve.service", shlex.split(exec_start)[1:]),
    ]


@contextmanager
def running(args: list[str], folder: Path) -> Iterator[int]:
    """`localllm ARGS` on a free port of loopback, with the key where the recipe mounts it."""
    key_file = folder / "key"
    key_file.write_text(KEY + "\n")
    here = [re.sub(r"^--api-key-file=.*", f"--api-key-file={key_file}", arg) for arg in args]
    env = {**os.environ, "LOCALLLM_HOME": str(folder / "models")}
    if not any(arg.startswith("--api-key-file") for arg in args):
        env["LOCALLLM_API_KEY"] = KEY  # the unit's EnvironmentFile
    command = [sys.executable, "-m", "localllm", *here, "--host", "127.0.0.1", "--port", "0",
               "--json"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, env=env)  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        document = json.loads(line)
        assert document["ok"], document
        yield document["data"]["port"]
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0


def get(port: int, path: str, **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


@posix
@pytest.mark.parametrize("number", range(3), ids=["compose", "kubernetes", "systemd"])
def test_the_servers_start_and_are_healthy(number: int, tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="pip install 'localllm[serve]'")
    name, args = served()[number]
    assert args[0] == "serve", name
    with running(list(args), tmp_path) as port:
        assert get(port, "/health") == 200  # a probe has no key
        assert get(port, "/health", Host="10.1.2.3:11435") == 200  # and calls a pod by its address
        assert get(port, "/v1/models") == 401
        assert get(port, "/v1/models", Authorization=f"Bearer {KEY}") == 200
        named = option(list(args), "--allow-host")
        if named is not None:
            allowed = {"Host": f"{named}:11435", "Authorization": f"Bearer {KEY}"}
            assert get(port, "/v1/models", **allowed) == 200
        assert get(port, "/v1/models", Host="evil.example", Authorization=f"Bearer {KEY}") != 200


@posix
@pytest.mark.parametrize("where", ["compose_rpc.yml", "kubernetes_rpc.yaml",
                                   "localllm-worker.service"])  # fmt: skip
def test_the_workers_command_lines_are_understood(where: str) -> None:
    """Where there is no RPC build they are refused for that alone, which is after every option
    was read."""
    if where.endswith(".service"):
        args = shlex.split(dict(unit(where)["Service"])["ExecStart"])[1:]
    else:
        found = documents(where)
        if where == "compose_rpc.yml":
            args = found[0]["services"]["worker-1"]["command"]
        else:
            pod = next(d for d in found if d["kind"] == "StatefulSet")["spec"]["template"]["spec"]
            args = pod["containers"][0]["args"]
    process = subprocess.Popen(
        [sys.executable, "-m", "localllm", *args, "--port", "0", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    process.terminate()
    process.communicate(timeout=60)
    document = json.loads(line)
    assert document["ok"] or "no RPC backend" in document["error"]["message"]
