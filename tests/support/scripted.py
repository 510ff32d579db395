"""A model that answers with exactly the text a test wants.

Each chunk of the answer is a token of its own, and each is followed by the next: the next token
depends on the last one alone (see `tiny_chain`). The answer begins after whatever ends the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.gguf_writer import F32, U32, Arr
from tests.support.tiny_builder import TinyModel
from tests.support.tiny_models import CHATML, bpe_vocab
from tests.support.tiny_models import _general as general
from tests.support.tiny_vocab import CONTROL, USER_DEFINED

THINKING_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + "
    "message['content'].split('</think>')[-1] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)


def scripted(
    path: Path,
    answers: Mapping[str, Sequence[str]],
    *,
    chat_template: str = CHATML,
    control: Sequence[str] = (),
    n_ctx_train: int = 4096,
    loops: bool = False,
) -> Path:
    """`answers` maps the last character of a prompt ("\n" for ChatML) to the chunks that follow
    it; after the last comes the end of the turn, or with `loops` the first again. Chunks that
    are `control` are control tokens. A chunk may stand once in all answers."""
    import numpy as np

    words = bpe_vocab(chat_template=chat_template)
    base = [*words.tokens]
    chunks = [chunk for answer in answers.values() for chunk in answer]
    assert len({*chunks, *base}) == len(chunks) + len(base), "a chunk stands twice"
    tokens = [*base, *chunks]
    types = [*words.metadata["tokenizer.ggml.token_type"].values]
    types += [CONTROL if chunk in control else USER_DEFINED for chunk in chunks]
    n_embd = 512
    assert len(tokens) <= n_embd
    follows: dict[int, int] = {}
    for last, answer in answers.items():
        ids = [tokens.index(chunk) for chunk in answer]
        start = base.index("Ċ") if last == "\n" else base.index(last)
        follows |= dict(zip([start, *ids], [*ids, ids[0] if loops else words.eot], strict=True))
    keys = general("llama", "F32", 1, n_embd, 256, 4, n_ctx_train) | {
        "llama.attention.layer_norm_rms_epsilon": F32(1e-5),
        "llama.rope.dimension_count": U32(n_embd // 4),
    }
    metadata = dict(words.metadata) | {
        "tokenizer.ggml.tokens": Arr("str", tokens),
        "tokenizer.ggml.token_type": Arr("i32", types),
    }
    model = TinyModel(keys | metadata, "F32")
    model.add("token_embd.weight", np.eye(len(tokens), n_embd, dtype=np.float32), "F32")
    output = np.zeros((len(tokens), n_embd), dtype=np.float32)
    for last_id in range(len(tokens)):
        output[follows.get(last_id, words.eot), last_id] = 1.0
    model.add("output.weight", output, "F32")
    model.add("output_norm.weight", np.ones(n_embd, dtype=np.float32), "F32")
    for name, shape in (("attn_norm", (n_embd,)), ("ffn_norm", (n_embd,)),
                        ("attn_q", (n_embd, n_embd)), ("attn_k", (n_embd, n_embd)),
                        ("attn_v", (n_embd, n_embd)), ("attn_output", (n_embd, n_embd)),
                        ("ffn_gate", (256, n_embd)), ("ffn_up", (256, n_embd)),
                        ("ffn_down", (n_embd, 256))):  # fmt: skip
        model.add(f"blk.0.{name}.weight", np.zeros(shape, dtype=np.float32), "F32")
    return model.write(path)
