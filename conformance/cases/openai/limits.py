"""How long an answer is and where it stops. (P)"""

from __future__ import annotations

from typing import Any

from conformance.cases.openai.answers import completion_tokens, content, finish, said, well_ended
from conformance.cases.openai.profile import CHAT_CREATE, PROFILE
from conformance.cases.openai.stream_usage import ASKED
from conformance.suite import check
from conformance.suite.target import CHAT, Target

_TOKENS = f"{CHAT_CREATE}: max_tokens, max_completion_tokens"
_STOP = f"{CHAT_CREATE}: stop; the returned text will not contain the stop sequence"
_GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 16}


def _limited(answer: dict[str, Any], limit: int) -> None:
    tokens = completion_tokens(check.member(answer, "usage"))
    check.at_most(tokens, limit, "completion_tokens")
    check.among(finish(answer), ("length", "stop"), "the finish reason")


@PROFILE.case("limits.max-tokens", "max_tokens bounds the answer", source=_TOKENS)
async def max_tokens(target: Target) -> None:
    answer = await target.ask(CHAT, target.chat("Tell a long story.", max_tokens=5))
    _limited(target.may_refuse(answer, "max_tokens").expect(200).json, 5)


@PROFILE.case("limits.max-completion-tokens", "max_completion_tokens bounds the answer", source=_TOKENS)
async def max_completion_tokens(target: Target) -> None:
    asked = target.chat("Tell a long story.", max_tokens=None, max_completion_tokens=5)
    _limited(target.may_refuse(await target.ask(CHAT, asked), "max_completion_tokens").expect(200).json, 5)


@PROFILE.case("limits.one-token", "An answer of one token ends for its length", source=_TOKENS)
async def one_token(target: Target) -> None:
    answer = (await target.ask(CHAT, target.chat("Tell a long story.", max_tokens=1))).expect(200).json
    check.at_most(completion_tokens(check.member(answer, "usage")), 1, "completion_tokens")
    check.among(finish(answer), ("length", "stop"), "the finish reason")


@PROFILE.case(
    "limits.finish-length", "An answer that is cut by the limit says so: finish_reason length", source=_TOKENS
)
async def finish_length(target: Target) -> None:
    """A model may end by itself with the very last token, but hardly at each of these limits."""
    reasons = []
    for limit in (4, 5, 6):
        answer = await target.chatted("Tell a very long story.", max_tokens=limit)
        if completion_tokens(check.member(answer, "usage")) >= limit:
            reasons.append(finish(answer))
    if not reasons:
        target.skip("the model ended its answer by itself")
    check.contains(reasons, "length", "the finish reasons of answers as long as their limits")


@PROFILE.case("limits.stream", "The limit holds in streams, and so does its finish reason", source=_TOKENS)
async def in_streams(target: Target) -> None:
    stream = await target.streamed("Tell a very long story.", max_tokens=4, stream_options=ASKED)
    well_ended(stream)
    tokens = completion_tokens(stream.usage)
    check.at_most(tokens, 4, "completion_tokens of the stream")
    whole = await target.chatted("Tell a very long story.", max_tokens=4)
    if tokens == 4 and finish(whole) == "length":
        check.equal(stream.finish(), ["length"], "the finish reasons of the stream")


# -- stop -----------------------------------------------------------------------------------------------------------


async def _stop(target: Target) -> tuple[str, str]:
    """An answer's text, and a part of it to stop at: from its middle, and not at its very beginning."""
    answer = await target.chatted("Tell a story.", **_GREEDY)
    text = content(answer)
    if said(answer) and not text:
        target.skip("the model thinks beyond the limit: there is no text to stop")
    parts = (text[at : at + 3] for at in range(len(text) // 3, len(text) - 2))
    stops = (part for part in parts if "\ufffd" not in part and part.strip() == part and text.find(part) > 0)
    stop = next(stops, "")
    if not stop:
        target.skip(f"the model's answer has nothing to stop at: {text!r}")
    return text, stop


def _stopped(text: str, stop: str, before: str, reason: str) -> None:
    """``before`` is what the same request says without a stop; a model need not repeat itself."""
    check.true(stop not in text, "the text contains the stop string", f"a text without {stop!r}", text)
    if before.startswith(text) and len(text) == before.find(stop):
        check.equal(reason, "stop", "the finish reason after a stop string")


@PROFILE.case("limits.stop", "The text ends before a stop string, with finish_reason stop", source=_STOP)
async def stop_string(target: Target) -> None:
    text, stop = await _stop(target)
    answer = await target.ask(CHAT, target.chat("Tell a story.", **_GREEDY, stop=stop))
    found = target.may_refuse(answer, "stop").expect(200).json
    _stopped(content(found), stop, text, finish(found))


@PROFILE.case("limits.stop-list", "stop may be a list of strings", source=_STOP)
async def stop_list(target: Target) -> None:
    text, stop = await _stop(target)
    answer = await target.ask(CHAT, target.chat("Tell a story.", **_GREEDY, stop=["\u2603 never said \u2603", stop]))
    found = target.may_refuse(answer, "stop").expect(200).json
    _stopped(content(found), stop, text, finish(found))


@PROFILE.case("limits.stop-stream", "No part of a stop string gets into a stream", source=_STOP)
async def stop_stream(target: Target) -> None:
    text, stop = await _stop(target)
    answer = await target.ask(CHAT, target.chat("Tell a story.", **_GREEDY, stop=[stop], stream=True))
    stream = target.may_refuse(answer, "stop").expect(200).stream()
    well_ended(stream)
    _stopped(stream.text(), stop, text, stream.finish()[0])
    if stream.finish() == ["stop"] and text.startswith(stream.text()):
        check.at_most(len(stream.text()), text.find(stop), "the length of the streamed text")
