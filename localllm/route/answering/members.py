"""Doors to the members of a router: models of this process, endpoints, people."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from localllm.closing import Closing
from localllm.errors import LocalLLMError, NotFound
from localllm.library.endpoints import FarEndpoint
from localllm.library.find import find_adapter
from localllm.library.lending import Lender
from localllm.registry import Registry
from localllm.registry.inbox import Inbox
from localllm.route.answering.cascade import CascadeStream
from localllm.route.answering.local import LocalMember
from localllm.route.answering.opening import OwnLender
from localllm.route.answering.person import PersonStream
from localllm.route.answering.stream import MemberStream
from localllm.route.pool.spec import RouterSpec
from localllm.route.pool.standing import Standing
from localllm.route.pool.steps import CascadeStep
from localllm.toolcalls import TextPart

if TYPE_CHECKING:
    from localllm.endpoints import EndpointGenerator, Wanted


class MemberDoor(Protocol):
    """One member, ready to be asked."""

    def ask(self, wanted: Wanted, decision: int | None) -> MemberStream:
        """Raises what asking it raises. `decision` is the number of the routing."""

    def cascade(self, wanted: Wanted, step: CascadeStep, threshold: float | None) -> CascadeStream:
        """Answer and judge the own answer; only models of this machine can."""

    def release(self) -> None:
        """The answer has ended, or never began."""


class Members(Closing):
    """Opens each member when it is first asked, and closes them all."""

    def __init__(
        self, router: str, spec: RouterSpec, standings: Mapping[str, Standing],
        registry: Registry, lender: Lender,
    ) -> None:  # fmt: skip
        """`lender` is closed with this."""
        self.router, self.spec, self._standings = router, spec, standings
        self._registry = registry
        self._lender = lender
        self._endpoints: dict[str, EndpointGenerator] = {}
        self._lock = threading.Lock()

    def door(self, name: str) -> MemberDoor:
        """Raises NotFound for a member whose model or endpoint is gone."""
        standing = self._standings[name]
        if standing.problem is not None:
            raise NotFound(f"member {name}: {standing.problem}")
        if standing.model is not None:
            return _LocalDoor(self.local(standing))
        if standing.endpoint is not None:
            return _EndpointDoor(self._endpoint(standing))
        return _PersonDoor(self, standing)

    def local(self, standing: Standing) -> LocalMember:
        """Raises what loading raises."""
        model = standing.model
        assert model is not None
        more = tuple(find_adapter(text, self._registry) for text in standing.member.adapters)
        return LocalMember(self._lender.lend(model, (*model.attached, *more)))

    def draft(self, standing: Standing, wanted: Wanted) -> str | None:
        """What the member that drafts for this person would say; None where it says nothing."""
        name = standing.member.draft
        if not name or self._standings[name].outside:  # the guard did not look for that one
            return None
        texts = []
        try:
            door = self.door(name)
        except LocalLLMError:
            return None
        try:
            stream = door.ask(wanted, None)
            while (part := stream.next_part()) is not None:
                if isinstance(part, TextPart) and not part.thinking:
                    texts.append(part.text)
        except LocalLLMError:
            return None
        finally:
            door.release()
        return "".join(texts) or None

    def quiet(self, on: bool) -> None:
        """Whether models are loaded without a word of which."""
        if isinstance(self._lender, OwnLender):
            self._lender.quiet = on

    def inbox(self) -> Inbox:
        return Inbox(self._registry)

    def _endpoint(self, standing: Standing) -> EndpointGenerator:
        assert standing.endpoint is not None
        name = standing.member.name
        with self._lock:
            found = self._endpoints.get(name)
            if found is None:
                found = self._endpoints[name] = FarEndpoint(standing.endpoint).open()
            return found

    def close(self) -> None:
        self._lender.close()
        with self._lock:
            for one in self._endpoints.values():
                one.close()
            self._endpoints.clear()


class _LocalDoor:
    def __init__(self, member: LocalMember) -> None:
        self._member = member

    def ask(self, wanted: Wanted, decision: int | None) -> MemberStream:
        return self._member.ask(wanted)

    def cascade(self, wanted: Wanted, step: CascadeStep, threshold: float | None) -> CascadeStream:
        return CascadeStream(self._member, wanted, step, threshold)

    def release(self) -> None:
        self._member.lent.release()


class _EndpointDoor:
    def __init__(self, generator: EndpointGenerator) -> None:
        self._generator = generator

    def ask(self, wanted: Wanted, decision: int | None) -> MemberStream:
        return self._generator.ask(wanted)

    def cascade(self, wanted: Wanted, step: CascadeStep, threshold: float | None) -> CascadeStream:
        raise NotFound("an endpoint does not say how sure it is")

    def release(self) -> None:
        return


class _PersonDoor:
    def __init__(self, members: Members, standing: Standing) -> None:
        self._members, self._standing = members, standing

    def ask(self, wanted: Wanted, decision: int | None) -> MemberStream:
        members = self._members
        return PersonStream(
            members.inbox(), members.router, wanted, members.spec.human_wait_s, decision,
            lambda: members.draft(self._standing, wanted),
        )  # fmt: skip

    def cascade(self, wanted: Wanted, step: CascadeStep, threshold: float | None) -> CascadeStream:
        raise NotFound("a person does not say how sure the answer is")

    def release(self) -> None:
        return
