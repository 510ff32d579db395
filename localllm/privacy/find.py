"""All detectors over one text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from itertools import product

from localllm.privacy.addresses import addresses
from localllm.privacy.assignments import assignments, commands, connections, headers
from localllm.privacy.dates import birth_dates
from localllm.privacy.escapes import levels
from localllm.privacy.finding import Finding, Kind, resolve
from localllm.privacy.identity import licences, passports
from localllm.privacy.mail import emails
from localllm.privacy.national import national
from localllm.privacy.network import ips
from localllm.privacy.payment import accounts, cards, ibans
from localllm.privacy.phones import phones
from localllm.privacy.plain import Plain
from localllm.privacy.tokens import private_keys, tokens, web_tokens

LIKELY = 0.5  # the confidence from which a finding counts

_DETECTORS: tuple[Callable[[Plain], Iterator[Finding]], ...] = (
    private_keys, web_tokens, tokens, headers, commands, assignments, connections, emails, cards,
    ibans,
    accounts, national, passports, licences, phones, ips, birth_dates, addresses,
)  # fmt: skip


def find(
    text: str, kinds: Collection[Kind] | None = None, min_confidence: float = LIKELY
) -> tuple[Finding, ...]:
    """The personal data and secrets of `text`, in its order, none overlapping another.

    `kinds` limits what is looked for (all by default). Offsets are into `text` as given,
    also where it is full-width or has invisible characters. Time grows in proportion to the
    length, whatever the text: seconds for a megabyte.
    """
    seen = []
    # a password ends at the quote of its own string, a number begins after the line end of another
    for plain, detector in product([Plain(text, n) for n in range(levels(text) + 1)], _DETECTORS):
        for finding in detector(plain):
            if finding.confidence < min_confidence or (
                kinds is not None and finding.kind not in kinds
            ):
                continue
            start, end = plain.span(finding.start, finding.end)
            seen.append(Finding(finding.kind, start, end, finding.confidence, finding.why))
    # the n of a line end that is written out is no beginning of what stands after it
    spans = {(one.start, one.end) for one in seen}
    return resolve(
        one for one in seen
        if text[one.start - 1 : one.start] != "\\" or (one.start + 1, one.end) not in spans
    )  # fmt: skip
