"""The size that a plan states is the size of the file, to the byte, and its header foretold."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Done
from tests.quantize.made import made_path, write_imatrix
from tests.support.gguf_writer import U32, Arr
from tests.support.tiny_models import llama_model, split, tiny_gemma3, tiny_llama, tiny_qwen3moe

Cli = Callable[..., Done]


@pytest.fixture(autouse=True)
def foretold(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file may have to be hashed a second time because its header came out otherwise."""

    def anew(self: object, advance: object) -> str:
        raise AssertionError("the header is not the one that was foretold")

    monkeypatch.setattr("localllm.library.growing.GrowingDigest.anew", anew)


def planned_and_made(cli: Cli, source: Path, *args: object) -> tuple[int, list[int]]:
    """The size a dry run states, and the sizes of the files made then."""
    plan = cli("quantize", source, *args, "--dry-run", "--json")
    assert plan.exit_code == 0, plan
    made = cli("quantize", source, *args, "--json")
    assert made.exit_code == 0, made
    files = made.data["model"]["files"]
    assert plan.data["tensors"] == made.data["tensors"]
    for file in files:
        assert file["sha256"] == hashlib.sha256(Path(file["path"]).read_bytes()).hexdigest()
    return plan.data["file_bytes"], [Path(f["path"]).stat().st_size for f in files]


@pytest.mark.parametrize(
    "kind", ["Q4_K_M", "Q8_0", "IQ4_NL", "IQ3_S", "TQ1_0", "MXFP4", "Q1_0", "F32", "COPY"]
)
def test_of_types(cli: Cli, tiny_gguf: Path, kind: str) -> None:
    planned, made = planned_and_made(cli, tiny_gguf, kind)
    assert [planned] == made


@pytest.mark.parametrize("shape", ["moe", "gemma3", "odd", "one layer"])
def test_of_shapes(cli: Cli, tmp_path: Path, shape: str) -> None:
    path = tmp_path / "made.gguf"
    if shape == "moe":
        tiny_qwen3moe(path)
    elif shape == "gemma3":
        tiny_gemma3(path)
    else:
        tiny_llama(path, n_layer=1, n_embd=192 if shape == "odd" else 256, n_ff=352)
    planned, made = planned_and_made(cli, path, "Q3_K_M")
    assert [planned] == made


def test_of_strange_metadata(cli: Cli, tmp_path: Path) -> None:
    """Nested NULs are cut by llama.cpp, and numbers of all widths and a file type of another
    type are there."""
    extra: dict[str, Any] = {
        "a.text": "be\0hind",
        "a.texts": Arr("str", ["x", "y\0zzz", "ü" * 40]),
        "a.flags": Arr("bool", [True, False, True]),
        "a.wide": Arr("u64", [1, 2, 3]),
        "a.bytes": Arr("u8", [7] * 5),
        "a.empty": Arr("str", []),
        "general.quantization_version": U32(1),
    }
    path = tiny_llama(tmp_path / "made.gguf", metadata=extra)
    planned, made = planned_and_made(cli, path, "Q4_0")
    assert [planned] == made


def test_of_overrides_importance_and_pruning(cli: Cli, tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "made.gguf", n_layer=11)
    write_imatrix(tmp_path / "i.gguf", path)
    args = ["IQ4_XS", "--imatrix", tmp_path / "i.gguf", "--prune-layers", "3,8-9",
            "--override-kv", "general.name=str:mine", "--override-kv", "a.b=bool:true",
            "--override-kv", "a.c=float:0.5", "--override-kv", "a.d=int:7"]  # fmt: skip
    planned, made = planned_and_made(cli, path, *args)
    assert [planned] == made


def test_of_split_files(cli: Cli, tmp_path: Path) -> None:
    shards = split(llama_model, tmp_path, "big", n_shards=3, n_layer=3)
    planned, made = planned_and_made(cli, shards[0], "Q8_0", "--keep-split")
    assert len(made) == 3
    assert planned == sum(made)
    planned, made = planned_and_made(cli, shards[0], "Q8_0", "--name", "one:Q8_0")
    assert [planned] == made


def test_an_alignment_of_64_comes_out_as_llama_cpp_writes(cli: Cli, tmp_path: Path) -> None:
    """llama.cpp pads to 32 and would leave the key that says 64: the file could not be read."""
    from gguf import GGUFReader, GGUFWriter

    plain = tiny_llama(tmp_path / "plain.gguf")
    reader, path = GGUFReader(plain), tmp_path / "wide.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_custom_alignment(64)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kinds = field.types
        writer.add_key_value(name, field.contents(), kinds[0], kinds[-1] if kinds[1:] else None)
    for t in reader.tensors:
        writer.add_tensor(t.name, t.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    planned, made = planned_and_made(cli, path, "Q8_0")
    assert [planned] == made
    made_file = made_path(cli("quantize", path, "Q8_0", "--json"))
    assert int(GGUFReader(made_file).fields["general.alignment"].contents()) == 32
