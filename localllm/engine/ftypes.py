"""The names of quantizations and tensor types, as llama.cpp's own programs spell them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from localllm.errors import UsageProblem


@dataclass(frozen=True)
class Ftype:
    """One quantization recipe (llama_ftype). `base` is the type that most tensors get."""

    name: str
    number: int
    base: str
    needs_imatrix: bool = False  # llama.cpp refuses to make it without an importance matrix
    aliases: tuple[str, ...] = ()

    @property
    def copies(self) -> bool:
        """COPY: tensors go over as they are."""
        return self.name == "COPY"


# tools/quantize/quantize.cpp QUANT_OPTIONS, llama_ftype_get_default_type and
# tensor_requires_imatrix in src/llama-quant.cpp; from most to fewest bits.
FTYPES: tuple[Ftype, ...] = (
    Ftype("F32", 0, "f32"),
    Ftype("F16", 1, "f16"),
    Ftype("BF16", 32, "bf16"),
    Ftype("Q8_0", 7, "q8_0"),
    Ftype("Q6_K", 18, "q6_K"),
    Ftype("Q5_1", 9, "q5_1"),
    Ftype("Q5_K_M", 17, "q5_K", aliases=("Q5_K",)),
    Ftype("Q5_0", 8, "q5_0"),
    Ftype("Q5_K_S", 16, "q5_K"),
    Ftype("Q4_1", 3, "q4_1"),
    Ftype("Q4_K_M", 15, "q4_K", aliases=("Q4_K",)),
    Ftype("Q4_K_S", 14, "q4_K"),
    Ftype("Q4_0", 2, "q4_0"),
    Ftype("IQ4_NL", 25, "iq4_nl"),
    Ftype("IQ4_XS", 30, "iq4_xs"),
    Ftype("MXFP4_MOE", 38, "mxfp4", aliases=("MXFP4",)),
    Ftype("Q3_K_L", 13, "q3_K"),
    Ftype("Q3_K_M", 12, "q3_K", aliases=("Q3_K",)),
    Ftype("IQ3_M", 27, "iq3_s"),
    Ftype("IQ3_S", 26, "iq3_s"),
    Ftype("Q3_K_S", 11, "q3_K"),
    Ftype("IQ3_XS", 22, "iq3_s"),
    Ftype("IQ3_XXS", 23, "iq3_xxs", needs_imatrix=True),
    Ftype("Q2_K", 10, "q2_K"),
    Ftype("Q2_K_S", 21, "q2_K", needs_imatrix=True),
    Ftype("IQ2_M", 29, "iq2_s", needs_imatrix=True),
    Ftype("IQ2_S", 28, "iq2_xs", needs_imatrix=True),
    Ftype("IQ2_XS", 20, "iq2_xs", needs_imatrix=True),
    Ftype("Q2_0", 41, "q2_0"),
    Ftype("IQ2_XXS", 19, "iq2_xxs", needs_imatrix=True),
    Ftype("TQ2_0", 37, "tq2_0"),
    Ftype("IQ1_M", 31, "iq1_m", needs_imatrix=True),
    Ftype("TQ1_0", 36, "tq1_0"),
    Ftype("IQ1_S", 24, "iq1_s", needs_imatrix=True),
    Ftype("Q1_0", 40, "q1_0"),
    Ftype("COPY", 0, "as in the source"),
)

# Types that a single tensor can be stored in (ggml.h, enum ggml_type).
TENSOR_TYPES: Mapping[str, int] = {
    "f32": 0, "f16": 1, "bf16": 30, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8,
    "q2_k": 10, "q3_k": 11, "q4_k": 12, "q5_k": 13, "q6_k": 14, "iq2_xxs": 16, "iq2_xs": 17,
    "iq3_xxs": 18, "iq1_s": 19, "iq4_nl": 20, "iq3_s": 21, "iq2_s": 22, "iq4_xs": 23,
    "iq1_m": 29, "tq1_0": 34, "tq2_0": 35, "mxfp4": 39, "nvfp4": 40, "q1_0": 41, "q2_0": 42,
}  # fmt: skip


def ftype(name: str) -> Ftype:
    """The recipe called `name` ("Q4_K_M", "q4_k") or of that llama_ftype number, as
    llama-quantize takes it ("15"). Raises UsageProblem with what is near."""
    wanted = name.upper().replace("-", "_")
    for one in FTYPES:
        if wanted == one.name or wanted in one.aliases or wanted == str(one.number):
            return one
    raise UsageProblem(f"{name!r} is no quantization{_near(wanted, [one.name for one in FTYPES])}")


def tensor_type(name: str) -> int:
    """The ggml type called `name` ("q6_K"). Raises UsageProblem with what is near."""
    found = TENSOR_TYPES.get(name.lower())
    if found is None:
        raise UsageProblem(f"{name!r} is no tensor type{_near(name.lower(), list(TENSOR_TYPES))}")
    return found


# tensor_requires_imatrix in src/llama-quant.cpp, which lets the embedding and the output pass.
WEIGHTED_TYPES = ("iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs")


def needs_imatrix(tensor_type: str, ftype: str) -> bool:
    """Whether llama.cpp makes a tensor of this type, in a file of this recipe, with an
    importance matrix only."""
    kind = tensor_type.lower()
    return kind in WEIGHTED_TYPES or (kind == "q2_k" and ftype.upper() == "Q2_K_S")


def _near(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else f" (one of {', '.join(known)})"
