"""Asking and answering in one conversation: what a one-shot and the REPL have in common."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from localllm.chat import far
from localllm.chat.answer import Answer, Speaker, Spoken, finished
from localllm.chat.conversation import Conversation, Entry
from localllm.chat.kept import Keeper
from localllm.chat.room import Room
from localllm.chat.session import Session
from localllm.chat.settings import ChatSettings
from localllm.chat.tools import DoneCall, ToolBox
from localllm.errors import LocalLLMError
from localllm.generation import Message, Sampling
from localllm.toolcalls import Tool, ToolCall
from localllm.ui import AnswerView

_MAX_ROUNDS = 10  # of calls for one question


@dataclass
class Talk:
    """A conversation with a model. `forced` is the grammar that every answer follows, `schema` the
    JSON schema that it stands for."""

    session: Session | far.FarSession
    conversation: Conversation
    settings: ChatSettings
    keeper: Keeper
    view: AnswerView
    tell: Callable[[str], None]
    forced: str | None = None
    tools: ToolBox | None = None
    last: Answer | None = None
    schema: Mapping[str, Any] | bool | None = None
    _waiting: list[str] | None = None  # to be told after the answer under way

    @property
    def sampling(self) -> Sampling:
        return replace(self.settings.sampling(self.session.sampling), grammar=self.forced)

    def ask(self, text: str, images: Sequence[bytes] = ()) -> Answer:
        """Say `text` and let the model answer; both are kept. Ctrl-C ends the answer: its finish
        reason is `cancelled` then, and what was said stays. If nothing was said, or the question
        cannot be answered, it is taken back. Raises what the engine raises."""
        self.conversation.entries.append(Entry("user", text, images=tuple(images)))
        return self.answer()

    def answer(self) -> Answer:
        """Answer the last question of the conversation."""
        self.keeper.save(self.conversation, self.session.name)
        try:
            result = self._speak()
        except (LocalLLMError, KeyboardInterrupt):
            self.view.end()
            self._take_back()
            raise
        if result.finish_reason == "cancelled" and not result.text and not result.thinking:
            self._take_back()
        self.last = replace(result, chat_id=self.keeper.number)
        return self.last

    def _speak(self) -> Answer:
        session = self.session
        speaker = Speaker(session, self.view) if isinstance(session, Session) else None
        room = self.room(speaker) if speaker is not None else None
        done: list[DoneCall] = []
        spoken: list[Spoken] = []
        for number in range(_MAX_ROUNDS + 1):
            if speaker is not None and room is not None:
                spoken.append(self._one_round(speaker, room))
            else:
                spoken.append(self._far_round())
            calls = spoken[-1].calls
            cancelled = spoken[-1].account.finish_reason == "cancelled"
            self._keep(spoken[-1], () if cancelled else calls)
            if not calls or cancelled or self.tools is None:
                break
            if number == _MAX_ROUNDS:
                self.tell(f"stopped after {_MAX_ROUNDS} rounds of tool calls")
            for call in calls:
                done.append(self._call(call, refuse=number == _MAX_ROUNDS))
        dropped = room.dropped if room is not None else ()
        result = finished(self.session, spoken[-1], dropped, done)
        return _in_rounds(result, spoken)

    def _far_round(self) -> Spoken:
        assert isinstance(self.session, far.FarSession)
        ask = far.FarAsk(self.settings, self.forced, self.schema, self.offered)
        before = far.failures(self.session)
        try:
            return far.speak(self.session, self.conversation, ask, self.view)
        except LocalLLMError:
            # of a router whose members all failed, the error is the last one's
            if (failures := far.failures(self.session)) != before:
                for text in failures[:-1]:
                    self.tell(text)
            raise

    def _one_round(self, speaker: Speaker, room: Room) -> Spoken:
        assert isinstance(self.session, Session)
        if any(entry.images for entry in self.conversation.entries if entry.sight == "seen"):
            self.session.require_images()
        prompting, offered = self.session.prompting, self.offered
        prompting.thinking = self.settings.thinking
        prompting.tools = tuple(tool.as_openai() for tool in offered)
        sampling = prompting.tool_format.sampling(self.sampling, offered)
        parser = prompting.tool_format.parser(offered) if offered else None
        asked = room.ask(self.conversation, sampling.max_tokens)
        self._waiting = []
        try:
            return speaker.speak(
                asked, sampling, room=room, conversation=self.conversation, tools=parser
            )
        finally:
            waiting, self._waiting = self._waiting, None
            for text in waiting or ():
                self.tell(text)

    def _tell_of_room(self, text: str) -> None:
        """In the middle of an answer it would stand in the middle of its text: it waits."""
        if self._waiting is not None:
            self._waiting.append(text)
        else:
            self.view.end()
            self.tell(text)

    @property
    def offered(self) -> tuple[Tool, ...]:
        """The tools that this model is told of: none if its template knows none."""
        if self.tools is None:
            return ()
        session = self.session
        known = not isinstance(session, Session) or session.prompting.tool_format.known
        return self.tools.tools if known else ()

    def _keep(self, spoken: Spoken, calls: Sequence[ToolCall]) -> None:
        cancelled = spoken.account.finish_reason == "cancelled"
        if cancelled and not spoken.text and not spoken.thinking:
            return
        extra = {"tool_calls": [_as_message(call) for call in calls]} if calls else {}
        self.conversation.entries.append(
            Entry(
                "assistant", spoken.text, spoken.thinking, extra=extra,
                model=self.session.name, finish=spoken.account.finish_reason,
            )
        )  # fmt: skip
        self.keeper.save(self.conversation, self.session.name)

    def _call(self, call: ToolCall, *, refuse: bool) -> DoneCall:
        assert self.tools is not None
        if refuse:
            done = DoneCall(call.id, call.name, call.arguments, "No more calls.", "refused")
        else:
            done = self.tools.run(call)
        self.tell(str(done))
        extra = {"tool_call_id": call.id, "name": call.name}
        self.conversation.entries.append(Entry("tool", done.result, extra=extra))
        self.keeper.save(self.conversation, self.session.name)
        return done

    def room(self, speaker: Speaker) -> Room:
        assert isinstance(self.session, Session)

        def write(messages: Sequence[Message], max_tokens: int) -> str:
            return speaker.write(messages, max_tokens, self.sampling)

        return Room(
            self.session.prompting, self.settings, self.session.n_ctx, write, self._tell_of_room
        )

    def _take_back(self) -> None:
        """The conversation without the last question and what came of it; what was dropped for it
        stays dropped."""
        self.conversation.undo()
        self.keeper.save(self.conversation, self.session.name)


def _as_message(call: ToolCall) -> dict[str, Any]:
    """A call as templates want it back: arguments as an object, not as text."""
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = call.arguments
    function = {"name": call.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}


def _in_rounds(answer: Answer, rounds: Sequence[Spoken]) -> Answer:
    """With calls in between, the whole of what was said and what it took."""
    if len(rounds) == 1:
        return answer
    texts = [one.text.strip() for one in rounds]
    thoughts = [one.thinking for one in rounds]
    return replace(
        answer,
        text="\n\n".join(text for text in texts if text),
        thinking="\n\n".join(thought for thought in thoughts if thought) or None,
        completion_tokens=sum(one.account.completion_tokens for one in rounds),
        first_token_s=rounds[0].account.first_token_s,
        prompt_s=sum(one.account.prompt_s for one in rounds),
        decode_s=sum(one.account.decode_s for one in rounds),
    )
