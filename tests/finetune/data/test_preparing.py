"""Lengths, what counts, duplicates, splits, and the report of it all."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from localllm.errors import DamagedFile, DiskFull, UsageProblem
from localllm.finetune.data import (
    DataSpec,
    Dialect,
    EncodeOptions,
    open_data,
    prepare,
    report_view,
    split,
)
from localllm.finetune.data import store as stores
from localllm.ui.sink import to_json
from tests.finetune.data.conftest import Speak, Write, chat, prepared
from tests.finetune.data.test_sends import _spans, targets

WORDS = ["the", "world", "and", "hello", "of", "in", "to", "a", "on", "at", "or", "is", "it"]


def words(n: int, seed: int) -> str:
    random_ = random.Random(seed)
    return " ".join(random_.choice(WORDS) for _ in range(n))


def text(example: Any, speak: Speak) -> str:
    return speak().tokenizer.decode(targets(example), special=True)


def test_what_counts_can_be_chosen(speak: Speak, write: Write) -> None:
    call = {
        "role": "assistant",
        "content": "I look.",
        "tool_calls": [{"name": "f", "arguments": {}}],
    }
    row = {"messages": [*chat("a", "first", "b")["messages"], call,
                        {"role": "tool", "content": "42"},
                        {"role": "assistant", "content": "last"},
                        {"role": "user", "content": "more?"}]}  # fmt: skip
    path, dialect = write("a.jsonl", [row]), speak()
    learned = {
        loss: text(prepared(path, dialect, loss=loss).examples[0], speak)
        for loss in ("assistant", "last", "completion")
    }
    assert learned == {
        "assistant": "first<|im_end|>I look.<|im_end|>last<|im_end|>",
        "last": "last<|im_end|>",
        "completion": "I look.<|im_end|>last<|im_end|>",
    }
    (whole,) = prepared(path, dialect, loss="all").examples
    assert whole.mask.tolist() == [False] + [True] * (len(whole) - 1)
    assert "more?" not in dialect.tokenizer.decode(whole.ids.tolist())  # nobody answered it


def test_weight_0_is_context_and_nothing_to_learn(speak: Speak, write: Write) -> None:
    row = chat("a", "wrong", "b", "right")
    row["messages"][1]["weight"] = 0
    (example,) = prepared(write("a.jsonl", [row]), speak()).examples
    assert text(example, speak) == "right<|im_end|>"
    assert "wrong" in speak().tokenizer.decode(example.ids.tolist())
    row["messages"][3]["weight"] = 0
    with pytest.raises(UsageProblem, match="none of its answers counts"):
        prepared(write("a.jsonl", [row]), speak())


def test_long_rows_are_cut_dropped_split_or_an_error(speak: Speak, write: Write) -> None:
    turns = [t for i in range(6) for t in (words(10, i), f"answer {i} {words(5, 50 + i)}")]
    path, dialect = write("a.jsonl", [chat("short", "row"), chat(*turns)]), speak()
    full = prepared(path, dialect).examples
    n = len(full[1])
    limit = n // 3

    cut = prepared(path, dialect, max_length=limit)
    assert cut.examples[1].ids.tolist() == full[1].ids[:limit].tolist()
    assert cut.examples[1].mask.tolist() == full[1].mask[:limit].tolist()
    assert (cut.report.n_truncated, cut.report.lost_tokens) == (1, n - limit)
    assert cut.report.lost_targets == full[1].n_targets - int(full[1].mask[:limit].sum())
    assert cut.report.lengths is not None
    assert cut.report.lengths.longest == n  # before it was cut

    dropped = prepared(path, dialect, max_length=limit, overlong="drop")
    assert (len(dropped), dropped.report.n_too_long) == (1, 1)

    parts = prepared(path, dialect, max_length=limit, overlong="split")
    assert (parts.report.n_split, parts.report.n_truncated, parts.report.lost_tokens) == (1, 0, 0)
    assert all(len(e) <= limit for e in parts.examples)
    learned = "".join(text(e, speak) for e in parts.examples[1:])
    assert learned == text(full[1], speak)  # every answer once, whole

    with pytest.raises(UsageProblem, match=f"line 2 is {n} tokens, an example may be {limit}"):
        prepared(path, dialect, max_length=limit, overlong="error")
    with pytest.raises(UsageProblem, match="no row has an answer within 8 tokens") as told:
        prepared(path, dialect, max_length=8)
    assert told.value.hint == "a larger --max-length, up to 2048"
    with pytest.raises(UsageProblem) as told:  # and no more than what there is
        prepared(path, speak(n_ctx_train=8))
    assert "shorter rows" in told.value.hint


def test_a_system_message_stays_with_every_part(speak: Speak, write: Write) -> None:
    row = chat(*(words(12, i) for i in range(8)), system="Be brief.")
    made = prepared(write("a.jsonl", [row]), speak(), max_length=64, overlong="split")
    assert len(made) > 2
    begins = {speak().tokenizer.decode(e.ids[:40].tolist(), special=True) for e in made.examples}
    assert all("Be brief." in text for text in begins)


def test_no_example_is_longer_than_the_model(speak: Speak, write: Write) -> None:
    path = write("a.jsonl", [chat(words(400, 1), words(400, 2)), chat("a", "b")])
    dialect = speak(n_ctx_train=256)
    with pytest.raises(UsageProblem, match="more than the 256"):
        prepared(path, dialect, max_length=512)
    made = prepared(path, dialect)
    assert made.report.max_length == 256
    assert made.report.n_too_long == 1  # its question alone is longer
    assert any("left out: too long" in warning for warning in made.report.warnings)


@pytest.mark.parametrize("vocab", ["bpe", "spm"])
def test_texts_are_chunks_with_bos_and_an_end(vocab: str, speak: Speak, write: Write) -> None:
    documents = ["hello the world", words(300, 1), "", words(100, 2)]
    rows = [{"text": document} for document in documents]
    dialect = speak(vocab)
    made = prepared(write("a.jsonl", rows), dialect, max_length=64)
    tokenizer = dialect.tokenizer
    expected = []
    for document in documents:
        ids = [*tokenizer.encode(document, add_special=False), tokenizer.eos]
        if document:
            expected += [[tokenizer.bos, *ids[i : i + 63]] for i in range(0, len(ids), 63)]
    assert [e.ids.tolist() for e in made.examples] == expected
    assert all(e.mask.tolist() == [False] + [True] * (len(e) - 1) for e in made.examples)
    assert (made.report.n_rows, made.report.n_empty) == (4, 1)


@pytest.mark.parametrize("vocab", ["bpe", "spm"])
def test_a_text_in_pieces_has_the_tokens_of_the_whole(
    vocab: str, speak: Speak, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    from localllm.finetune.data.reading import texts

    monkeypatch.setattr(texts, "PIECE", 300)
    lines = [words(random.Random(i).randint(0, 90), i) + "\n" * (1 + i % 3) for i in range(60)]
    content = "".join(lines) + "hello " * 300
    dialect = speak(vocab)
    made = prepared(write("a.txt", content), dialect, max_length=64)
    body = [i for e in made.examples for i in e.ids[1:].tolist()]
    assert body[:-1] == dialect.tokenizer.encode(content, add_special=False)
    assert body[-1] == dialect.tokenizer.eos


def test_nothing_in_a_document_is_a_control_token(speak: Speak, write: Write) -> None:
    dialect = speak()
    (example,) = prepared(write("a.txt", "x <|im_end|> y"), dialect).examples
    assert dialect.tokenizer.eot not in example.ids
    assert dialect.tokenizer.decode(example.ids[1:-1].tolist()) == "x <|im_end|> y"


def test_pairs(speak: Speak, write: Write) -> None:
    rows = [{"prompt": "Hi", "chosen": "good", "rejected": "bad"},
            {"prompt": words(300, 1), "chosen": "a", "rejected": "b"}]  # fmt: skip
    made = prepared(write("a.jsonl", rows), speak(), max_length=128)
    assert made.is_pairs
    assert (len(made), made.report.n_pairs, made.report.n_too_long) == (1, 1, 1)
    pair = made.pairs[0]
    (start, _), (again, _) = _spans(pair.chosen)[0], _spans(pair.rejected)[0]
    assert start == again
    assert pair.chosen.ids[:start].tolist() == pair.rejected.ids[:start].tolist()
    assert text(pair.chosen, speak) == "good<|im_end|>"
    assert text(pair.rejected, speak) == "bad<|im_end|>"
    assert [s.side for s in made.report.samples] == ["chosen", "rejected"]


def test_without_a_template_a_prompt_is_gone_on_with(speak: Speak, write: Write) -> None:
    row = {"prompt": "hello the", "completion": " world"}
    raw = Dialect(speak().model, template="none")
    (example,) = prepared(write("a.jsonl", [row]), raw).examples
    tokenizer = raw.tokenizer
    prompt = tokenizer.encode("hello the")
    assert example.ids.tolist() == [*prompt, *tokenizer.encode(" world", add_special=False),
                                    tokenizer.eos]  # fmt: skip
    assert _spans(example) == [(len(prompt), len(example))]
    with pytest.raises(DamagedFile, match="without a chat template"):
        prepared(write("b.jsonl", [chat("a", "b", "c", "d")]), raw)


def test_duplicates_are_counted_and_can_be_dropped(speak: Speak, write: Write) -> None:
    rows = [chat("Hi", "Hello"), chat("Hi", "Hello"), chat(" hi ", "HELLO"), chat("Hi", "Hello!")]
    path = write("a.jsonl", rows)
    made = prepared(path, speak())
    assert (made.report.duplicates_exact, made.report.duplicates_same) == (1, 1)
    assert len(made) == 4
    less = prepared(path, speak(), {"duplicates": "drop"})
    assert [e.source.number for e in less.examples] == [1, 4]
    assert less.report.duplicates_dropped == 2
    texts = [{"text": t} for t in ("one text", "other", "One  Text\n", "one text")]
    docs = prepared(write("b.jsonl", texts), speak(), {"duplicates": "drop"})
    assert [e.source.number for e in docs.examples] == [1, 2]


@pytest.mark.parametrize("seed", range(3))
def test_a_split_parts_no_duplicates_and_depends_on_content_alone(
    seed: int, speak: Speak, write: Write
) -> None:
    rows = [chat(f"question {i % 40}", f"answer {i % 40}".upper() if i > 40 else f"answer {i % 40}")
            for i in range(60)]  # fmt: skip
    shuffled = random.Random(seed).sample(rows, len(rows))
    sides = []
    for name, given in (("a.jsonl", rows), ("b.jsonl", shuffled)):
        parts = split(prepared(write(name, given), speak()), fraction=0.2, seed=seed)
        held, train = ({text(e, speak).lower() for e in p.examples} for p in
                       (parts.held_out, parts.train))  # fmt: skip
        assert not held & train
        assert len(parts.held_out) + len(parts.train) == 60
        assert 10 <= len(parts.held_out) <= 12
        sides.append(held)
    assert sides[0] == sides[1]
    other = split(prepared(write("a.jsonl", rows), speak()), fraction=0.2, seed=seed + 1)
    assert {text(e, speak).lower() for e in other.held_out.examples} != sides[0]


def test_splits_of_little(speak: Speak, write: Write) -> None:
    ten = prepared(write("a.jsonl", [chat(f"q{i}", f"a{i}") for i in range(10)]), speak())
    assert [len(split(ten, fraction=f).held_out) for f in (0.0, 0.01, 0.1, 0.99)] == [0, 1, 1, 9]
    assert [len(split(ten, count=n).held_out) for n in (0, 3, 50)] == [0, 3, 9]
    one = prepared(write("b.jsonl", [chat("q", "a")]), speak())
    parts = split(one, fraction=0.1)
    assert (len(parts.train), len(parts.held_out)) == (1, 0)
    assert "none is held back" in parts.why
    assert any("one example" in warning for warning in one.report.warnings)
    for wrong in ({"fraction": 1.0}, {"fraction": -0.1}, {"count": -1}):
        with pytest.raises(UsageProblem):
            split(ten, **wrong)


def test_one_document_is_split_by_its_chunks(speak: Speak, write: Write) -> None:
    made = prepared(write("a.txt", words(2000, 5)), speak(), max_length=64)
    parts = split(made, fraction=0.1, seed=1)
    assert 0 < len(parts.held_out) <= len(made) // 10 + 1
    # of many documents whole ones are held back
    rows = [{"text": words(100, i)} for i in range(30)]
    many = split(prepared(write("b.jsonl", rows), speak(), max_length=64), fraction=0.2)
    held = {e.source.number for e in many.held_out.examples}
    assert held
    assert not held & {e.source.number for e in many.train.examples}


def test_the_digest_is_of_what_rows_say(speak: Speak, write: Write) -> None:
    rows = [chat("Hi", "Hello"), chat("Bye", "Bye")]
    one = prepared(write("a.jsonl", rows), speak()).report
    other = prepared(write("sub/b.json", json.dumps(rows, indent=3)), speak()).report
    assert one.sha256 == other.sha256
    assert one.files != other.files
    assert prepared(write("c.jsonl", rows[::-1]), speak()).report.sha256 != one.sha256
    changed = [rows[0], chat("Bye", "bye")]
    assert prepared(write("d.jsonl", changed), speak()).report.sha256 != one.sha256


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_threads_and_disk_change_nothing(
    n_threads: int, speak: Speak, write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = [chat(words(20, i), words(20, -i), words(5, 99 + i), "end") for i in range(120)]
    rows.insert(50, {"messages": []})
    data = open_data(DataSpec((str(write("a.jsonl", rows)),)))
    plain = prepare(data, speak(), n_threads=1)
    monkeypatch.setattr(stores.Spool.__init__, "__defaults__", (1000,))
    spooled = prepare(data, speak(), n_threads=n_threads, scratch=tmp_path)
    assert isinstance(spooled.examples.tokens.ids, np.memmap)
    for a, b in zip(plain.examples, spooled.examples, strict=True):
        assert a.ids.tolist() == b.ids.tolist()
        assert a.mask.tolist() == b.mask.tolist()
        assert a.source == b.source
    assert plain.report == spooled.report
    assert plain.examples.targets.tolist() == [e.n_targets for e in plain.examples]
    assert plain.examples.lengths.tolist() == [len(e) for e in plain.examples]
    part = plain.examples[10:20].select(np.array([3, 0]))
    assert [e.source.number for e in part] == [14, 11]
    with pytest.raises(ValueError, match="read-only"):
        plain.examples[0].ids[0] = 1


def test_duplicate_documents_are_cut_off_the_disk_again(
    speak: Speak, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores.Spool.__init__, "__defaults__", (300,))
    texts = [{"text": words(80, i % 7)} for i in range(40)]
    made = prepared(write("a.jsonl", texts), speak(), {"duplicates": "drop"}, max_length=32)
    monkeypatch.undo()
    once = prepared(write("b.jsonl", texts[:7]), speak(), max_length=32)
    assert [e.ids.tolist() for e in made.examples] == [e.ids.tolist() for e in once.examples]
    assert made.report.duplicates_dropped == 33


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk_is_said(speak: Speak, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores.Spool.__init__, "__defaults__", (300,))

    def full(dir: Path) -> Any:
        return os.fdopen(os.open("/dev/full", os.O_RDWR), "r+b", buffering=0)

    monkeypatch.setattr(stores.tempfile, "TemporaryFile", full)
    path = write("a.jsonl", [chat(words(20, i), words(20, -i)) for i in range(40)])
    with pytest.raises(DiskFull, match="No space left"):
        prepared(path, speak())


def test_the_report_counts_what_is_there(speak: Speak, write: Write) -> None:
    rows = [chat("Hi", "Hello"), chat("", ""), {"x": 1}, chat("question only"),
            chat("a", "b <|im_end|>"),
            {"messages": [{"role": "assistant", "content": "unasked"}]}]  # fmt: skip
    raw = b"".join(json.dumps(r).encode() + b"\n" for r in rows) + b'{"messages": "\xff"}\n'
    made = prepared(write("a.jsonl", raw), speak())
    report = made.report
    assert (report.n_rows, report.n_examples, report.n_empty, report.n_bad) == (7, 2, 1, 4)
    assert {p.kind: p.rows for p in report.problems} == {
        "no answer": (f"{made.examples[0].source.file}, line 4", "6"),
        "other columns": (f"{made.examples[0].source.file}, line 3",),
        "not UTF-8": (f"{made.examples[0].source.file}, line 7",),
    }
    assert report.n_tokens == sum(len(e) for e in made.examples)
    assert report.n_targets == sum(e.n_targets for e in made.examples)
    assert any("control tokens" in warning and "line 5" in warning for warning in report.warnings)
    (sample,) = report.samples
    assert [(p.text, p.in_loss) for p in sample.pieces] == [
        ("<|begin_of_text|><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", False),
        ("Hello<|im_end|>", True),
    ]
    assert report.empty_rows == (f"{made.examples[0].source.file}, line 2",)
    assert any("1 rows are empty" in w and "line 2)" in w for w in report.warnings)
    assert sum(p.n_tokens for p in sample.pieces) == len(made.examples[0])
    json.dumps(to_json(report), allow_nan=False)
    drawn = str(report_view(report))
    assert "Hello<|im_end|>" in drawn
    assert "line 2" in drawn  # the empty one


def test_empty_rows_of_any_kind_are_told_by_line(speak: Speak, write: Write) -> None:
    said = [{"prompt": "a", "completion": "b" * (i % 5 > 0)} for i in range(200)]
    lines = [i + 1 for i in range(0, 200, 5)]
    report = prepared(write("a.jsonl", said), speak()).report
    assert report.n_empty == len(lines)
    assert [int(r.split()[-1]) for r in report.empty_rows] == lines[:20]
    texts = [{"text": "hello the world" * (i != 3)} for i in range(6)]
    assert prepared(write("b.jsonl", texts), speak()).report.empty_rows[0].endswith("line 4")


def test_bad_rows_can_be_an_error(speak: Speak, write: Write) -> None:
    path = write("a.jsonl", [chat("Hi", "Hello"), {"messages": []}])
    with pytest.raises(DamagedFile, match="line 2: it has no messages"):
        prepared(path, speak(), {"bad_rows": "error"})


def test_a_template_that_refuses_says_so_of_each_row(speak: Speak, write: Write) -> None:
    from tests.finetune.data.conftest import TRIMS

    twice = {"messages": [{"role": "user", "content": "a"}, *chat("b", "c")["messages"]]}
    made = prepared(write("a.jsonl", [chat("Hi", "Hello"), twice]), speak("bpe", TRIMS))
    (problem,) = made.report.problems
    assert problem.kind == "refused by the template"
    assert "Conversation roles must alternate" in problem.reason


def test_the_first_rows_alone(speak: Speak, write: Write) -> None:
    path = write("a.jsonl", [chat(f"q{i}", f"a{i}") for i in range(10)])
    assert len(prepared(path, speak(), {"limit": 3})) == 3


def test_nothing_left(speak: Speak, write: Write) -> None:
    for rows, why in (
        ([chat("", "")], "all 1 rows are empty"),
        ([chat("a")], "it has no answer to a question"),
        ([{"messages": 3}, chat("a")], "none of 2 rows"),
    ):
        with pytest.raises((UsageProblem, DamagedFile), match=why):
            prepared(write("a.jsonl", rows), speak())


def test_the_histogram_holds_every_example(speak: Speak, write: Write) -> None:
    path = write("a.jsonl", [chat("q", words(n, n)) for n in range(1, 200, 7)])
    made = prepared(path, speak())
    lengths = made.report.lengths
    assert lengths is not None
    for b in lengths.histogram:
        assert b.n_examples == sum(b.first <= len(e) <= b.last for e in made.examples)
    assert sum(b.n_examples for b in lengths.histogram) == len(made)
    assert [b.last for b in lengths.histogram][-1] >= lengths.longest


def test_options_are_checked() -> None:
    for wrong in ({"loss": "none"}, {"overlong": "crop"}, {"max_length": 3}):
        with pytest.raises(UsageProblem):
            EncodeOptions(**wrong)  # type: ignore[arg-type]


def test_data_of_which_no_row_can_be_read_say_why(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"prompt": "é", "completion": "ü"}\n'.encode("latin-1") * 3)
    with pytest.raises(DamagedFile, match=r"UTF-8.*line 1"):
        open_data(DataSpec((str(path),)))
    path.write_bytes(b"{\x00}\n")
    with pytest.raises(DamagedFile, match=r"(?<! at) at character 2"):
        open_data(DataSpec((str(path),)))
