"""The one door to llama.cpp: imported on first use, initialised once, its log captured.

    llama = native.lib()                    # llama_cpp's low-level module, ready to call
    with native.capture() as log: ...       # LogLine(level, text) of everything it said
    raise native.failure("could not load x.gguf", log)

Nothing is printed by native code unless `set_verbose(True)` was called. A failed assertion
in native code is an EngineError where the call was `expendable` (see calls), and elsewhere
ends the process with one line on stderr.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import re
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from localllm.engine.calls import GaveUp, park
from localllm.engine.logs import Capture, LogLevel, LogLine, router
from localllm.engine.threads import yield_at_barriers
from localllm.errors import EngineError, LocalLLMError

__all__ = [
    "Capture",
    "LogLevel",
    "LogLine",
    "before_abort",
    "capture",
    "failure",
    "ggml",
    "last_reason",
    "lib",
    "on_line",
    "reason",
    "set_verbose",
]

_lock = threading.Lock()
_llama: Any = None
_ggml_libraries: tuple[ctypes.CDLL, ...] = ()
_keep: list[Any] = []  # callbacks that native code may still call; never collected


def lib() -> Any:
    """llama_cpp's low-level module, with the backend initialised and the log redirected.

    Raises EngineError when llama-cpp-python is missing or its shared library does not load.
    """
    global _llama
    if _llama is None:
        with _lock:
            if _llama is None:
                _llama = _initialise()
    return _llama


def ggml(name: str, restype: Any, *argtypes: Any) -> Any:
    """A function of ggml's own libraries, typed; the binding wraps only libllama.

    Raises EngineError when this build does not export it.
    """
    lib()
    for library in _ggml_libraries:
        function = getattr(library, name, None)
        if function is not None:
            function.restype = restype
            function.argtypes = list(argtypes)
            return function
    raise EngineError(f"this build of llama.cpp has no {name}", _REINSTALL)


def capture() -> AbstractContextManager[Capture]:
    """Collect native log lines while the block runs; nests, and is safe across threads."""
    return router.capture()


def set_verbose(verbose: bool) -> None:
    """Pass native log lines on to stderr as they come (`--verbose`), or stop doing so."""
    router.set_verbose(verbose)


def on_line(listener: Callable[[LogLine], None]) -> None:
    """Call `listener` with each native log line as it comes, for as long as the process runs."""
    router.listen(listener)


_REINSTALL = "pip install --force-reinstall --no-cache-dir 'llama-cpp-python>=0.3.36,<0.4'"

# "llama_model_load: error loading model: unknown model architecture: 'foo'": the function
# names in front say nothing to a user.
_PREFIX = re.compile(
    r"^(?:[A-Za-z_][A-Za-z0-9_:~<>]*: |error loading model: |failed to (?:load model|quantize): )+"
)
# Lines that only repeat that something failed, without saying what.
_EMPTY_REASONS = re.compile(
    r"^(failed to (load model|initialize the context|create context with model)\b.*"
    r"|failed to decode, ret = .*|failed to encode, ret = .*|failed to initialize batch"
    r"|failed to load model from file|failed to load model|exiting)$"
)


def reason(log: Capture) -> str:
    """Why native code failed, in one line: its first telling error, or ""."""
    texts = [_PREFIX.sub("", text).strip() for text in log.errors]
    telling = [text for text in texts if text.strip("= ") and not _EMPTY_REASONS.match(text)]
    return " ".join((telling or texts or [""])[0].split())


def last_reason() -> str:
    """What the latest error line told, for calls too frequent to capture each; or ""."""
    errors = [line for line in router.recent() if line.level is LogLevel.ERROR]
    # The last lines say which functions failed, one before them why.
    return reason(Capture(errors[-3:]))


def failure(what: str, log: Capture | str, hint: str | None = None) -> EngineError:
    """An EngineError whose one line is `what`, followed by llama.cpp's own reason."""
    why = log if isinstance(log, str) else reason(log)
    return EngineError(f"{what}: {why}" if why else what, hint)


def _initialise() -> Any:
    global _ggml_libraries
    yield_at_barriers()
    try:
        import llama_cpp.llama_cpp as low
    except ImportError as error:
        raise EngineError(f"llama-cpp-python is not installed ({error.name})", _REINSTALL) from None
    except (OSError, FileNotFoundError, RuntimeError) as error:
        line = " ".join(str(error).split())
        raise EngineError(f"llama.cpp's library does not load: {line}", _REINSTALL) from None

    @low.llama_log_callback  # type: ignore[untyped-decorator]
    def on_log(level: int, text: bytes | None, _user_data: int | None) -> None:
        router.feed(level, (text or b"").decode("utf-8", "replace"))

    _keep.append(on_log)
    low.llama_log_set(on_log, ctypes.c_void_p(0))
    _ggml_libraries = _load_ggml(low)
    _set_abort_callback(_ABORT_CALLBACK(_on_abort))
    low.llama_backend_init()
    atexit.register(_silence, low)
    return low


def _load_ggml(low: Any) -> tuple[ctypes.CDLL, ...]:
    """libggml and libggml-base beside libllama. On Windows each exports only its own names."""
    from llama_cpp._ctypes_extensions import load_shared_library

    found = [load_shared_library(name, low._base_path) for name in ("ggml", "ggml-base")]
    return (*found, low._lib)


_ABORT_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_char_p)


def _set_abort_callback(callback: Any) -> None:
    """Have ggml_abort call this before it ends the process; NULL for its own backtrace."""
    _keep.append(callback)
    for library in _ggml_libraries:
        function = getattr(library, "ggml_set_abort_callback", None)
        if function is not None:
            function.restype, function.argtypes = ctypes.c_void_p, [_ABORT_CALLBACK]
            function(callback)
            return


def before_abort(
    judge: Callable[[str], LocalLLMError | None] | None = None,
    last_words: Callable[[LocalLLMError], object] | None = None,
) -> None:
    """What to do when ggml is about to end the process: `judge` names the error behind ggml's
    words (None where it knows none), `last_words` says it in place of a line on stderr."""
    global _judge, _last_words
    _judge = judge or _judge
    _last_words = last_words or _last_words


def _on_abort(message: bytes | None) -> None:
    """A GGML_ASSERT failed on this thread. If this returns, the process aborts."""
    text = " ".join((message or b"").decode("utf-8", "replace").split())
    # "/build/somewhere/llama.cpp/src/llama-vocab.cpp:2544: GGML_ASSERT(...) failed"
    text = re.sub(r"^\S*[/\\](?=[^/\\\s]+:\d+: )", "", text)
    gave_up = GaveUp(text)
    error = _judge(text) or gave_up
    if error is gave_up:
        park(gave_up)
    try:
        _last_words(error)
    finally:
        os._exit(int(error.exit_code))


def _on_stderr(error: LocalLLMError) -> None:
    sys.stderr.write(f"error: {error.message}\n")
    sys.stderr.flush()


_judge: Callable[[str], LocalLLMError | None] = lambda text: None  # noqa: E731
_last_words: Callable[[LocalLLMError], object] = _on_stderr


def _silence(low: Any) -> None:
    """At exit, point the log at C code: a call into a finalised interpreter would crash.

    `llama_time_us` ignores the arguments it is called with, so it serves as a no-op.
    """
    no_op = ctypes.cast(low._lib.llama_time_us, low.llama_log_callback)
    _keep.append(no_op)
    low.llama_log_set(no_op, ctypes.c_void_p(0))
    _set_abort_callback(_ABORT_CALLBACK())
