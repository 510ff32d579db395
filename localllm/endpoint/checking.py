"""Whether an endpoint really answers: its list of models, and one token of an answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace

from localllm.endpoints import Endpoint, EndpointGenerator, RequestRefused, Wanted
from localllm.generation import Message, Sampling
from localllm.library.endpoints import check_online

_QUESTION = "Say yes."


@dataclass(frozen=True)
class Checked:
    """Times in seconds. `listed_s` and `n_models` None: it lists no models; `offered`: whether
    the endpoint's own is among them. `answered_by` is who answered by the server's own word;
    `counts` whether it says how many tokens were used, `doubt` what it says that cannot be."""

    name: str
    url: str
    model: str
    listed_s: float | None
    n_models: int | None
    offered: bool | None
    first_token_s: float
    answer_s: float
    answered_by: str | None
    counts: bool
    doubt: str | None


def check_endpoint(endpoint: Endpoint, warn: Callable[[str], None]) -> Checked:
    """Ask for the list and for one token. Raises OfflineMode, and what asking raises."""
    check_online(endpoint)
    with closing(EndpointGenerator(endpoint)) as asked:
        listed_s: float | None = None
        names: list[str] | None = None
        try:
            listed = asked.models()
            listed_s, names = listed.took_s, [one.id for one in listed.models]
        except RequestRefused as error:
            if error.status not in (404, 405):
                raise
        began = time.perf_counter()
        stream = asked.ask(
            Wanted(
                messages=(Message("user", _QUESTION),),
                sampling=replace(Sampling(), max_tokens=1),
                given=frozenset({"max_tokens"}),
            )
        )
        for _ in stream.parts():
            pass
        answer_s = time.perf_counter() - began
    assert stream.accounting is not None  # iteration has ended
    found = Checked(
        name=endpoint.name,
        url=endpoint.url,
        model=endpoint.model,
        listed_s=listed_s,
        n_models=None if names is None else len(names),
        offered=None if names is None else endpoint.model in names,
        first_token_s=stream.accounting.first_token_s,
        answer_s=answer_s,
        answered_by=stream.model,
        counts=stream.accounting.counted,
        doubt=stream.accounting.doubt,
    )
    _advise(found, warn)
    return found


def _advise(found: Checked, warn: Callable[[str], None]) -> None:
    if found.offered is False:
        warn(f"{found.model} is not in the server's list of models, and is answered all the same")
    if found.answered_by is not None and found.answered_by != found.model:
        warn(f"{found.model} was asked, and {found.answered_by} says that it answered")
    if found.doubt is not None:
        warn(f"the server counts what cannot be ({found.doubt}): costs and speeds are estimates")
    elif not found.counts:
        warn("the server counts no tokens: costs and speeds are estimates")
