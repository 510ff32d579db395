"""What an answer from elsewhere took."""

from __future__ import annotations

from dataclasses import dataclass

from localllm.generation import Accounting


@dataclass(frozen=True)
class EndpointAccounting(Accounting):
    """`prompt_s` is the server's own figure where it gives one (llama.cpp's `timings`), else all
    the time to the first piece, network included. `seed` -1: none was sent.

    `model` is who answered, as the server says, which need not be who was asked. `counted` False:
    the server gave no usage that can be believed, and the tokens are estimates of ours. `doubt` is
    what it said that cannot be, None where there is no such. `finish` is the server's own word for
    how it ended. `cost` in the currency of the endpoint's prices (by estimates where nothing was
    counted), None where they are not known.
    """

    model: str | None = None
    counted: bool = True
    finish: str | None = None
    cost: float | None = None
    doubt: str | None = None
