"""Chat templates by name, for base models that bring none, and which of them suits a vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from localllm.errors import FileGone, UsageProblem

if TYPE_CHECKING:
    from localllm.engine.tokenizer import Tokenizer

NONE = "none"  # no template: prompts and texts as they stand


@dataclass(frozen=True)
class Named:
    """`marks` are single tokens of the vocabularies that the template is meant for."""

    source: str
    marks: tuple[str, ...] = ()


def _turns(turn: str, opening: str, *, bos: bool = False, first: str = "") -> str:
    """A template that writes each message by `turn`, and `opening` before an answer."""
    begin = "{{ bos_token }}" if bos else ""
    return (
        begin + first + "{% for message in messages %}" + turn + "{% endfor %}"
        "{% if add_generation_prompt %}" + opening + "{% endif %}"
    )  # fmt: skip


_NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
)
TEMPLATES: Mapping[str, Named] = {
    "gemma": Named(
        _turns(
            "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else "
            "message['role']) + '\n' + message['content'] | trim + '<end_of_turn>\n' }}",
            "{{ '<start_of_turn>model\n' }}",
            bos=True,
            first=_NO_SYSTEM,
        ),
        ("<start_of_turn>", "<end_of_turn>"),
    ),
    "llama3": Named(
        _turns(
            "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + "
            "message['content'] | trim + '<|eot_id|>' }}",
            "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}",
            bos=True,
        ),
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    "chatml": Named(
        _turns(
            "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}",
            "{{ '<|im_start|>assistant\n' }}",
        ),
        ("<|im_start|>", "<|im_end|>"),
    ),
    "phi3": Named(
        _turns(
            "{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}",
            "{{ '<|assistant|>\n' }}",
        ),
        ("<|user|>", "<|assistant|>", "<|end|>"),
    ),
    "mistral": Named(
        _turns(
            "{% if message['role'] == 'assistant' %}{{ ' ' + message['content'] | trim + "
            "eos_token }}{% else %}{{ '[INST] ' + message['content'] + '[/INST]' }}{% endif %}",
            "",
            bos=True,
            first=_NO_SYSTEM,
        ),
        ("[INST]", "[/INST]"),
    ),
    # These three need no tokens of their own: any vocabulary with an end token will do.
    "vicuna": Named(
        _turns(
            "{% if message['role'] == 'system' %}{{ message['content'] | trim + '\n\n' }}"
            "{% elif message['role'] == 'assistant' %}"
            "{{ 'ASSISTANT: ' + message['content'] | trim + eos_token + '\n' }}"
            "{% else %}{{ 'USER: ' + message['content'] | trim + '\n' }}{% endif %}",
            "{{ 'ASSISTANT:' }}",
            bos=True,
        )
    ),
    "zephyr": Named(
        _turns(
            "{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}",
            "{{ '<|assistant|>\n' }}",
        )
    ),
    "alpaca": Named(
        _turns(
            "{% if message['role'] == 'system' %}{{ message['content'] | trim + '\n\n' }}"
            "{% elif message['role'] == 'assistant' %}"
            "{{ '### Response:\n' + message['content'] | trim + eos_token + '\n\n' }}"
            "{% else %}{{ '### Instruction:\n' + message['content'] | trim + '\n\n' }}"
            "{% endif %}",
            "{{ '### Response:\n' }}",
            bos=True,
        )
    ),
}
_ANY = "vicuna"


@dataclass(frozen=True)
class ChosenTemplate:
    """`source` None is no template at all. `origin` says where it is from; "chosen" is one of
    `TEMPLATES` for a base without its own, which has to be written into what is trained."""

    name: str
    source: str | None
    origin: str  # "model" | "preset" | "named" | "file" | "chosen" | "none"
    why: str

    @property
    def is_new(self) -> bool:
        """Whether inference would not use it unless the result brings it along."""
        return self.origin in ("named", "file", "chosen")


def choose(
    wanted: str | None, preset: str | None, own: str | None, tokenizer: Tokenizer
) -> ChosenTemplate:
    """The template to train with: the one `wanted` (a name, a file of Jinja, "none"), else that of
    the preset, else the model's own, else the one that its vocabulary has the marks for.

    Raises UsageProblem, FileGone.
    """
    if wanted == NONE:
        return ChosenTemplate(NONE, None, "none", "asked for: texts as they stand")
    if wanted is not None and wanted in TEMPLATES:
        return ChosenTemplate(wanted, TEMPLATES[wanted].source, "named", "asked for by name")
    if wanted is not None:
        return ChosenTemplate(wanted, _read(wanted), "file", "asked for, from a file")
    if preset is not None:
        return ChosenTemplate("preset", preset, "preset", "the model's preset brings it")
    if own is not None:
        return ChosenTemplate("model", own, "model", "the model brings it")
    return suited(lambda mark: tokenizer.token_id(mark) is not None)


def suited(has: Callable[[str], bool]) -> ChosenTemplate:
    """The named template whose marks are tokens of the vocabulary that `has` asks."""
    for name, named in TEMPLATES.items():
        if named.marks and all(map(has, named.marks)):
            marks = " and ".join(named.marks[:2])
            why = f"the base has no chat template, and its vocabulary has {marks}"
            return ChosenTemplate(name, named.source, "chosen", why)
    why = "the base has no chat template, and its vocabulary no marks of one"
    return ChosenTemplate(_ANY, TEMPLATES[_ANY].source, "chosen", why)


def _read(text: str) -> str:
    path = Path(text).expanduser()
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        names = ", ".join((*TEMPLATES, NONE))
        raise FileGone(
            f"there is no template {text}", f"one of {names}, or a file of Jinja"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageProblem(f"{text} cannot be read as a template: {error}") from None
