"""safetensors headers: the format's rules, remote prefixes, model folders."""

from __future__ import annotations

import json
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localllm.errors import DamagedFile, FileGone
from localllm.formats import (
    NeedMoreBytes,
    parse_safetensors,
    read_safetensors,
    read_safetensors_folder,
)
from localllm.formats.safetensors import DTYPE_BITS


def blob(header: Any, data_bytes: int = 0, *, length: int | None = None, pad: int = 0) -> bytes:
    """A file: `header` as JSON (or as given, if bytes), `data_bytes` zeros behind it."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    raw += b" " * pad
    return struct.pack("<Q", len(raw) if length is None else length) + raw + bytes(data_bytes)


def tensor(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


TWO = {
    "__metadata__": {"format": "pt"},
    "a.weight": tensor("BF16", [4, 8], 0, 64),
    "b": tensor("F32", [3], 64, 76),
}


def test_a_header_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(blob(TWO, 76, pad=5))
    header = read_safetensors(path)
    assert dict(header.metadata) == {"format": "pt"}
    found = [(t.name, t.dtype, t.shape, t.offset, t.size_bytes) for t in header.tensors.values()]
    assert found == [("a.weight", "BF16", (4, 8), 0, 64), ("b", "F32", (3,), 64, 12)]
    assert (header.n_params, header.weights_bytes) == (35, 76)
    assert dict(header.dtypes) == {"BF16": 64, "F32": 12}
    assert header.data_offset == path.stat().st_size - 76


def test_scalars_empty_tensors_half_bytes_and_no_tensors_are_legal() -> None:
    tensors = {
        "s": tensor("I64", [], 0, 8),
        "e": tensor("F32", [0, 3], 8, 8),
        "q": tensor("F4", [2, 3], 8, 11),
    }
    header = parse_safetensors(blob(tensors, 11))
    assert [t.n_elements for t in header.tensors.values()] == [1, 0, 6]
    assert parse_safetensors(blob({})).n_params == 0
    assert parse_safetensors(blob({"__metadata__": None})).metadata == {}


def _deep(n: int) -> bytes:
    return b'{"a":' + b"[" * n + b"]" * n + b"}"


LIES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a safetensors file"),
    "seven bytes": (bytes(7), "not a safetensors file"),
    "a header of 2^63": (blob(TWO, 76, length=2**63), "allows 100000000"),
    "a header past the end": (blob(TWO, 76, length=90_000), "cut short"),
    "a header of 0": (blob(b"", 64), "begins with"),
    "a gguf file": (b"GGUF" + struct.pack("<IQQ", 3, 0, 0) + bytes(64), "not a safetensors file"),
    "not JSON": (blob(b"{nonsense"), "not valid JSON"),
    "not UTF-8": (blob(b'{"\xff": 1}'), "not valid JSON"),
    "a list": (blob(b"[1]"), "begins with"),
    "100,000 lists deep": (blob(_deep(100_000)), "not valid JSON"),
    "a number of 10,000 digits": (blob(b'{"a":' + b"9" * 10_000 + b"}"), "not valid JSON"),
    "a key twice": (blob(b'{"a":{},"a":{}}'), "twice"),
    "metadata of numbers": (blob({"__metadata__": {"a": 1}}), "__metadata__"),
    "metadata as text": (blob({"__metadata__": "a"}), "__metadata__"),
    "a tensor that is a number": (blob({"a": 1}), "'a'"),
    "no shape": (blob({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, 4), "'a'"),
    "an unknown dtype": (blob({"a": tensor("F12", [1], 0, 4)}, 4), "F12"),
    "a dtype that is a list": (blob({"a": tensor(["F32"], [1], 0, 4)}, 4), "dtype"),  # type: ignore[arg-type]
    "a negative dimension": (blob({"a": tensor("F32", [-1], 0, 4)}, 4), "not counts"),
    "a dimension of 1.0": (blob({"a": tensor("F32", [1.0], 0, 4)}, 4), "not counts"),  # type: ignore[list-item]
    "a dimension of true": (blob({"a": tensor("F32", [True], 0, 4)}, 4), "not counts"),
    "a dimension of 2^64": (blob({"a": tensor("F32", [2**64], 0, 4)}, 4), "not counts"),
    "a product past 2^63": (blob({"a": tensor("F32", [2**40, 2**40], 0, 4)}, 4), "64 bits"),
    "one offset": (blob({"a": {**TWO["b"], "data_offsets": [0]}}, 4), "not counts"),
    "offsets backwards": (blob({"a": tensor("F32", [1], 4, 0)}, 4), "bytes"),
    "fewer bytes than the shape": (blob({"a": tensor("F32", [2], 0, 4)}, 4), "bytes"),
    "a hole": (blob({"a": tensor("F32", [1], 4, 8)}, 8), "hole"),
    "an overlap": (
        blob({"a": tensor("F32", [2], 0, 8), "b": tensor("F32", [1], 4, 8)}, 8),
        "overlaps",
    ),
    "data cut short": (blob(TWO, 75), "the file has 75"),
    "bytes left over": (blob(TWO, 77), "the file has 77"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_header_is_one_clear_error(lie: str, tmp_path: Path) -> None:
    content, names = LIES[lie]
    path = tmp_path / "liar.safetensors"
    path.write_bytes(content)
    began = time.perf_counter()
    with pytest.raises(DamagedFile) as caught:
        read_safetensors(path)
    assert time.perf_counter() - began < 1
    assert caught.value.message.startswith("liar.safetensors: ")
    assert "\n" not in caught.value.message and len(caught.value.message) < 400
    assert names in caught.value.message


def test_a_claimed_header_size_allocates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "liar.safetensors"
    path.write_bytes(blob(b"{}", 1000, length=99_999_999))
    tracemalloc.start()
    try:
        with pytest.raises(DamagedFile):
            read_safetensors(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


def test_a_prefix_says_exactly_what_it_needs() -> None:
    whole = blob(TWO, 76)
    end = len(whole) - 76
    with pytest.raises(NeedMoreBytes) as caught:
        parse_safetensors(whole[:3], total_size=len(whole))
    assert caught.value.at_least == 8
    with pytest.raises(NeedMoreBytes) as caught:
        parse_safetensors(whole[:8], total_size=len(whole))
    assert caught.value.at_least == end
    assert parse_safetensors(whole[:end], total_size=len(whole)).n_params == 35


@st.composite
def _files(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    names = draw(st.lists(st.text(min_size=1, max_size=10), max_size=6, unique=True))
    header: dict[str, Any] = {}
    at = 0
    for name in names:
        if name == "__metadata__":
            continue
        dtype = draw(st.sampled_from(sorted(DTYPE_BITS)))
        shape = [*draw(st.lists(st.integers(0, 4), max_size=3)), 4]  # whole bytes for 4 and 6 bits
        n = 1
        for ne in shape:
            n *= ne
        size = n * DTYPE_BITS[dtype] // 8
        header[name] = tensor(dtype, shape, at, at + size)
        at += size
    return header, blob(header, at, pad=draw(st.integers(0, 9)))


@given(_files())
@settings(deadline=None, max_examples=100)
def test_what_is_written_is_read(made: tuple[dict[str, Any], bytes]) -> None:
    header, content = made
    read = parse_safetensors(content)
    assert {
        t.name: tensor(t.dtype, list(t.shape), t.offset, t.offset + t.size_bytes)
        for t in read.tensors.values()
    } == header
    assert read.weights_bytes == len(content) - read.data_offset


@given(st.lists(st.tuples(st.integers(0, 220), st.integers(0, 255)), min_size=1, max_size=6))
@settings(deadline=None, max_examples=400)
def test_flipped_bytes(changes: list[tuple[int, int]]) -> None:
    content = bytearray(blob(TWO, 76))
    for at, value in changes:
        content[min(at, len(content) - 1)] = value
    try:
        parse_safetensors(bytes(content))
    except DamagedFile as error:
        assert "\n" not in error.message


# --- folders ---------------------------------------------------------------------------------


def _folder(folder: Path, *, shards: bool) -> Path:
    folder.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8}
    (folder / "config.json").write_text(json.dumps(config))
    if not shards:
        (folder / "model.safetensors").write_bytes(blob(TWO, 76))
        return folder
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    (folder / names[0]).write_bytes(blob({"a.weight": TWO["a.weight"]}, 64))
    (folder / names[1]).write_bytes(blob({"b": tensor("F32", [3], 0, 12)}, 12))
    weight_map = {"a.weight": names[0], "b": names[1]}
    index = {"metadata": {"total_size": 76}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("shards", [False, True])
def test_a_model_folder(shards: bool, tmp_path: Path) -> None:
    model = read_safetensors_folder(_folder(tmp_path / "m", shards=shards))
    assert (model.architecture, model.model_type, model.kind) == (
        "LlamaForCausalLM", "llama", "model",
    )  # fmt: skip
    assert (model.n_params, model.weights_bytes) == (35, 76)
    assert set(model.tensors) == {"a.weight", "b"}
    assert len(model.files) == len(model.shards) == (2 if shards else 1)
    assert model.file_of["b"] == model.files[-1]
    assert model.config["hidden_size"] == 8
    assert dict(model.dtypes) == {"BF16": 64, "F32": 12}


def test_an_adapter_folder(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(blob(TWO, 76))
    (tmp_path / "adapter_config.json").write_text('{"r": 8, "base_model_name_or_path": "org/x"}')
    model = read_safetensors_folder(tmp_path)
    assert (model.kind, model.architecture, model.config["r"]) == ("adapter", None, 8)


def test_weights_of_another_name_and_no_config(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model_fp16.safetensors").write_bytes(blob(TWO, 76))
    model = read_safetensors_folder(tmp_path)
    assert (model.kind, model.architecture, model.n_params) == ("model", None, 35)


def test_folders_without_weights_or_with_a_missing_shard(tmp_path: Path) -> None:
    with pytest.raises(FileGone, match="no safetensors weights"):
        read_safetensors_folder(tmp_path)
    folder = _folder(tmp_path / "m", shards=True)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileGone, match=r"1 of 2 shards are missing: model-00002-of-00002\.safe"):
        read_safetensors_folder(folder)


@pytest.mark.parametrize(
    ("index", "says"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b"[" * 100_000, "not valid JSON"),
        (b"{}", "no weight_map"),
        (b'{"weight_map": []}', "no weight_map"),
        (b'{"weight_map": {"a": 1}}', "'1'"),
        (b'{"weight_map": {"a": "../x.safetensors"}}', "places 'a'"),
        (b'{"weight_map": {"a": "/etc/x.safetensors"}}', "places 'a'"),
        (b'{"weight_map": {"a": "..\\\\x.safetensors"}}', "places 'a'"),
        (b'{"weight_map": {"a": "config.json"}}', "places 'a'"),
        (b'{"weight_map": {"nowhere": "model-00001-of-00002.safetensors"}}', "'nowhere'"),
    ],
)
def test_an_index_that_lies(index: bytes, says: str, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "m", shards=True)
    (folder / "model.safetensors.index.json").write_bytes(index)
    with pytest.raises(DamagedFile) as caught:
        read_safetensors_folder(folder)
    assert says in caught.value.message


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    for name in ("x.safetensors", "y.safetensors"):
        (tmp_path / name).write_bytes(blob(TWO, 76))
    with pytest.raises(DamagedFile, match=r"y\.safetensors: tensor 'a\.weight' is also in x"):
        read_safetensors_folder(tmp_path)


def test_a_config_that_is_no_object(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "m", shards=False)
    (folder / "config.json").write_text("[1]")
    with pytest.raises(DamagedFile, match=r"config\.json: not a JSON object"):
        read_safetensors_folder(folder)
