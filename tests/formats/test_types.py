"""The tables of numbers, against ggml, llama.cpp and the gguf package."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from localllm.formats.gguf import GGML_TYPES, ValueType, file_type, file_type_of
from localllm.formats.gguf.types import VALUE_CODES


def _library(name: str) -> ctypes.CDLL:
    """A library of llama.cpp as llama-cpp-python ships it."""
    import llama_cpp

    folder = Path(llama_cpp.__file__).parent / "lib"
    files = (f"lib{name}.so", f"lib{name}.dylib", f"{name}.dll")
    return ctypes.CDLL(str(next(folder / f for f in files if (folder / f).exists())))


def test_tensor_types_are_ggmls_own() -> None:
    ggml = _library("ggml-base")
    ggml.ggml_type_name.restype = ctypes.c_char_p
    ggml.ggml_blck_size.restype = ctypes.c_int64
    ggml.ggml_type_size.restype = ctypes.c_size_t
    # removed types have blocks of 0; one number past the table must be unknown to ggml too
    for number in range(max(GGML_TYPES) + 1):
        ours = GGML_TYPES.get(number)
        if ours is None:
            assert ggml.ggml_blck_size(number) == 0
            continue
        assert ggml.ggml_blck_size(number) == ours.block_elements
        assert ggml.ggml_type_size(number) == ours.block_bytes
        assert ggml.ggml_type_name(number).decode().upper() == ours.name


def test_tensor_types_are_gguf_pys() -> None:
    import gguf

    for theirs, (elements, size) in gguf.GGML_QUANT_SIZES.items():
        ours = GGML_TYPES[int(theirs)]
        assert ours.name == theirs.name
        if ours.name != "Q8_1":  # 40 bytes there; ggml, which computes with it, has 36
            assert (ours.block_elements, ours.block_bytes) == (elements, size)


def test_value_types_are_gguf_pys() -> None:
    import gguf

    for theirs in gguf.GGUFValueType:
        ours = ValueType(int(theirs))
        names = {"UINT": "U", "INT": "I", "FLOAT": "F"}
        expected = theirs.name
        for long, short in names.items():
            expected = expected.replace(long, short) if expected.startswith(long) else expected
        assert ours.name == expected
    assert len(ValueType) == len(gguf.GGUFValueType)
    assert set(VALUE_CODES) == set(ValueType) - {ValueType.STRING, ValueType.ARRAY}


def test_file_types_are_named_as_llama_cpp_names_them() -> None:
    import gguf

    llama = _library("llama")
    llama.llama_ftype_name.restype = ctypes.c_char_p
    for number in range(64):
        printed = llama.llama_ftype_name(number).decode()
        ours = file_type(number)
        if printed.startswith("unknown"):
            assert ours.name == f"type {number}"
        else:
            assert ours.label == printed
    for theirs in gguf.LlamaFileType:
        if theirs.name != "GUESSED":
            short = theirs.name.removeprefix("MOSTLY_").removeprefix("ALL_")
            assert file_type(int(theirs)).name == short


def test_a_guessed_number_says_so() -> None:
    guessed = file_type(1024 | 15)
    assert (guessed.id, guessed.name, guessed.guessed) == (15, "Q4_K_M", True)


@pytest.mark.parametrize(
    ("tensor_type", "expected"),
    [
        ("F32", "F32"),
        ("Q4_K", "Q4_K_M"),
        ("Q6_K", "Q6_K"),
        ("IQ2_XXS", "IQ2_XXS"),
        ("BF16", "BF16"),
    ],
)
def test_a_guess_from_the_tensors(tensor_type: str, expected: str) -> None:
    guess = file_type_of(tensor_type)
    assert guess is not None
    assert guess.name == expected and guess.guessed


def test_no_guess_from_types_no_model_is_made_of() -> None:
    assert file_type_of("I32") is None
