"""Who calls, what they may, and what is told them of their limits. (T)"""

from __future__ import annotations

import re

from conformance.cases.gateway.errors import envelope
from conformance.cases.gateway.profile import PROFILE
from conformance.suite import check
from conformance.suite.answer import Answer
from conformance.suite.case import Level
from conformance.suite.target import CHAT, MODELS, Target

_LIMITED = ("limited_key",)
_DURATION = r"^(\d+(\.\d+)?(ms|s|m|h|d))+$"


@PROFILE.case(
    "auth.missing", "Without a key: 401 invalid_api_key", source="OpenAI API reference, errors", needs=("key",)
)
async def missing(target: Target) -> None:
    for stream in (False, True):
        answer = (await target.ask(CHAT, target.chat(stream=stream), key="")).expect(401)
        check.equal(envelope(answer, "a request without a key")["code"], "invalid_api_key", "code")


@PROFILE.case(
    "auth.wrong", "With a wrong key: 401 invalid_api_key", source="OpenAI API reference, errors", needs=("key",)
)
async def wrong(target: Target) -> None:
    for field in ("Bearer no-such-key", "Bearer", "Basic bm86c3VjaA==", "Bearer a b"):
        answer = await target.ask(CHAT, target.chat(), key="", headers=[("authorization", field)])
        check.equal(envelope(answer.expect(401), f"authorization: {field}")["code"], "invalid_api_key", "code")
        check.true(target.setup.key not in answer.text, "the answer repeats a key")


@PROFILE.case(
    "auth.bearer-case", "The scheme's case does not matter", source="RFC 9110 §11.1", level=Level.SHOULD, needs=("key",)
)
async def bearer_case(target: Target) -> None:
    field = ("authorization", f"bearer {target.setup.key}")
    (await target.ask(MODELS, key="", headers=[field])).expect(200)


@PROFILE.case(
    "auth.x-api-key",
    "A key in x-api-key counts, as Anthropic's SDK sends it",
    source="Anthropic API",
    level=Level.SHOULD,
    needs=("key",),
)
async def x_api_key(target: Target) -> None:
    (await target.ask(CHAT, target.chat(), key="", headers=[("x-api-key", target.setup.key)])).expect(200)


@PROFILE.case(
    "auth.before-body",
    "Who has no key is told so, whatever else is wrong",
    source="RFC 9110 §15.5.2",
    level=Level.SHOULD,
    needs=("key",),
)
async def before_body(target: Target) -> None:
    (await target.ask(CHAT, body=b"{not JSON", key="")).expect(401)
    (await target.ask(CHAT, target.chat(model="no-such-model"), key="")).expect(401)


@PROFILE.case("auth.no-echo", "A wrong key is not repeated in the answer", source="CWE-209", needs=("key",))
async def no_echo(target: Target) -> None:
    secret = "sk-conformance-0123456789abcdef"
    answer = await target.ask(CHAT, target.chat(), key=secret)
    check.true(secret not in answer.text, "the answer repeats the key it was given", "no key", answer.text)


@PROFILE.case(
    "auth.listing",
    "Listings need a key, too",
    source="OpenAI API reference, models",
    level=Level.SHOULD,
    needs=("key",),
)
async def listing(target: Target) -> None:
    envelope((await target.ask(MODELS, key="")).expect(401), "a listing without a key")


async def _refused(target: Target) -> Answer:
    """The first 429 of requests with the limited key."""
    for _ in range(100):
        answer = await target.ask(CHAT, target.chat(max_tokens=1), key=target.setup.extra["limited_key"])
        if answer.status == 429:
            return answer
        answer.expect(200)
    raise check.Failure("--set limited_key is beyond no limit after 100 requests", 429, 200)


@PROFILE.case(
    "limit.refused",
    "Beyond a limit: 429 rate_limit_exceeded",
    source="OpenAI API reference, rate limits",
    alone=True,
    needs=_LIMITED,
)
async def refused(target: Target) -> None:
    error = envelope(await _refused(target), "a request beyond a limit")
    check.equal(error["code"], "rate_limit_exceeded", "code")


@PROFILE.case(
    "limit.retry-after",
    "…with Retry-After, in whole seconds",
    source="RFC 9110 §10.2.3; openai-python reads it",
    alone=True,
    needs=_LIMITED,
)
async def retry_after(target: Target) -> None:
    answer = await _refused(target)
    check.matches(answer.headers.get("retry-after", ""), r"^\d+$", "Retry-After")
    check.at_most(int(answer.headers["retry-after"]), 30 * 86400, "Retry-After")


@PROFILE.case(
    "limit.headers",
    "Answers tell what is left of limits",
    source="OpenAI API reference, x-ratelimit-*",
    level=Level.SHOULD,
    alone=True,
    needs=_LIMITED,
)
async def limit_headers(target: Target) -> None:
    first = await target.ask(CHAT, target.chat(max_tokens=1), key=target.setup.extra["limited_key"])
    for answer in (first, await _refused(target)):
        told = {name: value for name, value in answer.fields if name.startswith("x-ratelimit-")}
        kinds = {name.rpartition("-")[2] for name in told}
        check.true(kinds & {"requests", "tokens"}, "no limit is told", "x-ratelimit-limit-requests or -tokens", told)
        for kind in kinds & {"requests", "tokens"}:
            limit, left = told.get(f"x-ratelimit-limit-{kind}"), told.get(f"x-ratelimit-remaining-{kind}")
            check.true(
                (limit or "").isdigit() and (left or "").isdigit(), f"limits on {kind} are no numbers", "digits", told
            )
            check.at_most(int(left or 0), int(limit or 0), f"what remains of {kind}")
            check.true(
                re.match(_DURATION, told.get(f"x-ratelimit-reset-{kind}", "")), "reset is no duration", "6m0s", told
            )
