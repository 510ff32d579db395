"""The grammar of references: a table of text, parsed, printed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localllm.errors import InvalidReference
from localllm.refs import ModelRef

TABLE = [
    ("org/repo", ModelRef("hf", "org/repo"), "hf:org/repo"),
    ("org/repo:Q4_K_M", ModelRef("hf", "org/repo", None, "Q4_K_M"), "hf:org/repo:Q4_K_M"),
    (
        "hf:org/repo@refs/pr/3:UD-Q4_K_XL",
        ModelRef("hf", "org/repo", "refs/pr/3", "UD-Q4_K_XL"),
        "hf:org/repo@refs/pr/3:UD-Q4_K_XL",
    ),
    ("hf:gpt2", ModelRef("hf", "gpt2"), "hf:gpt2"),
    ("HF:org/repo", ModelRef("hf", "org/repo"), "hf:org/repo"),
    (
        "org/repo:sub dir/m-Q4_K_M.gguf",
        ModelRef("hf", "org/repo", None, "sub dir/m-Q4_K_M.gguf"),
        "hf:org/repo:sub dir/m-Q4_K_M.gguf",
    ),
    (
        "https://huggingface.co/org/repo/blob/main/q/m%20x.gguf",
        ModelRef("hf", "org/repo", None, "q/m x.gguf"),
        "hf:org/repo:q/m x.gguf",
    ),
    ("hf.co/org/repo:Q8_0", ModelRef("hf", "org/repo", None, "Q8_0"), "hf:org/repo:Q8_0"),
    ("ollama:llama3.2", ModelRef("ollama", "llama3.2"), "ollama:llama3.2"),
    ("ollama:llama3.2:1b", ModelRef("ollama", "llama3.2", None, "1b"), "ollama:llama3.2:1b"),
    (
        "ollama:localhost:5000/library/m:tag",
        ModelRef("ollama", "localhost:5000/library/m", None, "tag"),
        "ollama:localhost:5000/library/m:tag",
    ),
    ("pypi:Some_Pkg.x@1.0", ModelRef("pypi", "some-pkg-x", "1.0"), "pypi:some-pkg-x@1.0"),
    (
        "https://host:8/a/m.gguf?x=1#f",
        ModelRef("https", "//host:8/a/m.gguf?x=1#f"),
        "https://host:8/a/m.gguf?x=1#f",
    ),
    ("http://127.0.0.1/m.gguf", ModelRef("http", "//127.0.0.1/m.gguf"), "http://127.0.0.1/m.gguf"),
    ("./a b.gguf", ModelRef("file", "./a b.gguf"), "file:./a b.gguf"),
    ("/モデル/日本語.gguf", ModelRef("file", "/モデル/日本語.gguf"), "file:/モデル/日本語.gguf"),
    ("~/m.gguf", ModelRef("file", "~/m.gguf"), "file:~/m.gguf"),
    (r"C:\m\a.gguf", ModelRef("file", r"C:\m\a.gguf"), r"file:C:\m\a.gguf"),
    ("file:/a:b@c.gguf", ModelRef("file", "/a:b@c.gguf"), "file:/a:b@c.gguf"),
    ("models/x.gguf", ModelRef("file", "models/x.gguf"), "file:models/x.gguf"),
    ("..", ModelRef("file", ".."), "file:.."),
    ("gemma3-270m:Q4_K_M", ModelRef("local", "gemma3-270m", None, "Q4_K_M"), "gemma3-270m:Q4_K_M"),
    ("mine", ModelRef("local", "mine"), "mine"),
    (
        "org/m:モデル-Q4_K_M",
        ModelRef("hf", "org/m", None, "モデル-Q4_K_M"),
        "hf:org/m:モデル-Q4_K_M",
    ),
    ("org/m:(v2) Q8_0", ModelRef("hf", "org/m", None, "(v2) Q8_0"), "hf:org/m:(v2) Q8_0"),
]


@pytest.mark.parametrize(("text", "parsed", "printed"), TABLE, ids=[row[0] for row in TABLE])
def test_text_parsed_printed(text: str, parsed: ModelRef, printed: str) -> None:
    assert ModelRef.parse(text) == parsed
    assert str(parsed) == printed
    assert ModelRef.parse(printed) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "", " ", " org/repo", "org/repo ", "hf:", "pypi:", "ollama:", "a/b/c", "hf:a/../b",
        "hf:../../etc", "a/b:../../x", "a/b:/etc/passwd", "a/b:c/../d", "a/b@..", "a/b@", "a/b:",
        "a\x00b", "a\nb", "x:y:z", "http://", "https:///x", "https://host", "ollama:m@sha256:00",
        "pypi:../x", "hf:a--b/c", "a/b:c\\d", "https://[::1", "https://huggingface.co/org",
        "file:", "hf:" + "a" * 200 + "/b",
    ],
)  # fmt: skip
def test_no_reference(text: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        ModelRef.parse(text)
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message


@given(st.text(max_size=60))
def test_any_text_parses_or_is_refused_and_round_trips(text: str) -> None:
    try:
        ref = ModelRef.parse(text)
    except InvalidReference:
        return
    assert ModelRef.parse(str(ref)) == ref


def test_at_and_pick() -> None:
    ref = ModelRef.parse("org/repo:Q4_K_M")
    assert str(ref.at("abc").pick("Q8_0")) == "hf:org/repo@abc:Q8_0"
    assert ref.is_remote
    assert not ModelRef.parse("./x.gguf").is_remote
