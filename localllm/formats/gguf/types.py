"""The numbers of the format: value types, ggml tensor types, file types.

Sources: ggml's `ggml.h`, `gguf.h` and llama.cpp's `llama_ftype_name`. The tests compare the
tables with ggml itself and with the `gguf` package.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class ValueType(IntEnum):
    """Types of metadata values (`enum gguf_type`)."""

    U8 = 0
    I8 = 1
    U16 = 2
    I16 = 3
    U32 = 4
    I32 = 5
    F32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    U64 = 10
    I64 = 11
    F64 = 12


# struct codes of the types with a fixed size
VALUE_CODES: dict[ValueType, str] = {
    ValueType.U8: "B",
    ValueType.I8: "b",
    ValueType.U16: "H",
    ValueType.I16: "h",
    ValueType.U32: "I",
    ValueType.I32: "i",
    ValueType.F32: "f",
    ValueType.BOOL: "?",
    ValueType.U64: "Q",
    ValueType.I64: "q",
    ValueType.F64: "d",
}

# inclusive range of each integer type
INTEGER_RANGES: dict[ValueType, tuple[int, int]] = {
    ValueType.U8: (0, 2**8 - 1),
    ValueType.I8: (-(2**7), 2**7 - 1),
    ValueType.U16: (0, 2**16 - 1),
    ValueType.I16: (-(2**15), 2**15 - 1),
    ValueType.U32: (0, 2**32 - 1),
    ValueType.I32: (-(2**31), 2**31 - 1),
    ValueType.U64: (0, 2**64 - 1),
    ValueType.I64: (-(2**63), 2**63 - 1),
}


@dataclass(frozen=True, slots=True)
class GGMLType:
    """How ggml stores numbers: `block_elements` of them in `block_bytes` bytes."""

    id: int
    name: str
    block_elements: int
    block_bytes: int

    @property
    def bits_per_element(self) -> float:
        return self.block_bytes * 8 / self.block_elements


# Numbers that are missing were removed from ggml (Q4_2, Q4_3, the repacked 4_4 / 4_8 / 8_8).
GGML_TYPES: dict[int, GGMLType] = {
    number: GGMLType(number, name, elements, size)
    for number, name, elements, size in (
        (0, "F32", 1, 4),
        (1, "F16", 1, 2),
        (2, "Q4_0", 32, 18),
        (3, "Q4_1", 32, 20),
        (6, "Q5_0", 32, 22),
        (7, "Q5_1", 32, 24),
        (8, "Q8_0", 32, 34),
        (9, "Q8_1", 32, 36),  # gguf 0.19 says 40; ggml's block is two halves and 32 bytes
        (10, "Q2_K", 256, 84),
        (11, "Q3_K", 256, 110),
        (12, "Q4_K", 256, 144),
        (13, "Q5_K", 256, 176),
        (14, "Q6_K", 256, 210),
        (15, "Q8_K", 256, 292),
        (16, "IQ2_XXS", 256, 66),
        (17, "IQ2_XS", 256, 74),
        (18, "IQ3_XXS", 256, 98),
        (19, "IQ1_S", 256, 50),
        (20, "IQ4_NL", 32, 18),
        (21, "IQ3_S", 256, 110),
        (22, "IQ2_S", 256, 82),
        (23, "IQ4_XS", 256, 136),
        (24, "I8", 1, 1),
        (25, "I16", 1, 2),
        (26, "I32", 1, 4),
        (27, "I64", 1, 8),
        (28, "F64", 1, 8),
        (29, "IQ1_M", 256, 56),
        (30, "BF16", 1, 2),
        (34, "TQ1_0", 256, 54),
        (35, "TQ2_0", 256, 66),
        (39, "MXFP4", 32, 17),
        (40, "NVFP4", 64, 36),
        (41, "Q1_0", 128, 18),
        (42, "Q2_0", 64, 18),
    )
}


@dataclass(frozen=True, slots=True)
class FileType:
    """What most of a model is stored as: `name` as in file names ("Q4_K_M"), `label` as
    llama.cpp prints it ("Q4_K - Medium"). `guessed`: the file does not say, the tensors do."""

    id: int
    name: str
    label: str
    guessed: bool = False


_FILE_TYPES: dict[int, tuple[str, str]] = {
    0: ("F32", "all F32"),
    1: ("F16", "F16"),
    2: ("Q4_0", "Q4_0"),
    3: ("Q4_1", "Q4_1"),
    7: ("Q8_0", "Q8_0"),
    8: ("Q5_0", "Q5_0"),
    9: ("Q5_1", "Q5_1"),
    10: ("Q2_K", "Q2_K - Medium"),
    11: ("Q3_K_S", "Q3_K - Small"),
    12: ("Q3_K_M", "Q3_K - Medium"),
    13: ("Q3_K_L", "Q3_K - Large"),
    14: ("Q4_K_S", "Q4_K - Small"),
    15: ("Q4_K_M", "Q4_K - Medium"),
    16: ("Q5_K_S", "Q5_K - Small"),
    17: ("Q5_K_M", "Q5_K - Medium"),
    18: ("Q6_K", "Q6_K"),
    19: ("IQ2_XXS", "IQ2_XXS - 2.0625 bpw"),
    20: ("IQ2_XS", "IQ2_XS - 2.3125 bpw"),
    21: ("Q2_K_S", "Q2_K - Small"),
    22: ("IQ3_XS", "IQ3_XS - 3.3 bpw"),
    23: ("IQ3_XXS", "IQ3_XXS - 3.0625 bpw"),
    24: ("IQ1_S", "IQ1_S - 1.5625 bpw"),
    25: ("IQ4_NL", "IQ4_NL - 4.5 bpw"),
    26: ("IQ3_S", "IQ3_S - 3.4375 bpw"),
    27: ("IQ3_M", "IQ3_S mix - 3.66 bpw"),
    28: ("IQ2_S", "IQ2_S - 2.5 bpw"),
    29: ("IQ2_M", "IQ2_M - 2.7 bpw"),
    30: ("IQ4_XS", "IQ4_XS - 4.25 bpw"),
    31: ("IQ1_M", "IQ1_M - 1.75 bpw"),
    32: ("BF16", "BF16"),
    36: ("TQ1_0", "TQ1_0 - 1.69 bpw ternary"),
    37: ("TQ2_0", "TQ2_0 - 2.06 bpw ternary"),
    38: ("MXFP4_MOE", "MXFP4 MoE"),
    39: ("NVFP4", "NVFP4"),
    40: ("Q1_0", "Q1_0"),
    41: ("Q2_0", "Q2_0"),
}

# File type that a model mostly of this tensor type has (as llama.cpp's loader guesses).
_FILE_TYPE_OF: dict[str, int] = {
    **{short: number for number, (short, _) in _FILE_TYPES.items()},
    "Q3_K": 12,
    "Q4_K": 15,
    "Q5_K": 17,
    "MXFP4": 38,
}

FILE_TYPE_GUESSED = 1024  # LLAMA_FTYPE_GUESSED, a flag in the number


def file_type(number: int) -> FileType:
    """The file type of this number, one named `type N` if it is unknown."""
    plain = number & ~FILE_TYPE_GUESSED
    name, label = _FILE_TYPES.get(plain, (f"type {plain}", "unknown"))
    return FileType(plain, name, label, guessed=bool(number & FILE_TYPE_GUESSED))


def file_type_of(type_name: str) -> FileType | None:
    """The guess for a file whose weights are mostly of this tensor type."""
    number = _FILE_TYPE_OF.get(type_name)
    return None if number is None else file_type(number | FILE_TYPE_GUESSED)
