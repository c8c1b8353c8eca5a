from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BodyTooLarge
from protocols.extproc.messages import Mode
from protocols.extproc.session import Disorder, Session, Settings, Watch
from tests.protocols.extproc.proxy import DESTINATION, Proxy, body, heads, hint, mutated, ours, theirs, trailers

MODES = [Mode.NONE, Mode.STREAMED, Mode.BUFFERED, Mode.BUFFERED_PARTIAL, Mode.DUPLEX]
REQUEST = [
    (":path", "/v1/completions"),
    (":method", "POST"),
    ("content-type", "application/json"),
    ("x-request-id", "r"),
]
RESPONSE = [(":status", "200"), ("content-type", "application/json"), ("content-length", "99")]
PROMPT = b'{"model":"m","prompt":"hi"}'
ANSWER = b'{"id":"x","model":"m-1","choices":[{"text":"a \\"model\\":\\"m-1\\""}]}'


class Player:
    """A session and the proxy that talks to it; decides for ``where`` and ``model`` when asked."""

    def __init__(self, settings: Settings | None = None, modes: tuple[Mode, Mode] = (Mode.DUPLEX, Mode.DUPLEX)) -> None:
        self.session = Session(settings or Settings())
        self.proxy = Proxy(modes)
        self.where: tuple[str, ...] = ("10.0.0.1:8000",)
        self.model = "m-1"
        self.steps: list[Any] = []

    def say(self, *said: Any) -> Player:
        for message in said:
            self.proxy.say(message)
            step = self.session.receive(ours(message))
            self.steps.append(step)
            self._hear(step.replies)
            if step.wanted is not None:
                asked = "m" if step.wanted.body else ""
                id = step.wanted.head.named.get("x-request-id", b"made-up").decode()
                self._hear(self.session.routed(self.where, id, asked=asked, model=self.model))
        return self

    def _hear(self, replies: Any) -> None:
        for reply in replies:
            self.proxy.hear(reply)

    @property
    def wanted(self) -> Any:
        return next(step.wanted for step in self.steps if step.wanted is not None)

    @property
    def data(self) -> bytes:
        return b"".join(step.data for step in self.steps)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def told(kind: str, parts: list[bytes], end: bool = True) -> list[Any]:
    return [body(kind, part, end and at == len(parts) - 1) for at, part in enumerate(parts)]


CUTS = st.lists(st.integers(0, 500), max_size=6)


@given(CUTS, CUTS, st.booleans(), st.booleans())
def test_duplex_in_any_cuts(up: list[int], down: list[int], up_trailers: bool, down_trailers: bool) -> None:
    player = Player()
    player.say(heads("request_headers", REQUEST, modes=(Mode.DUPLEX, Mode.DUPLEX)))
    player.say(*told("request_body", pieces(PROMPT, up), not up_trailers))
    if up_trailers:
        player.say(trailers("request_trailers"))
    proxy = player.proxy
    assert proxy.sent == PROMPT.replace(b'"m"', b'"m-1"')
    assert proxy.value("content-length") == str(len(proxy.sent))
    assert proxy.request_over
    player.say(heads("response_headers", RESPONSE), *told("response_body", pieces(ANSWER, down), not down_trailers))
    if down_trailers:
        player.say(trailers("response_trailers"))
    assert proxy.received == ANSWER.replace(b'"model":"m-1"', b'"model":"m"', 1)
    assert proxy.response_over
    assert player.steps[-1].ended
    assert player.data == ANSWER
    assert "content-length" not in dict(proxy.response_headers)


@given(st.sampled_from(MODES[:4]), CUTS, CUTS)
def test_other_modes_answer_one_for_one(mode: Mode, up: list[int], down: list[int]) -> None:
    player = Player(modes=(mode, mode))
    player.say(heads("request_headers", REQUEST, modes=(mode, mode)))
    if mode is Mode.STREAMED:
        player.say(*told("request_body", pieces(PROMPT, up)))
    elif mode is not Mode.NONE:
        player.say(body("request_body", PROMPT, True))
    proxy = player.proxy
    assert proxy.value(DESTINATION) == "10.0.0.1:8000"
    read = mode is Mode.BUFFERED
    assert player.wanted.body == (PROMPT if read else None)
    assert proxy.sent == (b"" if mode is Mode.NONE else PROMPT.replace(b'"m"', b'"m-1"') if read else PROMPT)
    player.say(heads("response_headers", RESPONSE))
    if mode is not Mode.NONE:
        player.say(*told("response_body", pieces(ANSWER, down if mode is Mode.STREAMED else [])))
        assert player.steps[-1].ended
        assert proxy.response_over
        assert proxy.received == (ANSWER.replace(b'"model":"m-1"', b'"model":"m"', 1) if read else ANSWER)
        assert player.data == ANSWER
    assert player.session.complete is (mode is Mode.NONE)


def test_streamed_responses_are_restored_piece_by_piece() -> None:
    player = Player(modes=(Mode.BUFFERED, Mode.STREAMED))
    player.say(
        heads("request_headers", REQUEST, modes=(Mode.BUFFERED, Mode.STREAMED)), body("request_body", PROMPT, True)
    )
    player.say(
        heads("response_headers", RESPONSE), *told("response_body", [ANSWER[at : at + 3] for at in range(0, 66, 3)])
    )
    assert player.proxy.received == ANSWER.replace(b'"model":"m-1"', b'"model":"m"', 1)[: len(player.proxy.received)]
    assert player.proxy.received.startswith(b'{"id":"x","model":"m","choices"')


def test_buffered_headers_are_answered_before_the_body_is_there() -> None:
    player = Player(modes=(Mode.BUFFERED, Mode.NONE))
    player.say(heads("request_headers", REQUEST, modes=(Mode.BUFFERED, Mode.NONE)))
    assert player.proxy.order == ["request_headers"]
    assert player.proxy.metadata == {}
    player.say(body("request_body", PROMPT, True))
    assert player.proxy.order == ["request_headers", "request_body"]
    assert player.proxy.metadata == {"envoy.lb": {DESTINATION: "10.0.0.1:8000"}}


def test_buffered_in_part_is_not_read() -> None:
    player = Player(modes=(Mode.BUFFERED_PARTIAL, Mode.NONE))
    player.say(heads("request_headers", REQUEST, modes=(Mode.BUFFERED_PARTIAL, Mode.NONE)))
    player.say(body("request_body", PROMPT[:10], False))
    assert player.wanted.body is None
    assert player.proxy.order == ["request_headers", "request_body"]
    assert player.proxy.sent == PROMPT[:10]
    assert player.proxy.value(DESTINATION) == "10.0.0.1:8000"


def test_buffered_request_of_trailers_only_is_placed_by_metadata() -> None:
    player = Player(modes=(Mode.BUFFERED, Mode.NONE))
    player.say(heads("request_headers", REQUEST, modes=(Mode.BUFFERED, Mode.NONE)), trailers("request_trailers"))
    assert player.proxy.order == ["request_headers", "request_trailers"]
    assert player.proxy.metadata == {"envoy.lb": {DESTINATION: "10.0.0.1:8000"}}


@pytest.mark.parametrize("mode", MODES)
def test_without_a_body_headers_are_all_there_is_to_answer(mode: Mode) -> None:
    player = Player(modes=(mode, mode))
    player.say(heads("request_headers", [(":path", "/v1/models"), (":method", "GET")], end=True, modes=(mode, mode)))
    assert player.wanted.body is None
    assert player.proxy.order == ["request_headers"]
    assert player.proxy.value("content-length") is None
    assert player.proxy.value("x-request-id") == "made-up"
    player.say(heads("response_headers", [(":status", "204")], end=True))
    assert player.steps[-1].ended


def test_an_id_that_is_not_fit_for_logs_is_not_sent_on() -> None:
    session = Session(Settings())
    said = [*((name, value) for name, value in REQUEST if name != "x-request-id"), ("x-request-id", "two\nlines")]
    session.receive(ours(heads("request_headers", said, end=True)))
    (reply,) = session.routed(["a:1"], "made-up")
    changed = dict(mutated([], theirs(reply).request_headers.response.header_mutation))
    assert changed["x-request-id"] == b"made-up"


def test_empty_body_is_one_empty_piece() -> None:
    player = Player()
    player.say(heads("request_headers", REQUEST), body("request_body", b"", True))
    assert player.proxy.order == ["request_headers", "request_body"]
    assert player.proxy.request_over


def test_header_and_metadata_name_the_same_endpoints_best_first() -> None:
    player = Player()
    player.where = ("10.0.0.2:8000", "[fd00::1]:8000")
    player.say(heads("request_headers", REQUEST), body("request_body", PROMPT, True))
    assert player.proxy.value(DESTINATION) == "10.0.0.2:8000,[fd00::1]:8000"
    assert player.proxy.metadata == {"envoy.lb": {DESTINATION: "10.0.0.2:8000,[fd00::1]:8000"}}


def test_control_headers_go_no_further_and_all_others_stay() -> None:
    sent = [
        *REQUEST,
        ("accept", "a"),
        ("accept", "b"),
        ("X-LLM-D-SLO-TTFT-MS", "5"),
        ("x-gateway-inference-objective", "o"),
        ("x-llm-d-inference-fairness-id", "f"),
        ("x-gateway-model-name-rewrite", "z"),
        (DESTINATION, "6.6.6.6:1"),
        (DESTINATION, "6.6.6.7:1"),
        ("x-llm-d-request-dropped-reason", "none"),
        ("test-epp-endpoint-selection", "6.6.6.6"),
    ]
    player = Player()
    player.say(
        heads("request_headers", [(name.lower(), value) for name, value in sent]), body("request_body", PROMPT, True)
    )
    left = [*REQUEST, ("accept", "a"), ("accept", "b"), (DESTINATION, "10.0.0.1:8000"), ("content-length", "29")]
    assert sorted(player.proxy.headers) == sorted((name, value.encode()) for name, value in left)


@pytest.mark.parametrize("on", ["headers", "body"])
@pytest.mark.parametrize(("given", "only"), [(["1.1.1.1:8"], ("1.1.1.1:8",)), ("1.1.1.1:8, 2.2.2.2", None), ([], ())])
def test_subset_is_read_wherever_the_proxy_puts_it(on: str, given: Any, only: tuple[str, ...] | None) -> None:
    first, last = heads("request_headers", REQUEST), body("request_body", PROMPT, True)
    hint(first if on == "headers" else last, given)
    assert Player().say(first, last).wanted.only == (("1.1.1.1:8", "2.2.2.2") if only is None else only)


def test_no_subset_is_no_restriction_and_one_may_be_ignored() -> None:
    first, last = heads("request_headers", REQUEST), body("request_body", PROMPT, True)
    assert Player().say(first, last).wanted.only is None
    assert Player(Settings(subset=False)).say(hint(first, ["1.1.1.1"]), last).wanted.only is None


def test_steering_header_narrows_the_subset_if_it_is_trusted() -> None:
    sent = [*REQUEST, ("test-epp-endpoint-selection", "1.1.1.1:8, 3.3.3.3")]
    first, last = heads("request_headers", sent, subset=["1.1.1.1"]), body("request_body", PROMPT, True)
    assert Player(Settings(steering=True)).say(first, last).wanted.only == ("1.1.1.1:8",)
    assert Player().say(first, last).wanted.only == ("1.1.1.1",)


def test_who_served_is_told() -> None:
    player = Player(Settings(steering=True)).say(heads("request_headers", REQUEST), body("request_body", PROMPT, True))
    player.say(heads("response_headers", RESPONSE, served="10.0.0.9:8000"))
    responded = player.steps[-1].responded
    assert (responded.status, responded.served) == (200, "10.0.0.9:8000")
    assert (b"content-type", b"application/json") in responded.headers
    assert dict(player.proxy.response_headers)["x-conformance-test-served-endpoint"] == b"10.0.0.9:8000"


@pytest.mark.parametrize(
    ("fields", "status"),
    [([(":status", "503")], 503), ([("status", "404")], 404), ([], 200), ([(":status", "2" * 5000)], 200)],
)
def test_status(fields: list[tuple[str, str]], status: int) -> None:
    player = Player().say(heads("request_headers", REQUEST), body("request_body", PROMPT, True))
    assert player.say(heads("response_headers", fields)).steps[-1].responded.status == status


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        (Settings(response=Watch.USAGE), RESPONSE),
        (Settings(), [(":status", "200"), ("content-type", "application/octet-stream"), ("content-length", "99")]),
        (Settings(), [*RESPONSE, ("content-encoding", "gzip")]),
    ],
)
def test_answers_that_are_not_to_be_changed_keep_bytes_and_length(settings: Settings, fields: Any) -> None:
    player = Player(settings).say(heads("request_headers", REQUEST), body("request_body", PROMPT, True))
    player.say(heads("response_headers", fields), body("response_body", ANSWER, True))
    assert player.proxy.received == ANSWER
    assert dict(player.proxy.response_headers)["content-length"] == b"99"


def test_events_pass_without_delay() -> None:
    player = Player().say(heads("request_headers", REQUEST), body("request_body", PROMPT, True))
    player.say(heads("response_headers", [(":status", "200"), ("content-type", "text/event-stream")]))
    event = b'data: {"model":"m-1","choices":[{"text":"a"}]}\n\n'
    for count in range(1, 4):
        player.say(body("response_body", event))
        assert player.proxy.received == event.replace(b"m-1", b"m") * count


def test_large_bodies_go_on_in_pieces() -> None:
    prompt = b'{"model":"m","prompt":"%b"}' % (b"x" * 300_000)
    player = Player().say(
        heads("request_headers", REQUEST), *told("request_body", pieces(prompt, list(range(0, 300_000, 9000))))
    )
    assert player.proxy.order == ["request_headers", *["request_body"] * 5]
    assert player.proxy.sent == prompt.replace(b'"m"', b'"m-1"')


def test_bodies_beyond_the_limit_are_refused() -> None:
    player = Player(Settings(max_body=10))
    player.say(heads("request_headers", REQUEST), body("request_body", b"x" * 10))
    with pytest.raises(BodyTooLarge):
        player.say(body("request_body", b"x"))


def test_scores_and_limits_are_passed_on() -> None:
    session = Session(Settings(scores=True))
    session.receive(ours(heads("request_headers", REQUEST, end=True)))
    (reply,) = session.routed(
        ["a:1"], "r", extra=[(b"x-ratelimit-limit-requests", b"5")], scores={"a:1": 0.5, "b:1": 0.25}
    )
    scores = theirs(reply).dynamic_metadata["envoy.lb"]["x-gateway-destination-endpoint-scores"]
    assert dict(scores) == {"a:1": 0.5, "b:1": 0.25}
    (reply,) = session.receive(ours(heads("response_headers", RESPONSE))).replies
    (option,) = theirs(reply).response_headers.response.header_mutation.set_headers
    assert (option.header.key, option.header.raw_value) == ("x-ratelimit-limit-requests", b"5")


HEADERS, LAST = heads("request_headers", REQUEST), body("request_body", PROMPT, True)
REPLIED = heads("response_headers", RESPONSE)
STREAMED = heads("request_headers", REQUEST, modes=(Mode.STREAMED, Mode.STREAMED))


@pytest.mark.parametrize(
    "said",
    [
        [HEADERS, HEADERS],
        [LAST],
        [trailers("request_trailers")],
        [HEADERS, LAST, LAST],
        [body("response_body", b"x")],
        [HEADERS, LAST, trailers("response_trailers")],
        [HEADERS, LAST, REPLIED, REPLIED],
        [HEADERS, LAST, REPLIED, body("response_body", b"", True), body("response_body", b"")],
        [HEADERS, body("request_body", PROMPT), trailers("request_trailers"), trailers("request_trailers")],
        [STREAMED, trailers("request_trailers"), body("request_body", b"x")],
        [STREAMED, trailers("request_trailers"), trailers("request_trailers")],
        [heads("request_headers", REQUEST, modes=(5, 4))],  # type: ignore[arg-type]
    ],
)
def test_disorder_is_noticed(said: list[Any]) -> None:
    with pytest.raises(Disorder):
        say_unchecked(said)


def say_unchecked(said: list[Any]) -> None:
    session = Session(Settings())
    for message in said:
        if session.receive(ours(message)).wanted is not None:
            session.routed(["a:1"], "r")


def test_message_without_content_is_disorder() -> None:
    with pytest.raises(Disorder):
        Session(Settings()).receive(ours(trailers("request_trailers").__class__()))


ANYTHING = [
    heads("request_headers", REQUEST),
    heads("request_headers", REQUEST, end=True),
    body("request_body", PROMPT, True),
    body("request_body", b'{"model":'),
    body("request_body", b"", True),
    trailers("request_trailers"),
    heads("response_headers", RESPONSE),
    heads("response_headers", RESPONSE, end=True),
    body("response_body", b'"model'),
    body("response_body", b'":"m-1"', True),
    trailers("response_trailers"),
]


@given(
    st.sampled_from(MODES), st.sampled_from(MODES), st.lists(st.sampled_from(ANYTHING), max_size=10), st.integers(0, 40)
)
def test_whatever_is_said_replies_keep_the_rules(up: Mode, down: Mode, said: list[Any], limit: int) -> None:
    settings = Settings(request_mode=up, response_mode=down, max_body=limit)
    player = Player(settings, modes=(up, down))
    player.proxy.order.append("request_headers")
    decided = 0
    for message in said:
        try:
            player.say(message)
        except (Disorder, BodyTooLarge):
            break
        except ValueError:  # what decides here reads any body as an object
            assert not player.wanted.body.endswith(b"}")
            break
        decided += player.steps[-1].wanted is not None
        assert decided <= 1
        assert sum(step.ended for step in player.steps) <= 1
