"""What a policy decides, and what it tells."""

from __future__ import annotations

import pytest

from localllm.errors import UsageProblem
from localllm.privacy import Action, Kind, Policy, Scope, decide, join, mask

PROMPT = "Ask jane@example.com and bob@example.com about AKIAQYLPMN5HHHFPZAM2"


def test_the_strictest_action_wins_and_counts_are_by_kind() -> None:
    decision = decide(PROMPT, Policy())
    assert decision.record() == {
        "action": "local",
        "fired": [
            {"kind": "email", "count": 2, "action": "mask"},
            {"kind": "api_key", "count": 1, "action": "local"},
        ],
    }


def test_a_member_on_this_machine_is_not_watched_unless_all_are() -> None:
    assert decide(PROMPT, Policy(), outside=False).action is Action.ALLOW
    assert decide(PROMPT, Policy(scope=Scope.ALL), outside=False).action is Action.LOCAL
    assert decide(PROMPT, Policy(scope=Scope.NONE)).fired == ()


def test_what_a_policy_allows_is_not_masked() -> None:
    policy = Policy.parse({"secrets": "mask", "email": "allow"})
    decision = decide(PROMPT, policy)
    assert decision.action is Action.MASK
    assert mask(PROMPT, decision.masked).text == PROMPT[:-20] + "<API_KEY_1>"


def test_clean_text_passes() -> None:
    decision = decide("What is the capital of France?", Policy())
    assert (decision.action, decision.fired, decision.masked) == (Action.ALLOW, (), ())


def test_the_narrower_name_wins_in_a_policy_file_whatever_the_order() -> None:
    for data in (
        {"default": "local", "contact": "mask", "email": "allow"},
        {"email": "allow", "contact": "mask", "default": "local"},
    ):
        policy = Policy.parse(data)
        assert policy.action(Kind.EMAIL) is Action.ALLOW
        assert policy.action(Kind.PHONE) is Action.MASK
        assert policy.action(Kind.CORPORATE_NUMBER) is Action.LOCAL


def test_a_policy_survives_being_written_and_read() -> None:
    policy = Policy.parse({"default": "mask", "applies_to": "all", "min_confidence": 0.7})
    assert Policy.parse(policy.data()) == policy
    assert Policy.parse(Policy().data()) == Policy()


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"emial": "mask"}, "emial"), ({"email": "hide"}, "hide"), ({"email": 3}, "3"),
        ({"applies_to": "some"}, "some"), ({"min_confidence": 2}, "2"),
        ({"min_confidence": "0.5"}, "0.5"),
        ({"min_confidence": True}, "True"), ({"email": ["mask"]}, "mask"),
    ],
)  # fmt: skip
def test_a_wrong_policy_file_is_refused_by_name(data: dict[str, object], named: str) -> None:
    with pytest.raises(UsageProblem, match=named) as raised:
        Policy.parse(data)
    assert raised.value.exit_code == 2


def test_a_prompt_and_its_attachments_are_decided_together() -> None:
    parts = [
        decide("jane@example.com", Policy()),
        decide("password: hunter22", Policy()),
        decide("hi", Policy()),
    ]
    assert join(parts).record() == {
        "action": "local",
        "fired": [
            {"kind": "email", "count": 1, "action": "mask"},
            {"kind": "password", "count": 1, "action": "local"},
        ],
    }
    assert join([]).action is Action.ALLOW


def test_a_decision_never_shows_the_data() -> None:
    decision = decide(PROMPT, Policy())
    assert "jane" not in repr(decision) and "AKIA" not in f"{decision.record()}"


def test_what_a_policy_from_elsewhere_lets_go_is_named() -> None:
    assert Policy().laxer == ()
    assert Policy.parse({"email": "local", "corporate_number": "mask"}).laxer == ()
    assert set(Policy.parse({"email": "allow", "card": "mask"}).laxer) == {"email", "card"}
    assert Policy.parse({"default": "allow"}).laxer == ("everything",)
    assert Policy.parse({"applies_to": "none"}).laxer == ("everything",)
    assert Policy.parse({"min_confidence": 0.99}).laxer == ("what is less sure than 0.99",)
