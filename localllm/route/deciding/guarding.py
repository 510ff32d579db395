"""The privacy guard: what may not leave this machine does not.

It has its say after the steps: a member outside gets a prompt without personal data as it is,
with data that may be masked under placeholders, and no prompt at all with data that must stay.
Then a member on this machine answers in its place. What fired is told as kinds and counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from localllm.errors import MissingExtra, UsageProblem
from localllm.generation import Message
from localllm.privacy import Action, Decision, Masker, Policy, decide, join
from localllm.route.pool.spec import RouterSpec
from localllm.route.pool.standing import Standing

if TYPE_CHECKING:
    from localllm.endpoints import Wanted


@dataclass(frozen=True)
class Guarded:
    """What the guard says of one conversation. `record` has kinds and counts, never the data."""

    action: Action
    record: Mapping[str, Any]

    @property
    def must_stay(self) -> bool:
        return self.action is Action.LOCAL


NOTHING = Guarded(Action.ALLOW, {"action": "allow", "fired": []})


class PrivateData(UsageProblem):
    """The prompt may not leave this machine, and nobody on it may answer."""


def guard(messages: Sequence[Message], policy: Policy, fixed: Sequence[str] = ()) -> Guarded:
    """Looks at all that would be sent to a member outside, attachments and tool results too.
    `fixed` are texts that are sent with them as they are (see `fixed_of`): what would be masked in
    a message must stay where it is found there.
    Raises MissingExtra where the detectors' libraries are not installed: then nothing leaves."""
    if not policy.watches(True):
        return NOTHING
    _check_installed()
    as_they_are = [_decided(text, policy) for text in fixed]
    decision = join([*(_decided(text, policy) for text in texts_of(messages)), *as_they_are])
    # a picture cannot be masked: what made the text worth masking may be in it as well
    no_mask = any(message.extra.get("images") for message in messages)
    # placeholders in a schema would be another schema
    no_mask = no_mask or any(one.action is Action.MASK for one in as_they_are)
    if no_mask and decision.action is Action.MASK:
        decision = replace(decision, action=Action.LOCAL)
    return Guarded(decision.action, decision.record())


def allowed(
    names: Sequence[str], spec: RouterSpec, standings: Mapping[str, Standing], guarded: Guarded
) -> tuple[str, ...]:
    """Those of `names` who may be asked, in their order; where the data must stay and none of
    them is here, the models of the router that are. Raises PrivateData if nobody is left."""
    if not guarded.must_stay:
        return tuple(names)
    here = [name for name in names if not standings[name].outside]
    if not here:
        here = [one.name for one in spec.members
                if one.kind == "model" and not standings[one.name].outside]  # fmt: skip
    if not here:
        kinds = ", ".join(one["kind"] for one in guarded.record["fired"])
        raise PrivateData(
            f"the prompt holds {kinds}, and every member is outside this machine",
            "add a member that runs here, or change the policy under [privacy]",
        )
    return tuple(here)


def masked(messages: Sequence[Message], policy: Policy, masker: Masker) -> tuple[Message, ...]:
    """The messages with placeholders for what the policy masks, the arguments of tool calls and
    what was thought too. `masker` is the conversation's, and restores the answer."""
    return tuple(_masked(message, policy, masker) for message in messages)


def fixed_of(wanted: Wanted) -> tuple[str, ...]:
    """The texts of a request beside its messages: tools, schema, template variables, with the
    names in them; stop strings and grammar."""
    tools = [[one.name, one.description, one.parameters] for one in wanted.tools]
    sampling = [wanted.sampling.stop, wanted.sampling.grammar]
    return tuple(_texts([tools, wanted.schema, wanted.variables, sampling]))


def told(record: Mapping[str, Any]) -> str | None:
    """ "mask: 2 email, 1 phone", of a Guarded's record; None where nothing fired."""
    fired = ", ".join(f"{one['count']} {one['kind']}" for one in record.get("fired", ()))
    return f"{record['action']}: {fired}" if fired else None


def texts_of(messages: Sequence[Message]) -> Iterator[str]:
    """Everything of a conversation that is text, with the names that stand before it."""
    for message in messages:
        yield message.content
        yield from _texts({k: v for k, v in message.extra.items() if k != "images"})


def _texts(value: Any, label: str = "") -> Iterator[str]:
    """Each text and number with the name that it stands under, which says what digits are."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            if not _is_leaf(one):
                yield str(key)
            yield from _texts(one, f"{key}: ")
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one, label)
    elif _is_leaf(value):
        yield f"{label}{value}"


def _is_leaf(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _masked(message: Message, policy: Policy, masker: Masker) -> Message:
    def text(one: str, label: str = "") -> str:
        found = (
            replace(finding, start=max(finding.start - len(label), 0), end=finding.end - len(label))
            for finding in _decided(f"{label}{one}", policy).masked
            if finding.end > len(label)
        )
        return masker.mask(one, found).text

    def value(one: Any, label: str = "") -> Any:
        if isinstance(one, Mapping):
            return {text(str(key)): value(inner, f"{key}: ") for key, inner in one.items()}
        if isinstance(one, list | tuple):
            return type(one)(value(inner, label) for inner in one)
        if not _is_leaf(one):
            return one
        made = text(str(one), label)
        return one if made == str(one) else made  # a number without data stays a number

    images = {k: v for k, v in message.extra.items() if k == "images"}
    extra = value({k: v for k, v in message.extra.items() if k != "images"})
    return Message(message.role, text(message.content), extra | images)


def _decided(text: str, policy: Policy) -> Decision:
    return decide(text, policy, outside=True)


def _check_installed() -> None:
    from importlib.util import find_spec

    for name in ("phonenumbers", "stdnum"):
        if find_spec(name) is None:
            raise MissingExtra(
                "the privacy guard cannot look: its detectors are not installed, so nothing leaves "
                "this machine",
                'pip install "localllm[route]"',
            )
