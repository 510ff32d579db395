"""Vocabularies of tiny models with the templates of real ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from localllm.engine.model import Model
from localllm.engine.options import LoadOptions
from localllm.finetune.data import DataSpec, Dialect, EncodeOptions, Prepared, open_data, prepare
from tests.support.tiny_models import tiny_llama
from tests.support.tiny_vocab import CHATML

Write = Callable[..., Path]
Speak = Callable[..., Dialect]

# As published, shortened where a part says nothing here; marks are ChatML's, which the tiny
# vocabularies have as tokens.
TRIMS = (  # Gemma: its own name for the assistant, texts trimmed, no system role
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<|im_start|>' + role + '\n' + message['content'] | trim + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}"
)
QWEN3 = (  # thinking stays with the answers after the last question only
    "{%- set ns = namespace(last=-1) %}"
    "{%- for message in messages %}{%- if message.role == 'user' %}{%- set ns.last = loop.index0 %}"
    "{%- endif %}{%- endfor %}"
    "{%- for message in messages %}{%- if message.role == 'assistant' %}"
    "{%- set content = message.content %}{%- set thought = message.reasoning_content or '' %}"
    "{%- if '</think>' in content %}"
    "{%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{{- '<|im_start|>assistant\n' }}{%- if loop.index0 > ns.last %}"
    "{{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content }}"
    "{%- else %}{{- content }}{%- endif %}{{- '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"
)
DEEPSEEK = (  # opens the thinking, and leaves it out of what was said
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'assistant' %}{{ 'A: ' + m.content.split('</think>')[-1] + eos_token }}"
    "{% else %}{{ 'U: ' + m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'A: <think>\n' }}{% endif %}"
)
MISTRAL = (  # no opening at all: the answer follows with a space
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + m.content + ' [/INST]' }}{% elif m.role == 'assistant' %}"
    "{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
HARMONY = (  # an answer ends with another token while it is the last one
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
    "{{ eos_token if loop.last and not add_generation_prompt and m.role == 'assistant' "
    "else '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {
    "chatml": CHATML, "trims": TRIMS, "qwen3": QWEN3, "deepseek": DEEPSEEK, "mistral": MISTRAL,
    "harmony": HARMONY,
}  # fmt: skip


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Model]]:
    """`vocabulary("spm", template)`: the vocabulary of a tiny model with that chat template."""
    folder = tmp_path_factory.mktemp("vocabularies")
    made: dict[tuple[Any, ...], Model] = {}

    def load(vocab: str = "bpe", template: str | None = CHATML, n_ctx_train: int = 2048) -> Model:
        key = (vocab, template, n_ctx_train)
        if key not in made:
            path = tiny_llama(
                folder / f"{len(made)}.gguf", vocab=vocab, chat_template=template, n_layer=1,
                n_embd=64, n_ff=64, n_ctx_train=n_ctx_train,
            )  # fmt: skip
            made[key] = Model.load(path, LoadOptions(vocab_only=True))
        return made[key]

    yield load
    for model in made.values():
        model.close()


@pytest.fixture
def speak(vocabulary: Callable[..., Model]) -> Speak:
    """`speak("spm", template, system=...)`: the dialect of such a model."""

    def made(
        vocab: str = "bpe", template: str | None = CHATML, n_ctx_train: int = 2048, **more: Any
    ) -> Dialect:
        return Dialect(vocabulary(vocab, template, n_ctx_train), **more)

    return made


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write("a.jsonl", [row, ...])`, or bytes or text as they are."""

    def made(name: str, content: bytes | str | Sequence[Any]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8", newline="")
        else:
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in content]
            path.write_text("".join(lines), encoding="utf-8", newline="")
        return path

    return made


def chat(*said: str, **more: Any) -> dict[str, Any]:
    """A row of OpenAI messages: user and assistant in turns."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": t} for i, t in enumerate(said)], **more}


def prepared(path: Path | str, dialect: Dialect, spec: Any = None, **options: Any) -> Prepared:
    """The rows of `path` in tokens; `spec` are fields of DataSpec."""
    dataset = open_data(DataSpec((str(path),), **(spec or {})))
    return prepare(dataset, dialect, EncodeOptions(**options))
