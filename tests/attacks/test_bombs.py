"""What is small on the wire and large, deep or slow once it is read; and bodies that two readers read in two ways."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.witness import Witness, framed, polite, said, witness
from tests.faults.stage import CALM, unharmed
from tests.process import InferGateway, eventually, serve, simulate
from tests.whole import raw
from tests.whole.fleet import CHAT, fetch

MESSAGES = '"messages": [{"role": "user", "content": "hi"}]'
PLAIN = f'{{"model": "m", {MESSAGES}}}'.encode()
DEEP = 200_000
LISTS, OBJECTS = "[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP
OFTEN = ", ".join(['"k": 1'] * 100_000)
DIGITS = "9" * 3_000_000


def names(count: int) -> str:
    """So many members."""
    return ", ".join([f'"k{n}": 1' for n in range(count)])


def compressed(*parts: bytes, kind: int = 31) -> bytes:
    stream = zlib.compressobj(9, wbits=kind)
    return b"".join([*map(stream.compress, parts), stream.flush()])


BLANK = (b" " * (1 << 20),) * 160
EVENT = (b"data: ", *((b"x" * (1 << 20),) * 24))
GZIP = "content-encoding: gzip"
ANSWERS = {
    "a bomb as an answer": (framed(compressed(*BLANK, said()), GZIP), 502),
    "a bomb as an error": (framed(compressed(*BLANK), GZIP, status=500), 500),
    "a bomb as an event": (framed(compressed(*EVENT), GZIP, "content-type: text/event-stream"), 502),
    "a bomb in the other coding": (framed(compressed(*BLANK, kind=15), "content-encoding: deflate"), 502),
    "an answer cut where it was compressed": (framed(compressed(said())[:-9], GZIP), 502),
    "compressed nothing": (framed(b"", GZIP), 502),
    "a coding that is none": (framed(said(), "content-encoding: br"), 502),
    "an answer without end": (framed(said() + b" " * (140 << 20)), 502),
    "an event without end": (framed(b"data: " + b"x" * (20 << 20), "content-type: text/event-stream"), 502),
    "deep": (framed(LISTS.encode()), 502),
    "deep beside an answer": (framed(said(x=1).replace(b'"x": 1', f'"x": {OBJECTS}'.encode())), 502),
    "deep where it is looked at": (framed(said(usage=0).replace(b'"usage": 0', f'"usage": {LISTS}'.encode())), 502),
    "many digits": (framed(said(usage=0).replace(b'"usage": 0', b'"usage": %b' % DIGITS.encode())), 502),
    "as it should be": (framed(compressed(said()), GZIP), 200),
}
PAGES = {
    "a bomb": framed(compressed(*BLANK), GZIP, "content-type: text/plain"),
    "a line without end": framed(b"vllm:x" * 1_000_000, "content-type: text/plain"),
    "many series": framed(
        b"".join(b'vllm:num_requests_running{a="%d"} 1\n' % n for n in range(100_000)), "content-type: text/plain"
    ),
}
REQUESTS = {
    "deep": ((CHAT, f'{{"model": "m", "x": {LISTS}, {MESSAGES}}}'), 400),
    "deep objects": ((CHAT, f'{{"model": "m", "metadata": {OBJECTS}, {MESSAGES}}}'), 400),
    "deep and open": ((CHAT, f'{{"model": "m", "x": {"[" * DEEP}'), 400),
    "a deep content": ((CHAT, f'{{"model": "m", "messages": [{{"role": "user", "content": {LISTS}}}]}}'), 400),
    "deep tools": ((CHAT, f'{{"model": "m", "tools": [{{"function": {OBJECTS}}}], {MESSAGES}}}'), 400),
    "a deep bias": ((CHAT, f'{{"model": "m", "logit_bias": {OBJECTS}, {MESSAGES}}}'), 400),
    "a deep input": (("/v1/responses", f'{{"model": "m", "input": {LISTS}}}'), 400),
    "a deep system": (("/v1/messages", f'{{"model": "m", "max_tokens": 1, "system": {LISTS}, {MESSAGES}}}'), 400),
    "deep vectors": (("/v1/embeddings", f'{{"model": "m", "input": {LISTS}}}'), 400),
    "a deep prompt": (("/v1/completions", f'{{"model": "m", "prompt": {LISTS}}}'), 400),
    "deep to be tokenized": (("/tokenize", f'{{"model": "m", "prompt": {LISTS}}}'), 400),
    "digits": ((CHAT, f'{{"model": "m", "seed": {DIGITS}, {MESSAGES}}}'), 200),
    "digits where a number is read": ((CHAT, f'{{"model": "m", "max_tokens": {DIGITS}, {MESSAGES}}}'), 400),
    "digits of a fraction": ((CHAT, f'{{"model": "m", "temperature": 0.{DIGITS}, {MESSAGES}}}'), 200),
    "digits of an exponent": ((CHAT, f'{{"model": "m", "temperature": 1e{DIGITS}, {MESSAGES}}}'), 200),
    "an infinite number": ((CHAT, f'{{"model": "m", "max_tokens": 1e400, {MESSAGES}}}'), 400),
    "no number": ((CHAT, f'{{"model": "m", "temperature": NaN, {MESSAGES}}}'), 400),
    "no number but large": ((CHAT, f'{{"model": "m", "temperature": -Infinity, {MESSAGES}}}'), 400),
    "a comment": ((CHAT, f'{{"model": "m", /* x */ {MESSAGES}}}'), 400),
    "more behind it": ((CHAT, f'{{"model": "m", {MESSAGES}}} {{"model": "n"}}'), 400),
    "NUL behind it": ((CHAT, f'{{"model": "m", {MESSAGES}}}\0'), 400),
    "half a pair": ((CHAT, f'{{"model": "m\\ud800", {MESSAGES}}}'), 400),
    "another case": ((CHAT, f'{{"model": "m", "Model": "n", {MESSAGES}}}'), 400),
    "another case by an escape": ((CHAT, f'{{"model": "m", "\\u004dodel": "n", {MESSAGES}}}'), 400),
    "another case in Unicode": ((CHAT, f'{{"model": "m", "max_to\u212aens": 9, {MESSAGES}}}'), 400),
    "a long s": ((CHAT, f'{{"model": "m", "\\u017ftream": true, {MESSAGES}}}'), 400),
    "another case of what steers": ((CHAT, f'{{"model": "m", "Priority": 9, {MESSAGES}}}'), 400),
    "many names": ((CHAT, f'{{"model": "m", {names(9_000)}, {MESSAGES}}}'), 200),
    "more names than anybody has": ((CHAT, f'{{"model": "m", {names(100_000)}, {MESSAGES}}}'), 400),
    "one name very often": ((CHAT, f'{{"model": "m", "priority": 1, {OFTEN}, {MESSAGES}}}'), 400),
}
"""Path and body, and the status."""
JUDGED = {
    '"model": "n", "model": "m"': ("m", False),
    '"model": "n", "\\u006dodel": "m"': ("m", False),
    '"\\u006dodel": "n", "model": "m"': ("m", False),
    '"model": "m", "stream": true, "stream": false': ("m", False),
    '"model": "m", "stream": false, "str\\u0065am": true': ("m", True),
    '"model": "m", "max_tokens": 9, "max_tokens": null': ("m", False),
}
"""Members, the model that is asked and whether it is asked for a stream: of a name given twice the last counts, as it
does for engines."""


@pytest.fixture(scope="module")
def engine() -> Iterator[Witness]:
    with witness() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(engine: Witness) -> Iterator[InferGateway]:
    with (
        simulate("vllm", CALM) as calm,
        serve("--backend", f"vllm={engine.url}", "--backend", f"vllm={calm.url}") as running,
    ):
        assert eventually(lambda: len(fetch(running.address, "/v1/models")["data"]) == 2)
        yield running


@pytest.fixture(autouse=True)
def small(gateway: InferGateway, engine: Witness) -> Iterator[None]:
    """Whatever came, little of it was in memory at any time."""
    engine.forget()
    yield
    peak = next(line for line in Path(f"/proc/{gateway.process.pid}/status").read_text().split("\n") if "VmHWM" in line)
    assert int(peak.split()[1]) < 450 * 1024, peak


def status(gateway: InferGateway, path: str, body: bytes) -> int:
    answer = raw.exchange(gateway.address, raw.post(path, body, "connection: close"))
    return 0 if answer is None else answer.status


def test_requests(gateway: InferGateway) -> None:
    with unharmed(gateway):
        seen = {name: status(gateway, path, body.encode()) for name, ((path, body), _) in REQUESTS.items()}
    assert seen == {name: expected for name, (_, expected) in REQUESTS.items()}


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_bodies_in_other_codings(coding: str, gateway: InferGateway) -> None:
    assert status(gateway, CHAT, f'{{"model": "m", {MESSAGES}}}'.encode(coding)) == 400


@pytest.mark.parametrize("members", JUDGED)
def test_of_two_the_last_counts_for_both(members: str, gateway: InferGateway, engine: Witness) -> None:
    model, stream = JUDGED[members]
    answer = raw.exchange(gateway.address, raw.post(CHAT, f"{{{members}, {MESSAGES}}}".encode(), "connection: close"))
    assert answer is not None
    assert (answer.headers["content-type"].startswith("text/event-stream"), answer.status) == (stream, 200)
    body = json.loads(engine.asked[-1].body)
    assert (body["model"], body.get("stream", False)) == (model, stream)


def test_a_request_in_a_content_coding_is_not_read(gateway: InferGateway, engine: Witness) -> None:
    body = compressed(PLAIN)
    answer = raw.exchange(gateway.address, raw.post(CHAT, body, GZIP, "connection: close"))
    assert answer is not None
    assert (answer.status, engine.asked) == (400, [])


def test_pages(gateway: InferGateway, engine: Witness) -> None:
    """A metrics page that cannot be read is none, and its engine serves on."""
    with unharmed(gateway):
        for page in PAGES.values():
            engine.polls["/metrics"] = page
            assert eventually(lambda: status(gateway, CHAT, PLAIN) == 200)
    del engine.polls["/metrics"]


def test_answers(gateway: InferGateway, engine: Witness) -> None:
    seen = {}
    with unharmed(gateway):
        for name, (answer, _) in ANSWERS.items():
            engine.answer = lambda _, answer=answer: answer
            body = f'{{"model": "m", "stream": {json.dumps("event" in name)}, {MESSAGES}}}'
            seen[name] = status(gateway, CHAT, body.encode())
            engine.answer = polite
            assert status(gateway, CHAT, PLAIN) == 200, name  # or it would be set aside for the three in a row
    assert seen == {name: expected for name, (_, expected) in ANSWERS.items()}
