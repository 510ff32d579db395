"""Finds personal data and secrets in prompts, and masks and restores them by policy.

    findings = find(text)                          # kinds, offsets, reasons; never the data
    decision = decide(text, Policy(), outside=True)  # allow, mask, or keep on this machine
    masked = mask(text, decision.masked)           # masked.text goes out
    answer = masked.restore(reply)                 # or masked.restorer() for a stream

English and Japanese. docs/privacy.md has what is found, how often, and what is not.
"""

from localllm.privacy.find import LIKELY, find
from localllm.privacy.finding import GROUPS, Finding, Kind, resolve
from localllm.privacy.masking import Masked, Masker, Restorer, mask
from localllm.privacy.policy import Action, Decision, Fired, Policy, Scope, decide, join

__all__ = [
    "GROUPS", "LIKELY", "Action", "Decision", "Finding", "Fired", "Kind", "Masked", "Masker",
    "Policy", "Restorer", "Scope", "decide", "find", "join", "mask", "resolve",
]  # fmt: skip
