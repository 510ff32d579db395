"""quantize --measure: what was made beside its source and its siblings."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from localllm.placement import Target
from localllm.quantize.measured import measurer
from localllm.registry import Registry
from tests.conftest import Done
from tests.quantize.conftest import Climbed
from tests.support.tiny_mmproj import gemma3_mmproj

Cli = Callable[..., Done]


def by_model(done: Done) -> dict[str, Any]:
    assert done.exit_code == 0, done
    return {row["model"]: row for row in done.data["measured"]["rows"]}


def test_beside_source_and_siblings(climbed: Climbed, cli: Cli, registry: Registry) -> None:
    command = ("quantize", "org/tiny", "Q5_0", "--measure", "--measure-text", climbed.text)
    done = cli(*command, "--json")
    rows = by_model(done)
    assert [row["role"] for row in rows.values()] == ["source", "made", "sibling", "sibling"]
    assert [one["type"] for one in done.data["outputs"]] == ["Q5_0"]
    made = rows["tiny:Q5_0"]
    own = cli("quality", "tiny:Q5_0", "--base", "org/tiny", "--text", climbed.text, "--again",
              "--json").data["rows"][0]  # fmt: skip
    assert made["mean_kld"]["value"] == pytest.approx(own["mean_kld"], rel=1e-4)
    assert made["perplexity"]["value"] == pytest.approx(own["perplexity"], rel=1e-6)
    assert made["size_bytes"] == registry.resolve("tiny:Q5_0").path.stat().st_size
    assert made["bits_per_weight"] == pytest.approx(done.data["outputs"][0]["bits_per_weight"])
    assert made["tg"]["mean_tps"] > 0 and not made["failures"]
    for name in ("Q8_0", "Q4_0"):
        ladder = next(r for r in climbed.data["rungs"] if r["type"] == name)["measured"]
        beside = rows[f"tiny:{name}"]
        assert beside["mean_kld"] == ladder["mean_kld"]
        assert beside["tg"] == ladder["tg"]
        assert beside["elsewhere"] == []
    shown = cli(*command)
    assert "org/tiny" in shown.out and "sibling" in shown.out
    assert "some figures were measured before" in shown.err


def test_figures_of_other_conditions_say_so(climbed: Climbed, cli: Cli, tmp_path: Path) -> None:
    text = tmp_path / "other.txt"
    text.write_text(f"{climbed.text.read_text('utf-8')} And one more.", encoding="utf-8")
    done = cli("quantize", "org/tiny", "Q8_0", "--measure", "--measure-text", text,
               "--measure-chunks", "2", "--json")  # fmt: skip
    rows = by_model(done)
    assert rows["tiny:Q8_0"]["mean_kld"]["value"] > 0  # measured now, on this text
    (said,) = rows["tiny:Q4_0"]["elsewhere"]
    assert said.startswith("quality: text text.txt")
    assert rows["tiny:Q4_0"]["speed_reused"]
    shown = cli("quantize", "org/tiny", "Q8_0", "--measure", "--measure-text", text,
                "--measure-chunks", "2")  # fmt: skip
    line = next(one for one in shown.out.splitlines() if "tiny:Q4_0" in one)
    assert line.count("*") == 3  # perplexity, divergence, same top
    assert "* tiny:Q4_0: quality: text text.txt" in shown.err


def test_a_sibling_that_nobody_measured(climbed: Climbed, cli: Cli) -> None:
    cli("quantize", "org/tiny", "Q5_1")
    rows = by_model(cli("quantize", "org/tiny", "Q8_0", "--measure", "--measure-text", climbed.text,
                        "--json"))  # fmt: skip
    assert rows["tiny:Q5_1"]["perplexity"] is None and rows["tiny:Q5_1"]["pp"] is None
    shown = cli("quantize", "org/tiny", "Q8_0", "--measure", "--measure-text", climbed.text)
    assert "not measured: localllm quality tiny:Q5_1 --base org/tiny" in shown.err


def test_a_source_without_room_leaves_perplexity_and_speed(
    climbed: Climbed, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the source does not fit in memory there is nothing to compare with."""
    small = Target((), 1 << 20, 1 << 30, None, 2, here=True)
    monkeypatch.setattr(measurer, "this_machine", lambda: small)
    done = cli(
        "quantize", "org/tiny", "Q8_0", "--measure", "--measure-text", climbed.text, "--json"
    )
    row = by_model(done)["tiny:Q8_0"]
    assert row["mean_kld"] is None and row["perplexity"]["value"] > 0
    assert any("no divergence from org/tiny" in text for text in done.json["warnings"])
    ladder = cli("quantize", "org/tiny", "Q8_0", "Q4_0", "--ladder", "--imatrix", "none",
                 "--measure-text", climbed.text, "--json")  # fmt: skip
    assert ladder.data["basis"] == "perplexity"
    best = min(ladder.data["rungs"], key=lambda r: r["measured"]["perplexity"]["value"])
    assert ladder.data["recommended"]["model"] == best["model"]


def test_interrupted_the_model_stays(
    climbed: Climbed, cli: Cli, monkeypatch: pytest.MonkeyPatch, registry: Registry
) -> None:
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(measurer.Measurer, "measure", stop)
    done = cli(
        "quantize", "org/tiny", "Q5_0", "--measure", "--measure-text", climbed.text, "--json"
    )
    assert done.exit_code == 130
    assert "is kept" in done.json["error"]["message"]
    assert registry.resolve("tiny:Q5_0").path.exists()


def test_a_loose_source_is_no_part_of_the_registry(
    climbed_once: Climbed, cli: Cli, tmp_path: Path, registry: Registry
) -> None:
    path = shutil.copy(climbed_once.source, tmp_path / "loose.gguf")
    rows = by_model(cli("quantize", path, "Q8_0", "--measure", "--measure-text", climbed_once.text,
                        "--measure-chunks", "2", "--json"))  # fmt: skip
    assert list(rows) == [str(path), "loose:Q8_0"]
    assert [m.name for m in registry.models()] == ["loose:Q8_0"]
    assert {m.model for m in registry.measurements_of_kind("bench")} == {"loose:Q8_0"}


@pytest.mark.parametrize("text", ["", "too short", None])
def test_a_text_that_cannot_judge(
    climbed: Climbed, cli: Cli, tmp_path: Path, text: str | None
) -> None:
    path = tmp_path / "t.txt"
    if text is not None:
        path.write_text(text)
    for how in ("--measure", "--ladder"):
        done = cli("quantize", "org/tiny", "Q8_0", how, "--imatrix", "none", "--measure-text", path)
        assert done.exit_code == (3 if text is None else 2), done
        assert len(done.err.strip().splitlines()) <= 3


def test_a_projector_is_not_measured(cli: Cli, tmp_path: Path, registry: Registry) -> None:
    path = gemma3_mmproj(tmp_path / "mmproj.gguf")
    for how in ("--measure", "--ladder"):
        done = cli("quantize", path, "Q8_0", how)
        assert done.exit_code == 2, done
        assert "is a projector" in done.err
    assert registry.models() == ()
