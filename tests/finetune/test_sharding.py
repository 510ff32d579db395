"""Models parted among processes (FSDP2) learn what one process learns, and hold less."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the extra `finetune` is not installed: no torch")
pytest.importorskip("transformers", reason="the extra `finetune` is not installed")

from tests.finetune.model.conftest import Make, made  # noqa: F401
from tests.finetune.sharded_worker import CASES
from tests.finetune.test_processes import free_port

MODELS = (1, 6, 9)  # of `families.TINY`: llama with biases, qwen3 and gemma3 with a tied output


@pytest.fixture(scope="module")
def both(made: Make, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:  # noqa: F811
    """What the two processes found, and where they wrote."""
    folder, port = tmp_path_factory.mktemp("sharded"), str(free_port())
    models = [str(made(i).path) for i in MODELS]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.finetune.sharded_worker", str(folder), *models],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank),
                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            cwd=Path(__file__).parents[2],
        )
        for rank in range(2)
    ]  # fmt: skip
    ends = [process.communicate(timeout=400)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(ends)
    first, second = (json.loads((folder / f"{rank}.json").read_text("utf-8")) for rank in range(2))
    return first, second, folder


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_two_that_part_the_model_learn_what_one_learns(both: Any, case: Any) -> None:
    first, second, _ = both
    found = first[case.name]
    ways = ["two", *(["one after two", "two after one"] if case.exchanged else [])]
    assert second[case.name]["two"] == found["two"]
    for way in ways:
        for key in ("losses", "norms", "held"):
            assert found[way][key] == pytest.approx(found["one"][key], rel=2e-4), (way, key)
        assert found[way]["kept"] == found["one"]["kept"]
        assert found[way]["learned"] == pytest.approx(found["one"]["learned"], rel=1e-3)
    assert found["one"]["losses"][-1] < found["one"]["losses"][0]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_holds_half_of_all_parameters(both: Any, case: Any) -> None:
    first, second, _ = both
    held, whole = [one[case.name]["held"] for one in (first, second)], first[case.name]["whole"]
    assert sum(held) == whole
    assert max(held) < 0.55 * whole


@pytest.mark.parametrize("i", range(len(CASES)), ids=lambda i: CASES[i].name)
def test_what_is_written_is_what_one_writes(both: Any, i: int) -> None:
    import numpy as np

    from localllm.finetune.model.stored import gguf_weights
    from localllm.formats import read_model

    files = [both[2] / str(i) / f"{name}.gguf" for name in ("two", "one")]
    ours, theirs = (gguf_weights(read_model(path), path) for path in files)
    assert set(ours) == set(theirs)
    for name in ours:
        np.testing.assert_allclose(ours.read(name), theirs.read(name), rtol=2e-2, atol=2e-3)
