"""The door to llama.cpp: lazy, quiet, and able to say why something failed."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from localllm.engine import native
from localllm.engine.logs import LogLevel, LogLine, LogRouter
from localllm.errors import EngineError

DEBUG, INFO, WARN, ERROR, CONT = 1, 2, 3, 4, 5


def lines(router: LogRouter, *fragments: tuple[int, str]) -> list[tuple[LogLevel, str]]:
    with router.capture() as log:
        for level, text in fragments:
            router.feed(level, text)
    return [(line.level, line.text) for line in log.lines]


@pytest.mark.parametrize(
    ("fragments", "expected"),
    [
        ([(INFO, "one\n")], [(LogLevel.INFO, "one")]),
        ([(INFO, "a\nb\n")], [(LogLevel.INFO, "a"), (LogLevel.INFO, "b")]),
        ([(WARN, "load"), (CONT, "."), (CONT, ".\n")], [(LogLevel.WARN, "load..")]),
        # quantize continues its lines at the level of the first part
        ([(INFO, "[1/2] x, "), (INFO, "size = 3\n")], [(LogLevel.INFO, "[1/2] x, size = 3")]),
        ([(INFO, "half"), (ERROR, "bad\n")], [(LogLevel.INFO, "half"), (LogLevel.ERROR, "bad")]),
        ([(INFO, "never ended")], [(LogLevel.INFO, "never ended")]),
        ([(INFO, "x\n"), (CONT, "y\n")], [(LogLevel.INFO, "x"), (LogLevel.INFO, "y")]),
        ([(99, "odd\n")], [(LogLevel.INFO, "odd")]),
        ([(INFO, "\n\n")], []),
    ],
)
def test_fragments_become_lines(
    fragments: list[tuple[int, str]], expected: list[tuple[LogLevel, str]]
) -> None:
    assert lines(LogRouter(), *fragments) == expected


def test_threads_do_not_mix_their_lines() -> None:
    router, start = LogRouter(), threading.Barrier(4)

    def talk(name: str) -> None:
        start.wait()
        for i in range(200):
            router.feed(INFO, f"{name}{i}")
            router.feed(CONT, f"-{name}{i}\n")

    with router.capture() as log:
        threads = [threading.Thread(target=talk, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(line.text for line in log.lines) == sorted(
        f"{name}{i}-{name}{i}" for name in "abcd" for i in range(200)
    )


def test_captures_nest_and_end() -> None:
    router = LogRouter()
    with router.capture() as outer:
        router.feed(INFO, "1\n")
        with router.capture() as inner:
            router.feed(INFO, "2\n")
        router.feed(INFO, "3\n")
    router.feed(INFO, "4\n")
    assert [line.text for line in outer.lines] == ["1", "2", "3"]
    assert [line.text for line in inner.lines] == ["2"]


def test_verbose_passes_lines_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    router = LogRouter()
    router.feed(INFO, "silent\n")
    router.set_verbose(True)
    router.feed(INFO, "loud\n")
    router.set_verbose(False)
    router.feed(INFO, "silent again\n")
    assert capsys.readouterr() == ("", "loud\n")


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (
            [
                "llama_model_load: error loading model: unknown model architecture: 'foo'",
                "llama_model_load_from_file_impl: failed to load model",
            ],
            "unknown model architecture: 'foo'",
        ),
        (["f: failed to load model"], "failed to load model"),
        (["=======", " ERROR: needs an imatrix", "====="], "ERROR: needs an imatrix"),
        (["one:\n two\tthree"], "one: two three"),
        ([], ""),
    ],
)
def test_the_reason_is_one_telling_line(texts: list[str], expected: str) -> None:
    log = native.Capture([LogLine(LogLevel.ERROR, text) for text in texts])
    assert native.reason(log) == expected


def test_failure_without_a_reason_still_says_what() -> None:
    error = native.failure("could not load x.gguf", native.Capture())
    assert isinstance(error, EngineError)
    assert error.message == "could not load x.gguf"


def test_what_ggml_does_not_export_is_one_line() -> None:
    with pytest.raises(EngineError, match="has no ggml_frobnicate"):
        native.ggml("ggml_frobnicate", None)


PROGRAM = """
import sys
import localllm.engine.generator, localllm.engine.quantize.quantize, localllm.engine.parallel
import localllm.engine.build, localllm.engine.embed, localllm.engine.measure
heavy = {"llama_cpp", "numpy", "gguf", "jinja2"} & set(sys.modules)
assert not heavy, heavy
from pathlib import Path
from localllm.engine.generator import LocalGenerator
from localllm.engine.options import ContextOptions
from localllm.generation import Message, Sampling
generator = LocalGenerator.open(Path(sys.argv[1]), context=ContextOptions(n_ctx=256, n_threads=1))
list(generator.generate([Message("user", "hello")], Sampling(max_tokens=3)))
if sys.argv[2] == "close":
    generator.close()
"""


@pytest.mark.parametrize("ending", ["close", "leave it to the exit"])
def test_a_whole_run_imports_late_prints_nothing_and_exits_cleanly(
    llama_path: Path, ending: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(llama_path), ending],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


CRASH = """
import ctypes, sys
from pathlib import Path
from localllm.engine import native
from localllm.engine.context import Context
from localllm.engine.model import Model
from localllm.engine.options import ContextOptions
context = Context(Model.load(Path(sys.argv[1])), ContextOptions(n_ctx=256, n_batch=8, n_threads=1))
too_many = (ctypes.c_int32 * 20)(*range(20))
native.lib().llama_decode(context.handle, native.lib().llama_batch_get_one(too_many, 20))
"""


def test_an_assertion_in_the_middle_of_work_is_one_line_and_exit_code_1(llama_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CRASH, str(llama_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: llama.cpp gave up: llama-context.cpp:")
    assert "n_tokens_all <= cparams.n_batch" in done.stderr
    assert done.stderr.count("\n") == 1
