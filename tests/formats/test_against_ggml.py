"""The same broken headers, read here and by ggml's own reader."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

# what this reader checks and ggml's does not
STRICTER = ("UTF-_", "cut short", "a dimension of _")
# what ggml no longer reads
LOOSER = ("GGUFv_ is no longer supported",)


def test_this_reader_and_ggml_refuse_the_same_headers() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.formats.differential", "4000"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    seen: dict[str, int] = json.loads(done.stdout)
    assert seen.pop("both read") > 200
    assert seen.pop("both refuse") > 2000
    for reason in seen:
        allowed = STRICTER if reason.startswith("only here: ") else LOOSER
        assert any(part in reason for part in allowed), reason
