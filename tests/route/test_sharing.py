"""What a router's file holds when it is given away, and what it can do when it comes back."""

from __future__ import annotations

import io
import os
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from localllm.registry import Model, Registry
from localllm.registry.routers import Routers
from localllm.route.deciding.explaining import explain_score
from localllm.route.making import Wish, create, make_spec
from localllm.route.opening import open_router_named, read_version
from localllm.route.pool.reading import parse_spec
from localllm.route.sharing import export_router, import_router
from localllm.route.teaching import Material, teach
from localllm.route.training import TRAINERS
from tests.conftest import Done
from tests.route.known import known

TRUTH = known(90)


def given_away(registry: Registry, path: Path, kind: str, *, with_prompts: bool = False) -> None:
    spec = make_spec(Wish(("small=tiny", "big=tiny")))
    kept = create(registry, "mine", spec)
    teach(registry, kept.current, spec, Material(TRUTH, (), ()), kind=kind)
    export_router(registry, Routers(registry).find("mine").current, path, with_prompts=with_prompts)


def texts_in(path: Path) -> str:
    """Every text in every array, and what lies beside them."""
    found: list[str] = []
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            content = archive.read(name)
            found.append(content.decode("utf-8", "replace"))
            if name.endswith(".npz"):
                with np.load(io.BytesIO(content)) as held:
                    for part in held.files:
                        array = held[part]
                        found += [str(one) for one in array.ravel() if array.dtype.kind == "U"]
                        found.append(array.tobytes().decode("utf-8", "replace"))
    return "\n".join(found)


@pytest.mark.parametrize("kind", TRAINERS)
def test_no_prompt_is_in_what_is_given_away(
    registry: Registry, tiny_model: Model, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "mine.zip"
    given_away(registry, path, kind)
    held = texts_in(path)
    for prompt in TRUTH.prompts:
        assert prompt[:40] not in held
        assert prompt.rsplit(" ", 1)[1] not in held  # the number that stands in one prompt only
    import_router(registry, path, "copy")
    one, two = (open_router_named(registry, name).router for name in ("mine", "copy"))
    assert one is not None and two is not None
    asked = [*TRUTH.prompts[:5], "a theorem?", "日本語"]
    assert two.probabilities(asked) == pytest.approx(one.probabilities(asked), abs=1e-6)
    told = explain_score(two, asked[0])
    assert sum(part.amount for part in told.parts) == pytest.approx(told.score)


def test_with_prompts_their_beginnings_go_along(
    registry: Registry, tiny_model: Model, tmp_path: Path
) -> None:
    path = tmp_path / "mine.zip"
    given_away(registry, path, "neighbours", with_prompts=True)
    assert TRUTH.prompts[0] in texts_in(path)


def test_how_it_was_made_goes_along(registry: Registry, tiny_model: Model, tmp_path: Path) -> None:
    path = tmp_path / "mine.zip"
    given_away(registry, path, "neighbours")
    import_router(registry, path, "copy")
    version = Routers(registry).find("copy").current
    made = parse_spec(version.text(), "copy")[1]
    assert (made["predictor"], made["target_share"], made["by"]) == ("neighbours", 0.5, "import")


def test_an_edited_threshold_is_not_overruled(
    registry: Registry, tiny_model: Model, tmp_path: Path
) -> None:
    path = tmp_path / "mine.toml"
    given_away(registry, path, "lexical")
    spec = parse_spec(path.read_text(encoding="utf-8"), "mine")[0]
    old = f"threshold = {spec.threshold}"
    path.write_text(path.read_text(encoding="utf-8").replace(old, "threshold = 0.85"))
    import_router(registry, path, "copy")
    version = Routers(registry).find("copy").current
    done = teach(registry, version, parse_spec(version.text(), "copy")[0],
                 Material(TRUTH, (), ()))  # fmt: skip
    assert done.threshold == 0.85


def test_it_says_what_goes_along(registry: Registry, tiny_model: Model, tmp_path: Path,
                                 cli: Callable[..., Done]) -> None:  # fmt: skip
    given_away(registry, tmp_path / "a.zip", "neighbours")
    done = cli("route", "export", "mine", tmp_path / "b.zip", "--json")
    assert done.data["by_prompt"] and "put together" in done.json["warnings"][0]
    version = Routers(registry).find("mine").current
    teach(registry, version, read_version(version), Material(TRUTH, (), ()))
    done = cli("route", "export", "mine", tmp_path / "c.zip", "--json")
    assert not done.data["by_prompt"] and not done.json["warnings"]


_ELSEWHERE = """
[[members]]
name = "small"
model = "tiny"
[[members]]
name = "cloud"
endpoint = "far"
first_token_s = 7.0
outside = true
[[steps]]
use = "always"
to = "cloud"
[privacy]
card = "allow"
"""


def test_a_policy_that_lets_more_go_is_said(
    registry: Registry, tiny_model: Model, tmp_path: Path, cli: Callable[..., Done]
) -> None:
    path = tmp_path / "elsewhere.toml"
    path.write_text(_ELSEWHERE)
    done = cli("route", "import", path, "--name", "theirs", "--json")
    assert done.data["privacy_laxer"] == ["card"]
    assert any("lets card leave this machine" in one for one in done.json["warnings"])
    shown = cli("route", "show", "theirs")
    assert "lets leave" in shown.out and "card" in shown.out
    path.write_text(_ELSEWHERE.replace("allow", "local"))
    strict = cli("route", "import", path, "--name", "strict", "--json")
    assert strict.data["privacy_laxer"] == [] and "lets" not in f"{strict.json['warnings']}"


def test_who_stands_in_changes_nothing_else(
    registry: Registry, tiny_model: Model, tmp_path: Path
) -> None:
    path = tmp_path / "elsewhere.toml"
    path.write_text(_ELSEWHERE)
    import_router(registry, path, "tunnel", ("cloud=endpoint:other",))
    cloud = read_version(Routers(registry).find("tunnel").current).member("cloud")
    assert (cloud.ref, cloud.outside, cloud.first_token_s) == ("other", True, 7.0)
    import_router(registry, path, "here", ("cloud=tiny",))
    cloud = read_version(Routers(registry).find("here").current).member("cloud")
    assert (cloud.kind, cloud.outside, cloud.first_token_s) == ("model", False, 7.0)


@pytest.mark.skipif(sys.platform == "win32", reason="FIFOs of POSIX")
def test_a_pipe_is_written_to_and_stays_one(
    registry: Registry, tiny_model: Model, tmp_path: Path
) -> None:
    create(registry, "piped", make_spec(Wish(("small=tiny", "big=tiny"))))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_bytes)
        done = export_router(registry, Routers(registry).find("piped").current, pipe)
        assert len(read.result(10)) == done.size_bytes > 100
    assert pipe.is_fifo()
