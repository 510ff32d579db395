"""What may be asked for when a size is wanted, and what is refused before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.errors import UsageProblem
from localllm.quantize.size.request import parse_file_size
from tests.conftest import Done

Cli = Callable[..., Done]


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("4.0GiB", 4 << 30),
        ("4GiB", 4 << 30),
        ("4G", 4 << 30),
        ("4gib", 4 << 30),
        ("4GB", 4 * 10**9),
        ("700MB", 700 * 10**6),
        ("700 MiB", 700 << 20),
        ("1.5t", 3 << 39),
        ("253113024", 253113024),
        ("253113024B", 253113024),
        ("0.5GiB", 1 << 29),
    ],
)
def test_sizes(text: str, n_bytes: int) -> None:
    assert parse_file_size(text) == n_bytes


@pytest.mark.parametrize(
    "text",
    ["", "4 GiB MiB", "four", "-4GiB", "nan", "1e9", "4.5", "4Gi B", "4", "0GiB", "4PiB", "iB",
     "4ib", "9" * 20],
)  # fmt: skip
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageProblem):
        parse_file_size(text)


@pytest.mark.parametrize(
    "args",
    [
        ("Q4_K_M", "--size", "1MiB"),
        ("--size", "1MiB", "--bpw", "4"),
        ("--fit", "--bpw", "4"),
        ("--size", "1MiB", "--pure"),
        ("--size", "1MiB", "--plan", "p.json"),
        ("--size", "1MiB", "--prune-layers", "1"),
        ("--size", "1MiB", "--ctx", "512"),
        ("--size", "1MiB", "--budget", "0"),
        ("--size", "1MiB", "--budget", "nan"),
        ("--size", "1MiB", "--quick", "--budget", "3"),
        ("--size", "1MiB", "--quick", "--text", "t.txt"),
        ("--size", "1MiB", "--ladder"),
        ("--size", "big"),
        ("--bpw", "0"),
        ("--bpw", "-1"),
        ("--bpw", "nan"),
        ("--bpw", "inf"),
        ("--bpw", "64"),
        ("Q4_K_M", "--quick"),
        ("Q4_K_M", "--budget", "3"),
        ("Q4_K_M", "--text", "t.txt"),
        ("--size", "1MiB", "--tensor-type", "attn_v=q99"),
        ("--size", "1MiB", "--tensor-type", "attn_v"),
    ],
)
def test_what_cannot_be_asked_is_one_line_and_exit_2(
    cli: Cli, tiny_gguf: Path, args: tuple[str, ...], home: Path
) -> None:
    done = cli("quantize", tiny_gguf, *args)
    assert done.exit_code == 2, done
    assert done.err.startswith("error: ")
    assert len(done.err.strip().splitlines()) <= 2
    assert not (home / "registry.db").exists()


def test_texts_that_are_not_there_or_judge(cli: Cli, tiny_gguf: Path, tmp_path: Path) -> None:
    from localllm.texts import evaluation_text

    done = cli("quantize", tiny_gguf, "--bpw", "5", "--text", tmp_path / "no.txt")
    assert done.exit_code == 3
    (tmp_path / "same.txt").write_bytes(evaluation_text().encode())
    done = cli("quantize", tiny_gguf, "--bpw", "5", "--text", tmp_path / "same.txt")
    assert done.exit_code == 2
    assert "judged by" in done.err
