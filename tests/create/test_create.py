"""localllm create: what the new model shares, says and survives."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from localllm.library.presets import Preset
from localllm.modelfile import parse
from localllm.registry import Model, Registry
from tests.conftest import Done, arrival
from tests.support.tiny_models import tiny_chain, tiny_lora

CLI = Callable[..., Done]


def write(folder: Path, text: str, name: str = "Modelfile") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def pirate(cli: CLI, tiny_model: Model, tmp_path: Path) -> Done:
    path = write(tmp_path, f"FROM {tiny_model.name}\nPARAMETER temperature 0.25\n"
                 'PARAMETER stop "Ahoy"\nSYSTEM You are a pirate.\nMESSAGE user Hi\n'
                 'MESSAGE assistant Arr\nTEMPLATE """{{ .System }}|{{ .Prompt }}>{{ .Response }}'
                 '"""\nLICENSE MIT')  # fmt: skip
    done = cli("create", "pirate", "-f", path, "--json")
    assert done.exit_code == 0, done
    return done


def test_it_brings_its_preset(pirate: Done, registry: Registry) -> None:
    preset = Preset.of(registry.resolve("pirate"))
    assert (preset.sampling.temperature, preset.sampling.stop) == (0.25, ("Ahoy",))
    assert preset.system == "You are a pirate."
    assert [(m.role, m.content) for m in preset.messages] == [("user", "Hi"), ("assistant", "Arr")]
    assert preset.template is not None
    assert pirate.data["parameters"] == {"temperature": 0.25, "stop": ["Ahoy"]}


def test_it_shares_the_files_of_its_base(
    pirate: Done, registry: Registry, tiny_model: Model
) -> None:
    made = registry.resolve("pirate")
    assert made.path.samefile(tiny_model.path)
    assert made.files[0].sha256 == tiny_model.files[0].sha256
    assert made.lineage is not None
    assert made.lineage.parents == ((tiny_model.name, tiny_model.files[0].sha256),)
    assert registry.children(tiny_model) == (made,)


@pytest.mark.parametrize(("gone", "left"), [("pirate", "org/tiny"), ("org/tiny", "pirate")])
def test_removing_one_leaves_the_other(cli: CLI, pirate: Done, gone: str, left: str) -> None:
    assert cli("rm", gone).exit_code == 0
    assert cli("verify", left).exit_code == 0
    assert cli("prune", "--json").exit_code == 0
    assert cli("chat", left, "x", "--max-tokens", "2").exit_code == 0


def test_it_survives_a_rebuild(cli: CLI, pirate: Done, registry: Registry) -> None:
    before = registry.resolve("pirate")
    registry.database.path.unlink()
    assert cli("rebuild").exit_code == 0
    after = registry.resolve("pirate")
    assert (after.extras, after.lineage) == (before.extras, before.lineage)


def test_its_modelfile_makes_it_again(
    cli: CLI, pirate: Done, registry: Registry, tmp_path: Path
) -> None:
    shown = cli("show", "pirate", "--modelfile")
    assert shown.exit_code == 0
    again = write(tmp_path, shown.out, "again")
    assert parse(shown.out).base == "org/tiny"
    done = cli("create", "pirate", "-f", again, "--json")
    assert done.data["replaced"] is True
    assert cli("show", "pirate", "--modelfile").out == shown.out
    assert cli("create", "second", "-f", again).exit_code == 0
    first, second = registry.resolve("pirate"), registry.resolve("second")
    assert first.extras == second.extras


def test_the_template_stands_in_place_of_the_files_own(cli: CLI, tmp_path: Path) -> None:
    # after ">" it says "ok" and ends: only the Modelfile's template ends its prompt so
    gguf = tiny_chain(tmp_path / "chain.gguf", {ord(">"): ord("o"), ord("o"): ord("k")})
    write(tmp_path, f'FROM {gguf.name}\nTEMPLATE """{{{{ .Prompt }}}}>"""\nPARAMETER top_k 1')
    assert cli("create", "ok", "-f", tmp_path / "Modelfile").exit_code == 0
    assert cli("chat", "ok", "x", "--max-tokens", "5").out.strip() == "ok"
    assert cli("show", "ok", "--template").out.strip()


def test_it_inherits_what_it_does_not_say(
    cli: CLI, pirate: Done, registry: Registry, tmp_path: Path
) -> None:
    path = write(tmp_path, "FROM pirate\nPARAMETER top_k 7\nSYSTEM Calm.\nLICENSE BSD", "calm")
    assert cli("create", "calm", "-f", path).exit_code == 0
    extras = registry.resolve("calm").extras
    assert extras["parameters"] == {"temperature": 0.25, "stop": ["Ahoy"], "top_k": 7}
    assert (extras["system"], extras["license"]) == ("Calm.", "MIT\n\nBSD")
    assert len(extras["messages"]) == 2
    assert cli("rm", "pirate").exit_code == 0
    assert cli("chat", "calm", "x", "--max-tokens", "1").exit_code == 0


def test_an_adapter_is_attached(
    cli: CLI, registry: Registry, tiny_model: Model, tmp_path: Path
) -> None:
    tiny_lora(tmp_path / "lora.gguf")
    path = write(tmp_path, f"FROM {tiny_model.name}\nADAPTER ./lora.gguf")
    assert cli("create", "tuned", "-f", path).exit_code == 0
    made = registry.resolve("tuned")
    assert [f.name for f in made.with_role("adapter")] == ["lora.gguf"]
    assert made.lineage is not None
    assert len(made.lineage.parents) == 2
    assert cli("chat", "tuned", "x", "--max-tokens", "1").exit_code == 0
    assert "ADAPTER" in cli("show", "tuned", "--modelfile").out


def test_a_path_in_place(cli: CLI, registry: Registry, tiny_gguf: Path, tmp_path: Path) -> None:
    path = write(tmp_path, f"FROM {tiny_gguf}")
    for _ in range(2):
        assert cli("create", "here", "-f", path).exit_code == 0
    made = registry.resolve("here")
    assert (made.path, made.files[0].owned) == (tiny_gguf, False)
    assert cli("rm", "here").exit_code == 0
    assert tiny_gguf.exists()


def test_a_modelfile_from_stdin(cli: CLI, tiny_model: Model) -> None:
    assert cli("create", "piped", "-f", "-", stdin=f"FROM {tiny_model.name}").exit_code == 0


@pytest.mark.parametrize(
    ("name", "text", "code", "why"),
    [
        ("org/tiny", "FROM org/tiny", 2, "cannot be a model's name"),
        ("mine", "FROM nothing-like-it", 3, "FROM nothing-like-it: no model"),
        ("mine", "FROM ./gone.gguf", 3, "there is no file"),
        ("mine", "FROM org/tiny\nADAPTER ./gone.gguf", 3, "there is no file"),
        ("mine", "FROM org/tiny\nADAPTER org/tiny", 7, "is no LoRA adapter"),
        ("mine", "FROM org/tiny\nPARAMETER temprature 1", 2, "near: temperature"),
        ("mine", 'FROM org/tiny\nTEMPLATE {{ define "x" }}', 2, "{{ define }} is not supported"),
        ("mine", "FROM org/tiny\nTEMPLATE {% for %}", 2, "TEMPLATE: the chat template of"),
        ("mine", "FROM org/tiny\nDRAFT x", 2, "--draft"),
        ("taken", "FROM org/tiny", 2, "is a second name of org/tiny"),
        ("pirate", "FROM pirate", 2, "cannot be made from itself"),
        ("a b", "FROM org/tiny", 2, "is no model name"),
        ("mine", "FROM https://example.org/x.gguf", 3, "no model"),
    ],
)
def test_what_cannot_be_is_one_line(
    cli: CLI, pirate: Done, tmp_path: Path, name: str, text: str, code: int, why: str
) -> None:
    assert cli("cp", "org/tiny", "taken").exit_code == 0
    done = cli("create", name, "-f", write(tmp_path, text, "bad"))
    assert done.exit_code == code, done
    assert why in done.err
    assert len(done.err.strip().splitlines()) <= 2
    assert "internal error" not in done.err


def test_a_pulled_model_is_not_replaced(cli: CLI, registry: Registry, tiny_model: Model,
                                        tmp_path: Path) -> None:  # fmt: skip
    copy = tmp_path / "plain.gguf"
    shutil.copyfile(tiny_model.path, copy)
    registry.add(replace(arrival("x", copy), name="plain"))
    done = cli("create", "plain", "-f", write(tmp_path, "FROM org/tiny"))
    assert done.exit_code == 2
    assert "is a model already, and no Modelfile made it" in done.err


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"FROM a\n" + b"#" * (9 << 20), "larger than 8 MiB"), (b"FROM a\n\xff\xfe\x00", "not UTF-8"),
     (b"FROM a\0b", "is a binary file"), (b"", "no FROM line")],
)  # fmt: skip
def test_what_is_no_modelfile(cli: CLI, tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "odd"
    path.write_bytes(content)
    done = cli("create", "mine", "-f", path)
    assert done.exit_code == 2
    assert why in done.err
    assert cli("create", "mine", "-f", tmp_path).exit_code == 2
