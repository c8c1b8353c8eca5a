"""What may stand in messages: roles, parts, turns, and every character there is. (P)"""

from __future__ import annotations

import json
from typing import Any

from conformance.cases.openai.answers import well_ended
from conformance.cases.openai.profile import CHAT_CREATE, PROFILE
from conformance.suite import check
from conformance.suite.case import Level
from conformance.suite.target import CHAT, Target

_MESSAGES = f"{CHAT_CREATE}: messages"


def user(content: Any = "Hello.", **members: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **members}


async def _prompt_tokens(target: Target, messages: list[dict[str, Any]]) -> int:
    answer = await target.ask(CHAT, target.chat(messages=messages))
    found = check.member(answer.expect(200).json, "usage.prompt_tokens")
    return check.kind(found, int, "prompt_tokens")


@PROFILE.case("prompts.system", "A system message is taken and read", source=f"{_MESSAGES}: role system")
async def system(target: Target) -> None:
    alone = await _prompt_tokens(target, [user()])
    more = await _prompt_tokens(target, [{"role": "system", "content": "You are terse. " * 10}, user()])
    check.at_least(more, alone + 10, "prompt_tokens with a system message of 30 words")


@PROFILE.case(
    "prompts.developer",
    "A developer message is taken, or its role refused by name",
    source=f"{_MESSAGES}: role developer",
    level=Level.SHOULD,
)
async def developer(target: Target) -> None:
    messages = [{"role": "developer", "content": "You are terse."}, user()]
    target.may_refuse(await target.ask(CHAT, target.chat(messages=messages)), "developer", "role").expect(200)


@PROFILE.case("prompts.turns", "A conversation of several turns is read whole", source=_MESSAGES)
async def turns(target: Target) -> None:
    first = [user("Remember the number seventeen.")]
    more = [*first, {"role": "assistant", "content": "I shall remember it well."}, user("Which number was it?")]
    check.at_least(await _prompt_tokens(target, more), await _prompt_tokens(target, first) + 5, "prompt_tokens")


@PROFILE.case("prompts.parts", "Content may be a list of text parts", source=f"{_MESSAGES}: content parts, type text")
async def parts(target: Target) -> None:
    content = [{"type": "text", "text": "Say "}, {"type": "text", "text": "a long hello to everybody here."}]
    whole = await _prompt_tokens(target, [user("Say a long hello to everybody here.")])
    got = await _prompt_tokens(target, [user(content)])
    check.at_least(got, whole - 2, "prompt_tokens of two text parts, against the same text as a string,")


@PROFILE.case("prompts.name", "A message may carry a name", source=f"{_MESSAGES}: name", level=Level.SHOULD)
async def name(target: Target) -> None:
    answer = await target.ask(CHAT, target.chat(messages=[user(name="alice")]))
    target.may_refuse(answer, "name").expect(200)


@PROFILE.case("prompts.many-messages", "A conversation of 100 turns is taken", source=_MESSAGES)
async def many(target: Target) -> None:
    messages = [user("a"), {"role": "assistant", "content": "b"}] * 50
    answer = await target.ask(CHAT, target.chat(messages=[*messages, user("c")]))
    if answer.status == 400 and ("context" in answer.text or "length" in answer.text):
        target.skip("the model's context is too short for it")
    answer.expect(200)


@PROFILE.case(
    "prompts.image",
    "An image for a model that sees none is refused, or left out; it breaks nothing",
    source=f"{_MESSAGES}: content parts, type image_url; a 5xx is repeated by SDKs",
    level=Level.SHOULD,
)
async def image(target: Target) -> None:
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    url = {"url": f"data:image/png;base64,{pixel}"}
    content = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": url}]
    answer = await target.ask(CHAT, target.chat(messages=[user(content)]))
    answer.expect(200, 400, 415, 422, 501)
    target.note("taken" if answer.status == 200 else f"refused with {answer.status}")


@PROFILE.case(
    "prompts.empty-content", "An empty text is taken, or refused with 400", source=_MESSAGES, level=Level.SHOULD
)
async def empty_content(target: Target) -> None:
    answer = await target.ask(CHAT, target.chat(messages=[user("")]))
    answer.expect(200, 400, 422)


_TEXTS = {
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 😀",
    "CJK": "日本語のテキスト、中文文本、한국어",
    "combining marks": "e\u0301 n\u0303 a\u030a\u0323 Z̷a̸l̶g̵o̴",
    "right to left": "שלום עולם مرحبا بالعالم \u202e\u2066",
    "controls": "tab\tnewline\ncarriage\r\nnul-free \u0007\u001b[31m \u2028\u2029",
    "SSE in text": "data: [DONE]\n\ndata: {}\n\n: comment\n\nevent: x",
    "chat markup": "<|im_end|>\n<|im_start|>system\n</s>[INST]",
    "last of Unicode": "\ufffd \ufeff \U0010fffd",
}


@PROFILE.case("prompts.unicode", "A prompt may hold any characters", source="RFC 8259 §8.1: JSON text is any Unicode")
async def unicode(target: Target) -> None:
    for what, text in _TEXTS.items():
        answer = await target.ask(CHAT, target.chat(text, max_tokens=2))
        check.equal(answer.status, 200, f"the status for {what}")
        check.kind(answer.json, dict, f"the answer for {what}")


@PROFILE.case(
    "prompts.unicode-stream", "A stream may follow on any characters", source="RFC 8259 §8.1; WHATWG HTML §9.2"
)
async def unicode_stream(target: Target) -> None:
    for text in _TEXTS.values():
        well_ended(await target.streamed(text, max_tokens=2))


@PROFILE.case(
    "prompts.escapes",
    "Escaped characters are the characters",
    source="RFC 8259 §7: \\ud83d\\ude00 is one character",
)
async def escapes(target: Target) -> None:
    """Half the SDKs escape everything beyond ASCII."""
    document = target.chat("日本語 😀 e\u0301 " * 4, max_tokens=1)
    counts = []
    for ascii_only in (False, True):
        body = json.dumps(document, ensure_ascii=ascii_only).encode()
        answer = await target.ask(CHAT, body=body)
        counts.append(check.member(answer.expect(200).json, "usage.prompt_tokens"))
    check.equal(counts[1], counts[0], "prompt_tokens of the same text, escaped,")
