"""What a model brings beside its weights."""

from __future__ import annotations

from dataclasses import replace

from localllm.generation import Message
from localllm.library.presets import Preset, modelfile_of
from localllm.modelfile import parse
from localllm.registry import Model

GO = "{{ .System }} {{ .Prompt }}"


def test_a_go_template_serves_a_file_without_one(tiny_model: Model) -> None:
    pulled = replace(tiny_model, extras={"template": GO})
    assert Preset.of(pulled).template is None
    assert Preset.of(pulled, has_template=False).template is not None
    odd = replace(tiny_model, extras={"template": '{{ define "x" }}'})
    assert Preset.of(odd, has_template=False).template is None


def test_values_of_the_wrong_type_are_left_out(tiny_model: Model) -> None:
    extras = {
        "parameters": {"temperature": "hot", "top_k": True, "seed": -1, "min_p": float("nan"),
                       "num_predict": 7, "num_ctx": 4096, "stop": ["a", 3, ""]},
        "system": 3,
        "messages": [{"role": "user"}, {"role": "robot", "content": "x"}, "x",
                     {"role": "user", "content": "Hi"}],
    }  # fmt: skip
    preset = Preset.of(replace(tiny_model, extras=extras))
    assert (preset.sampling.temperature, preset.sampling.top_k) == (0.8, 40)
    assert (preset.sampling.seed, preset.sampling.min_p) == (None, 0.05)
    assert (preset.sampling.max_tokens, preset.sampling.stop, preset.n_ctx) == (7, ("a",), 4096)
    assert (preset.system, preset.messages) == (None, (Message("user", "Hi"),))


def test_what_stands_before_the_question(tiny_model: Model) -> None:
    extras = {"system": "Be kind.", "messages": [{"role": "assistant", "content": "Hm"}]}
    preset = Preset.of(replace(tiny_model, extras=extras))
    asked = (Message("user", "Hi"),)
    kind, hm = Message("system", "Be kind."), Message("assistant", "Hm")
    assert preset.messages_before(asked) == (kind, hm, *asked)
    own = (Message("system", "Be brief."), *asked)
    assert preset.messages_before(own) == (own[0], hm, own[1])


def test_a_pulled_models_modelfile_reads_back(tiny_model: Model) -> None:
    extras = {"template": GO, "parameters": {"temperature": 1, "odd": 2}, "license": "MIT\n"}
    found = parse(modelfile_of(replace(tiny_model, extras=extras)).text())
    assert (found.base, found.template, found.parameters) == ("org/tiny", GO, {"temperature": 1.0})
    assert found.licenses == ("MIT\n",)
