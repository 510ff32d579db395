"""What readers of headers share: the call for more bytes, and the hint for a damaged file."""

from __future__ import annotations

DAMAGED_HINT = "localllm verify MODEL compares it with its digest; localllm pull fetches it again"


class NeedMoreBytes(Exception):
    """The buffer is a prefix and the header goes on: at least `at_least` bytes are needed."""

    def __init__(self, at_least: int) -> None:
        super().__init__(f"the header goes on past the buffer: at least {at_least} bytes needed")
        self.at_least = at_least
