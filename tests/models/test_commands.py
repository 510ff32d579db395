"""list, show, path, cp, rm, verify, prune, export, rebuild through the real command line."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.registry import Lineage, Model, Registry
from tests.conftest import Done, arrival

Cli = Callable[..., Done]


def flip_byte(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def add(registry: Registry, tmp_path: Path, name: str, content: bytes, **more: object) -> Model:
    path = tmp_path / f"{name}.tmp"
    path.write_bytes(content)
    return registry.add(arrival(name, path, file_name=f"{name}.gguf", **more))


def test_list_filters_and_sorts(cli: Cli, registry: Registry, tmp_path: Path) -> None:
    add(registry, tmp_path, "small", b"1", architecture="llama", n_params=10)
    add(registry, tmp_path, "large", b"333", architecture="gemma3", n_params=5)
    names = [m["name"] for m in cli("list", "--json").data]
    assert names == ["org/large", "org/small"]
    assert [m["name"] for m in cli("list", "--sort", "size", "-r", "--json").data] == [
        "org/large",
        "org/small",
    ]
    assert [m["name"] for m in cli("list", "--sort", "params", "--json").data] == [
        "org/large",
        "org/small",
    ]
    assert [m["size_bytes"] for m in cli("list", "gemma3", "--json").data] == [3]
    assert [m["name"] for m in cli("list", "*all", "--json").data] == ["org/small"]
    assert cli("list", "nothing").exit_code == 0
    assert cli("list", "--sort", "colour").exit_code == 2


def test_list_on_an_empty_home(cli: Cli, home: Path) -> None:
    done = cli("list")
    assert (done.exit_code, done.out) == (0, "")
    assert "no models yet" in done.err
    assert not home.exists()


def test_path_is_one_line_for_scripts(cli: Cli, tiny_model: Model) -> None:
    done = cli("path", "tiny")
    assert done.out == f"{tiny_model.path}\n"
    assert cli("path", "tiny", "--mmproj").exit_code == 3
    assert cli("path", str(tiny_model.path)).out == done.out


def test_a_loose_file_needs_no_registry(cli: Cli, tiny_gguf: Path, home: Path) -> None:
    assert cli("path", tiny_gguf).out == f"{tiny_gguf}\n"
    assert cli("show", tiny_gguf, "--json").data["architecture"] == "llama"
    assert not home.exists()


def test_show_says_what_the_header_says(cli: Cli, tiny_model: Model) -> None:
    import gguf

    reader = gguf.GGUFReader(tiny_model.path)
    data = cli("show", "tiny", "--json").data
    assert data["n_params"] is None or data["n_params"] > 0
    assert data["n_layer"] == reader.fields["llama.block_count"].contents()
    assert data["n_vocab"] == len(reader.fields["tokenizer.ggml.tokens"].contents())
    total = sum(int(t.n_bytes) for t in reader.tensors)
    assert sum(t["size_bytes"] for t in data["tensor_types"]) == total
    assert data["files"][0]["sha256"] == tiny_model.weights[0].sha256


def test_show_metadata(cli: Cli, tiny_model: Model) -> None:
    assert cli("show", "tiny", "--metadata", "general.architecture").out == "llama\n"
    wrong = cli("show", "tiny", "--metadata", "general.architectur")
    assert wrong.exit_code == 3
    assert "near: general.architecture" in wrong.err
    keys = cli("show", "tiny", "--keys", "--json").data
    assert {"general.architecture", "llama.block_count"} <= {k["key"] for k in keys}
    assert cli("show", "tiny", "--keys", "--template").exit_code == 2
    assert "im_start" in cli("show", "tiny", "--template").out


def test_show_prints_the_family_tree(cli: Cli, registry: Registry, tmp_path: Path,
                                     tiny_model: Model) -> None:  # fmt: skip
    content = tiny_model.path.read_bytes() + b"\0" * 32
    for name, parent in (("child", "org/tiny"), ("grandchild", "org/child")):
        lineage = Lineage("quantize", ((parent, None),), f"localllm quantize {parent} Q4_0")
        add(registry, tmp_path, name, content, lineage=lineage)
    data = cli("show", "grandchild", "--json").data
    assert data["parents"][0]["name"] == "org/child"
    assert data["parents"][0]["parents"][0]["name"] == "org/tiny"
    assert data["made_by"] == "localllm quantize org/child Q4_0"
    assert cli("show", "org/tiny", "--json").data["children"] == ["org/child"]
    assert "quantize of org/child" in cli("show", "grandchild").out


def test_cp_and_rm(cli: Cli, registry: Registry, tiny_model: Model) -> None:
    assert cli("cp", "tiny", "nick").exit_code == 0
    assert cli("path", "nick").out == f"{tiny_model.path}\n"
    assert cli("cp", "tiny", "org/tiny").exit_code == 2
    assert cli("cp", "missing", "x").exit_code == 3
    assert cli("rm", "nick").exit_code == 0
    assert tiny_model.path.exists()
    dry = cli("rm", "tiny", "--dry-run", "--json").data
    assert dry[0]["freed_bytes"] == tiny_model.size_bytes
    assert tiny_model.path.exists()
    assert cli("rm", "tiny", "missing").exit_code == 3
    assert tiny_model.path.exists()  # all or nothing
    assert cli("rm", "tiny", "--json").data[0]["freed_bytes"] == tiny_model.size_bytes
    assert not tiny_model.path.exists()
    assert registry.models() == ()


def test_rm_of_a_model_whose_file_is_gone(cli: Cli, tiny_model: Model) -> None:
    tiny_model.path.unlink()
    assert cli("show", "tiny").exit_code == 3
    assert cli("list", "--json").data[0]["present"] is False
    assert cli("rm", "tiny").exit_code == 0
    assert cli("list", "--json").data == []


def test_rm_warns_of_children(cli: Cli, registry: Registry, tmp_path: Path,
                              tiny_model: Model) -> None:  # fmt: skip
    lineage = Lineage("quantize", (("org/tiny", None),), "localllm quantize tiny Q4_0")
    add(registry, tmp_path, "child", b"x", lineage=lineage)
    assert "org/child" in cli("rm", "tiny", "--json").json["warnings"][0]


def test_verify_finds_one_flipped_byte(cli: Cli, tiny_model: Model) -> None:
    assert cli("verify", "tiny").exit_code == 0
    flip_byte(tiny_model.path, at=tiny_model.size_bytes // 2)
    done = cli("verify", "tiny", "--json")
    assert done.exit_code == 7
    assert done.data[0]["damaged"] == ["tiny.gguf"]
    assert done.json["error"]["kind"] == "damaged_file"
    assert cli("verify", "--all").exit_code == 7
    assert cli("verify").exit_code == 2


def test_verify_takes_the_digest_of_a_file_in_place(cli: Cli, registry: Registry,
                                                    tiny_gguf: Path) -> None:  # fmt: skip
    from dataclasses import replace

    came = arrival("mine", tiny_gguf, in_place=True)
    registry.add(replace(came, files=(replace(came.files[0], sha256=None),)))
    assert cli("verify", "mine", "--json").data[0]["recorded"] == ["tiny.gguf"]
    expected = hashlib.sha256(tiny_gguf.read_bytes()).hexdigest()
    assert registry.resolve("mine").weights[0].sha256 == expected


def test_verify_missing_file_is_exit_3(cli: Cli, tiny_model: Model) -> None:
    tiny_model.path.unlink()
    done = cli("verify", "tiny", "--json")
    assert done.exit_code == 3
    assert done.data[0]["missing"] == ["tiny.gguf"]


def test_prune_lists_and_removes_only_with_yes(cli: Cli, tiny_model: Model) -> None:
    orphan = tiny_model.path.with_name("orphan.gguf")
    orphan.write_bytes(b"12345")
    for args in (("--dry-run",), ()):
        data = cli("prune", *args, "--json").data
        assert (data["found_bytes"], data["removed"]) == (5, False)
        assert orphan.exists()
    data = cli("prune", "--yes", "--json").data
    assert (data["removed"], data["freed_bytes"]) == (True, 5)
    assert not orphan.exists()
    assert tiny_model.path.exists()


@pytest.mark.parametrize("link", [False, True])
def test_export(cli: Cli, tiny_model: Model, tmp_path: Path, link: bool) -> None:
    target = tmp_path / "out put" / "出力"
    done = cli("export", "tiny", target, *(["--link"] if link else []), "--json")
    assert done.exit_code == 0
    copy = target / "tiny.gguf"
    assert copy.read_bytes() == tiny_model.path.read_bytes()
    assert copy.samefile(tiny_model.path) is link
    assert cli("export", "tiny", target).exit_code == 2
    assert cli("export", "tiny", target, "--force").exit_code == 0
    assert [p.name for p in target.iterdir()] == ["tiny.gguf"]


def test_rebuild_from_files_alone(cli: Cli, registry: Registry, tiny_model: Model) -> None:
    for path in registry.manifests.iterdir():
        path.unlink()
    registry.database.path.unlink()
    data = cli("rebuild", "--json").data
    assert (data["models"], data["from_files"]) == (1, 1)
    model = registry.resolve("org/tiny")
    assert model.path == tiny_model.path
    assert model.architecture == "llama"


def test_rebuild_without_a_home(cli: Cli, home: Path) -> None:
    assert cli("rebuild").exit_code == 3
    assert not home.exists()


def test_completion_knows_the_models(shell: Callable[..., Done], tiny_model: Model) -> None:
    env = {
        "_LOCALLLM_COMPLETE": "complete_bash",
        "COMP_WORDS": "localllm show o",
        "COMP_CWORD": "2",
    }
    assert "org/tiny" in shell(env=env).out.split()
