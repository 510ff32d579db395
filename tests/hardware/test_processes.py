"""What is booked on a process: by the pretended driver, and by this system."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from localllm.hardware import resident_bytes
from tests.support.fake_nvml import GIB, fake_nvml_env

PROGRAM = """
import json
from localllm.hardware import gpu_process_bytes
print(json.dumps(gpu_process_bytes()))
"""


def ask(tmp_path: Path, scenario: str) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | fake_nvml_env(tmp_path, scenario),
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_video_memory_of_this_process_on_each_gpu(tmp_path: Path) -> None:
    found = ask(tmp_path, f"A|{GIB}|{GIB}|own=123456;B|{GIB}|{GIB};C|{GIB}|{GIB}|own=0;D|1|1|lost")
    # B: only another process is there. C: the driver knows the process, not what it holds.
    assert list(found.values()) == [123456]
    assert next(iter(found)).startswith("GPU-0000abc0")


def test_no_driver_books_nothing(tmp_path: Path) -> None:
    assert ask(tmp_path, "no_driver") == {}


def test_memory_that_is_touched_becomes_resident() -> None:
    before = resident_bytes()
    block = bytearray(b"\x01" * (64 << 20))
    after = resident_bytes()
    assert before is not None and after is not None
    assert 60 << 20 <= after - before <= 140 << 20
    assert len(block) == 64 << 20
