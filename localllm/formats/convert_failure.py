"""What the converter fails with, as one line that says what to do."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from pathlib import Path

from localllm.errors import (
    DamagedFile,
    DiskFull,
    EngineError,
    LocalLLMError,
    MissingExtra,
    UsageProblem,
)


@dataclass(frozen=True)
class Failed:
    """The exception that ended the converter: its type's name, text, the module that was
    missing and the system's error number; what was being converted, and whether transformers was
    at its tokenizer."""

    type: str
    message: str
    missing: str | None
    errno: int | None
    kind: str
    in_tokenizer: bool


def explained(
    failed: Failed, folder: Path, out_folder: Path, log: str, update: str
) -> LocalLLMError:
    """The error for a conversion of `folder` that ended in `failed`; `log` is its stderr,
    `update` the command that installs a newer converter."""
    name, text = folder.name, " ".join(failed.message.split())
    if failed.type == "RemoteCode" or "custom code" in text or "trust_remote_code" in text:
        return EngineError(
            f"{name} needs Python code from its own repository, which is never run",
            "look for a GGUF of this model: localllm pull --list org/repo",
        )
    if match := re.search(r"Model (\S+) is not supported|Architecture '?(\w+)'? not supp", log):
        architecture = match[1] or match[2]
        if failed.kind == "mmproj":
            return UsageProblem(
                f"{name} ({architecture}) has no vision or audio part that the converter knows"
            )
        return EngineError(
            f"llama.cpp's converter does not know the architecture {architecture} ({name})",
            f"perhaps a newer one does: {update}",
        )
    if failed.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", -1)):
        return DiskFull(f"no room left in {out_folder} while converting {name}")
    if "pre-tokenizer was not recognized" in text:
        known = re.search(r"chkhsh: +([0-9a-f]{8})", log)
        mark = f" (hash {known[1]}...)" if known else ""
        return EngineError(
            f"{name} has a BPE pre-tokenizer that llama.cpp's converter does not know{mark}",
            f"localllm convert {name} --pre-tokenizer gpt-2, if it splits text as that one does",
        )
    return _of_files(failed, name, text) or _other(failed, name, text, log, update)


def _of_files(failed: Failed, name: str, text: str) -> LocalLLMError | None:
    lower = text.lower()
    if failed.missing is not None:
        return MissingExtra(
            f"converting {name} needs the package {failed.missing}", f"pip install {failed.missing}"
        )
    if failed.in_tokenizer or ("token" in lower and (
        failed.type in ("FileNotFoundError", "OSError") or "load tokenizer" in lower
        or "instantiate the backend tokenizer" in lower
    )):  # fmt: skip
        return DamagedFile(
            f"{name} has no tokenizer that can be read (tokenizer.json or tokenizer.model)",
            "fetch the tokenizer files of the model into its folder",
        )
    if failed.type == "FileNotFoundError":
        return DamagedFile(f"{name} lacks a file: {text}", "fetch the whole repository")
    return None


def _other(failed: Failed, name: str, text: str, log: str, update: str) -> LocalLLMError:
    if "Can not map tensor" in text:
        return EngineError(
            f"{name} has a tensor that the converter does not know: {text}",
            f"perhaps a newer one does: {update}",
        )
    if "vision_config / audio_config not found" in text or "mmproj" in text.lower():
        return UsageProblem(f"{name} has no vision or audio part to convert")
    if failed.type == "SystemExit":
        errors = re.findall(r"^ERROR:[^:]*:(.+)$", log, re.MULTILINE)
        text = " ".join(errors[-1].split()) if errors else "no reason given"
    if failed.type == "MemoryError":
        return EngineError(f"there is not enough memory to convert {name}")
    return EngineError(f"llama.cpp's converter gave up on {name}: {failed.type}: {text[:300]}")


def crashed(folder: Path, code: int, log: str) -> EngineError:
    """The converter ended without a word."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if code == -9:
        return EngineError(
            f"the converter was killed while converting {folder.name}",
            "most often memory ran out: close other programs, or convert on a larger machine",
        )
    why = lines[-1][:300] if lines else f"exit code {code}"
    return EngineError(f"llama.cpp's converter broke down on {folder.name}: {why}")
