"""The same small safetensors models merged by mergekit and by us.

Set LOCALLLM_TEST_MERGEKIT to a `mergekit-yaml` program (mergekit lives in an environment of its
own: its pins clash with ours). Without one, `tests/library/merging/formulas.py` stands in: the
published formulas, on the same models.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Done
from tests.library.merging import formulas
from tests.merge.folders import read_folder, write_family

PROGRAM = os.environ.get("LOCALLLM_TEST_MERGEKIT")

TWO = """
models:
- model: {first}
  parameters: {{weight: 0.7, density: 0.4}}
- model: {second}
  parameters: {{weight: 0.4, density: [0.9, 0.3]}}
dtype: float32
"""
WEIGHTED = TWO.replace(", density: 0.4", "").replace(", density: [0.9, 0.3]", "")
CONFIGS = {
    "linear": "merge_method: linear" + WEIGHTED.replace("weight: 0.4", "weight: [0.2, 0.9]"),
    "linear as is": "merge_method: linear\nparameters: {{normalize: false}}" + WEIGHTED,
    "slerp": """
merge_method: slerp
base_model: {first}
slices:
- sources:
  - {{model: '{first}', layer_range: [0, 3]}}
  - {{model: '{second}', layer_range: [0, 3]}}
parameters:
  t:
  - {{filter: self_attn, value: [0, 0.5, 1]}}
  - {{filter: mlp, value: [1, 0.5, 0]}}
  - {{value: 0.5}}
dtype: float32
""",
    "task_arithmetic": "merge_method: task_arithmetic\nbase_model: {base}\n"
    "parameters: {{lambda: 0.8}}" + WEIGHTED,
    "ties": "merge_method: ties\nbase_model: {base}" + TWO,
    "ties as is": "merge_method: ties\nbase_model: {base}\n"
    "parameters: {{normalize: false, int8_mask: true, lambda: 1.3}}" + TWO,
    # random masks are each program's own: with all kept there are none
    "dare_ties": "merge_method: dare_ties\nbase_model: {base}" + WEIGHTED,
    "dare_linear": "merge_method: dare_linear\nbase_model: {base}" + WEIGHTED,
    "passthrough": """
merge_method: passthrough
slices:
- sources: [{{model: '{first}', layer_range: [0, 2]}}]
- sources:
  - model: {second}
    layer_range: [1, 3]
    parameters:
      scale:
      - {{filter: o_proj, value: 0.5}}
      - {{value: 1.0}}
dtype: float32
""",
}


def merged(cli: Callable[..., Done], config: Path) -> dict[str, Any]:
    done = cli("merge", "--config", config, "--json")
    assert done.exit_code == 0, done
    return read_folder(Path(done.data["model"]["files"][0]["path"]).parent)


@pytest.mark.skipif(PROGRAM is None, reason="LOCALLLM_TEST_MERGEKIT names no mergekit-yaml")
@pytest.mark.parametrize("name", CONFIGS)
def test_both_agree(cli: Callable[..., Done], tmp_path: Path, name: str) -> None:
    family = write_family(tmp_path)
    config = tmp_path / "merge.yml"
    config.write_text(CONFIGS[name].format(**family), encoding="utf-8")
    ours = merged(cli, config)
    subprocess.run(
        [str(PROGRAM), str(config), str(tmp_path / "out"), "--no-copy-tokenizer"],
        check=True,
        capture_output=True,
    )
    theirs = read_folder(tmp_path / "out")
    assert set(ours) == set(theirs)
    for tensor, values in theirs.items():
        limit = 4 * np.finfo(np.float32).eps * np.abs(values).max()
        assert np.abs(ours[tensor] - values).max() <= limit, tensor


def test_safetensors_in_shards_by_the_published_formulas(
    cli: Callable[..., Done], tmp_path: Path
) -> None:
    family = write_family(tmp_path, shards=3, dtype="F32")
    config = tmp_path / "merge.yml"
    config.write_text(CONFIGS["ties"].format(**family), encoding="utf-8")
    base, first, second = (read_folder(Path(family[n])) for n in ("base", "first", "second"))
    found = merged(cli, config)
    assert set(found) == set(base)
    for name, values in found.items():
        layer = int(name.split(".")[2]) if ".layers." in name else 0
        densities = [0.4, (0.9, 0.6, 0.3)[layer]]
        expected = formulas.ties(base[name], [first[name], second[name]], [0.7, 0.4], densities)
        np.testing.assert_allclose(values, expected, rtol=0, atol=4e-6, err_msg=name)
