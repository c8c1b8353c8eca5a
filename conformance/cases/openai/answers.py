"""What cases of this profile look at in answers of either kind, whole or streamed. (P)"""

from __future__ import annotations

from typing import Any

from conformance.suite import check
from conformance.suite.answer import Stream

ENDED = ("stop", "length", "content_filter", "tool_calls", "function_call")


def said(answer: dict[str, Any], index: int = 0) -> str:
    """All that a whole chat says in one choice, thoughts before content."""
    found = [choice for choice in check.member(answer, "choices") if choice.get("index", 0) == index]
    check.equal(len(found), 1, f"the number of choices with index {index}")
    message = check.kind(check.member(found[0], "message", "the choice"), dict, "the message")
    thoughts = message.get("reasoning_content") or message.get("reasoning") or ""
    return str(thoughts) + str(message.get("content") or "")


def content(answer: dict[str, Any]) -> str:
    """What the only choice of a whole chat says aloud."""
    return str(check.member(answer, "choices.0.message").get("content") or "")


def streamed(stream: Stream, index: int = 0) -> str:
    """The same of a stream."""
    return stream.reasoning(index) + stream.text(index)


def finish(answer: dict[str, Any], index: int = 0) -> str:
    return str(check.member(answer, f"choices.{index}.finish_reason"))


def well_ended(stream: Stream, choices: int = 1) -> None:
    """No error, one finish reason for every choice, one ``[DONE]`` and nothing behind it."""
    check.equal(stream.errors, [], "the errors inside the stream")
    for index in range(choices):
        check.equal(len(stream.finish(index)), 1, f"the number of finish reasons of choice {index}")
        check.among(stream.finish(index)[0], ENDED, f"the finish reason of choice {index}")
    check.equal((stream.done, stream.after_done), (1, 0), "[DONE] and the events behind it, by number,")
    check.equal(stream.rest, b"", "what follows the last whole event")


def completion_tokens(usage: dict[str, Any] | None) -> int:
    return check.kind(check.member(usage, "completion_tokens", "usage"), int, "completion_tokens")
