"""What of a request reaches the engine: all that is meant for it, nothing that is not. (T)"""

from __future__ import annotations

import json
from typing import Any

from conformance.cases import behind
from conformance.cases.gateway.profile import PROFILE
from conformance.suite import check
from conformance.suite.case import Level
from conformance.suite.target import CHAT, Target

_BEHIND = ("behind",)
_STEERING = (
    "kv_transfer_params", "bootstrap_host", "bootstrap_port", "bootstrap_room", "lora_path",
    "custom_logit_processor", "rid", "request_id",
)  # fmt: skip


async def _body(target: Target, marker: str, rest: str = "", **members: Any) -> dict[str, Any]:
    """The body of a small chat as the engine got it: its text is ``marker`` and ``rest``."""
    answer = target.may_refuse(await target.ask(CHAT, target.chat(marker + rest, **members)), *members)
    answer.expect(200)
    got: dict[str, Any] = json.loads((await behind.received(target, marker))["body"])
    return got


@PROFILE.case(
    "pass.unknown-members",
    "Members that the gateway does not know reach the engine",
    source="engines' own parameters, vLLM 0.33",
    alone=True,
    needs=_BEHIND,
)
async def unknown_members(target: Target) -> None:
    value = {"deep": [1, {"a": None}], "text": "ä☃"}
    got = await _body(target, "conformance-unknown", x_conformance=value)
    check.equal(got.get("x_conformance"), value, "the unknown member at the engine")


@PROFILE.case(
    "pass.numbers",
    "Numbers reach the engine with all their digits",
    source="RFC 8259 §6",
    level=Level.SHOULD,
    alone=True,
    needs=_BEHIND,
)
async def numbers(target: Target) -> None:
    marker = "conformance-numbers"
    text = json.dumps(target.chat(marker))[:-1] + ', "x_numbers": [9007199254740993, 0.1000000000000000055511, 1e-7]}'
    answer = target.may_refuse(await target.ask(CHAT, body=text.encode()), "x_numbers")
    answer.expect(200)
    body = (await behind.received(target, marker))["body"]
    for digits in ("9007199254740993", "0.1"):
        check.contains(body, digits, "the body at the engine")


@PROFILE.case(
    "pass.text",
    "Prompts reach the engine as they are, whatever they hold",
    source="RFC 8259 §7",
    alone=True,
    needs=_BEHIND,
)
async def text(target: Target) -> None:
    marker = "conformance-text"
    rest = ' "quoted" \\ \x00\x1f\x7f é 漢字 👩‍👩‍👧 \u2028 </script> {"model": "other"} data: [DONE]'
    got = await _body(target, marker, rest)
    check.equal(got["messages"][-1]["content"], marker + rest, "the prompt at the engine")


@PROFILE.case(
    "pass.no-credentials",
    "A client's credentials stay here",
    source="RFC 9110 §11.7.2: a proxy that relays credentials does so on purpose; CWE-522",
    level=Level.SHOULD,
    alone=True,
    needs=_BEHIND,
)
async def no_credentials(target: Target) -> None:
    marker, secret = "conformance-credentials", "conformance-secret-0815"
    sent = [("proxy-authorization", f"Basic {secret}"), ("cookie", f"session={secret}")]
    (await target.ask(CHAT, target.chat(marker), headers=sent)).expect(200)
    got = (await behind.received(target, marker))["headers"]
    check.true(secret not in json.dumps(got), "a credential went on to the engine", "neither cookies nor keys", got)
    if target.setup.key:
        check.true(
            target.setup.key not in json.dumps(got), "the client's key went on to the engine", "no key", sorted(got)
        )


@PROFILE.case(
    "pass.no-hop-fields", "Fields for this hop are not forwarded", source="RFC 9110 §7.6.1", alone=True, needs=_BEHIND
)
async def no_hop_fields(target: Target) -> None:
    marker = "conformance-hop"
    sent = [
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=7"),
        ("te", "trailers"),
        ("upgrade", "h2c"),
    ]
    (await target.ask(CHAT, target.chat(marker), headers=sent)).expect(200)
    got = (await behind.received(target, marker))["headers"]
    for name in ("x-hop", "keep-alive", "te", "upgrade"):
        check.true(name not in got, f"{name} was forwarded", "fields of the hop left out", got)


@PROFILE.case(
    "pass.no-steering-fields",
    "Header fields that steer engines are not a client's to set",
    source="vLLM 0.33 X-data-parallel-rank; SGLang x-smg-*",
    level=Level.SHOULD,
    alone=True,
    needs=_BEHIND,
)
async def no_steering_fields(target: Target) -> None:
    marker = "conformance-steering-fields"
    names = ("x-data-parallel-rank", "x-vllm-priority", "x-smg-routing-key")
    (await target.ask(CHAT, target.chat(marker), headers=[(name, "0") for name in names])).expect(200)
    got = (await behind.received(target, marker))["headers"]
    for name in names:
        check.true(name not in got, f"{name} was forwarded", "fields that steer left out", got)


@PROFILE.case(
    "pass.no-steering-members",
    "Members that reach into an engine are not a client's to set",
    source="vLLM 0.33 kv_transfer_params; SGLang 0.5.23 custom_logit_processor",
    level=Level.SHOULD,
    alone=True,
    needs=_BEHIND,
)
async def no_steering_members(target: Target) -> None:
    marker = "conformance-steering"
    for name in _STEERING:
        value = {"remote_host": "127.0.0.1"} if name == "kv_transfer_params" else "7"
        answer = await target.ask(CHAT, target.chat(f"{marker} {name}", **{name: value}))
        if answer.status in (400, 403, 422):
            continue
        answer.expect(200)
        body = json.loads((await behind.received(target, f"{marker} {name}"))["body"])
        check.true(name not in body, f"{name} reached the engine", "removed, or refused", body)


@PROFILE.case(
    "pass.answer", "An answer says what the engine said", source="the gateway is no author", alone=True, needs=_BEHIND
)
async def answer_kept(target: Target) -> None:
    through = await target.chatted("Say something long.", max_tokens=12, temperature=0.0)
    engine = (await behind.simulators(target))[0]
    got = await behind.received(target, "Say something long.")
    if not got["path"].endswith("/chat/completions"):
        target.skip(f"the engine is asked in a dialect of its own, at {got['path']}")
    direct = (await target.ask(got["path"], json.loads(got["body"]), where=engine)).expect(200).json
    said = check.member(direct, "choices.0.message.content", "the engine's answer")
    check.equal(check.member(through, "choices.0.message.content"), said, "the text through the gateway")
    check.equal(
        check.member(through, "usage.completion_tokens"), direct["usage"]["completion_tokens"], "completion_tokens"
    )
    whole = await target.streamed("Say something long.", max_tokens=12, temperature=0.0)
    check.equal(whole.text(), said, "the streamed text through the gateway")


@PROFILE.case(
    "pass.closed-paths",
    "Engines' own paths are not reached through a gateway",
    source="vLLM 0.33 /load_lora_adapter, /metrics",
    level=Level.SHOULD,
)
async def closed_paths(target: Target) -> None:
    for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/sim/fail", "/flush_cache", "/server_info"):
        answer = await target.ask(path, {})
        check.true(400 <= answer.status < 500, f"{path} is served", "404", answer.status)


@PROFILE.case("pass.traversal", "No path leads out of the API", source="CWE-22", needs=())
async def traversal(target: Target) -> None:
    for path in (
        "/v1/../sim/state", "/v1/models/../../sim/state", "/v1/%2e%2e/sim/state", "/v1/models/..%2f..%2fsim%2fstate",
        "//sim/state", "/v1/models/%00", "/v1/models/..;/..;/sim/state",
    ):  # fmt: skip
        answer = await target.ask(path)
        check.true(
            300 <= answer.status < 500,
            f"{path} is answered",
            "a refusal, or a redirect to where it leads",
            f"{answer.status} {answer.text}",
        )
