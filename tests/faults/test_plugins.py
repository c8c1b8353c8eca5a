"""What others have written and the gateway runs: a bug in it ends the request that met it, by an error with the
request's id, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.faults.stage import CALM, unharmed
from tests.faults.troublesome import install
from tests.process import InferGateway, eventually, serve, simulate, together
from tests.whole import raw
from tests.whole.fleet import CHAT, endpoints, pool, settings, wait_scraped, written

CHOOSING = ("filter", "filter-strings", "filter-strangers", "filter-none", "scorer", "scorer-short", "placed")
FORGIVEN = ("scorer-words", "scorer-nan", "scorer-infinite", "scorer-slow", "left")
SPEAKING = ("encode", "decoder", "feed", "finish", "error", "feed-later", "progress", "ended")
STREAMS = ("feed-later", "progress", "ended")
"""Of those, where only streams get."""


class Stage(NamedTuple):
    gateway: InferGateway
    places: Path

    @contextmanager
    def failing(self, place: str) -> Iterator[None]:
        (self.places / place).touch()
        yield
        (self.places / place).unlink()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    directory = tmp_path_factory.mktemp("troublesome")
    places, site = directory / "places", directory / "site"
    places.mkdir()
    site.mkdir()
    install(site)
    chosen = {
        "plugins": {"Filter": {"enabled": ["choosing"]}, "Score": {"enabled": [{"name": "choosing"}]}},
        "picker": "choosing",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(site))
        patch.setenv("TROUBLE", str(places))
        calm, *two = engines = [simulate("vllm", "m", "--itl", "0.01") for _ in range(3)]
        with together(*engines):
            config = written(
                directory,
                pool(CALM, [calm]),
                pool("chosen", two, schedulingProfile="odd"),
                pool("spoken", two, kind="breaking"),
                settings(scheduler={"profiles": {"odd": chosen}}, fairness={"enabled": True}),
            )
            with serve("-c", config) as gateway:
                gateway.bugs = True
                wait_scraped(gateway)
                yield Stage(gateway, places)


def ask(stage: Stage, model: str, place: str, *, stream: bool) -> raw.Answer:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 50, "stream": stream}
    headers = (f"x-trouble: {place}", f"x-request-id: id-{place}-{stream}")
    answer = raw.exchange(stage.gateway.address, raw.post(CHAT, body, *headers, "connection: close"))
    assert answer is not None, "the connection was cut"
    return answer


def failed(stage: Stage, answer: raw.Answer, id: str) -> None:
    """By one error, whole, in the protocol's own words, which names the request; the log has the rest."""
    assert answer.headers["x-request-id"] == id
    if answer.headers["content-type"].startswith("text/event-stream"):
        told = json.loads(raw.events(answer.body)[-1])
    else:
        assert answer.status == 500, answer
        told = json.loads(answer.body)
    assert answer.whole
    assert id in told["error"]["message"]
    assert told["error"]["type"] == "server_error"
    assert f"request {id} failed unexpectedly" in stage.gateway.stderr


@pytest.mark.parametrize("place", CHOOSING)
def test_a_plugin_that_fails(stage: Stage, place: str) -> None:
    for stream in (False, True):
        with unharmed(stage.gateway):
            answer = ask(stage, "chosen", place, stream=stream)
        failed(stage, answer, f"id-{place}-{stream}")


@pytest.mark.parametrize("place", FORGIVEN)
def test_a_plugin_that_is_only_odd_or_fails_when_all_is_done(stage: Stage, place: str) -> None:
    for stream in (False, True):
        with unharmed(stage.gateway):
            answer = ask(stage, "chosen", place, stream=stream)
        assert (answer.status, answer.whole) == (200, True), answer
        assert not stream or raw.events(answer.body)[-1] == "[DONE]"


@pytest.mark.parametrize(
    "place", ["picker", "picker-strangers", "loaded", "forget", "ration", "parse_load", "parse_models"]
)
def test_one_that_fails_for_everybody_fails_its_own_pool_at_most(stage: Stage, place: str) -> None:
    model = "chosen" if place in ("picker", "picker-strangers", "loaded", "forget") else "spoken"
    with unharmed(stage.gateway), stage.failing(place):
        for stream in (False, True):
            answer = ask(stage, model, "", stream=stream)
            assert answer.whole
            assert answer.status in (200, 500), answer
            if place in ("loaded", "forget", "parse_load", "parse_models"):
                assert answer.status == 200, answer
    # and it is back as if nothing had been
    assert eventually(lambda: ask(stage, model, "", stream=False).status == 200)
    assert eventually(lambda: all(shown["state"] == "ready" for shown in endpoints(stage.gateway).values()))


@pytest.mark.parametrize("place", SPEAKING)
def test_an_adapter_that_fails(stage: Stage, place: str) -> None:
    for stream in (True,) if place in STREAMS else (False, True):
        with unharmed(stage.gateway):
            answer = ask(stage, "spoken", place, stream=stream)
        failed(stage, answer, f"id-{place}-{stream}")
        assert "[DONE]" not in answer.body.decode()
        if place == "feed-later":
            assert len(raw.events(answer.body)) > 2


@pytest.mark.parametrize("place", ["tokens", "usage"])
def test_an_adapter_that_cannot_say_what_came_of_an_answer(stage: Stage, place: str) -> None:
    for stream in (False, True):
        with unharmed(stage.gateway):
            answer = ask(stage, "spoken", place, stream=stream)
        assert (answer.status, answer.whole) == (200, True), answer


def test_nobody_notes_what_becomes_of_requests(stage: Stage) -> None:
    with unharmed(stage.gateway), stage.failing("noting"):
        for stream in (False, True):
            answer = ask(stage, "spoken", "", stream=stream)
            assert (answer.status, answer.whole) == (200, True), answer
    assert "is not noted" in stage.gateway.stderr
