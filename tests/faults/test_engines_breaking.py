"""Engines that break in every phase of an answer and in every way a connection can, asked by every protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults import engines
from tests.faults.clients import PROTOCOLS, Outcome, means
from tests.faults.engines import TEXT, Engine, acting, breaking
from tests.faults.stage import CALM, unharmed
from tests.process import InferGateway, serve, simulate
from tests.whole.fleet import pool, settings, written

STREAMED = ("nothing", "half a head", "head", "role", "half", "half an event", "finished", "done")
WHOLE = ("nothing", "half a head", "head", "half", "all but the last")
SHOWN = ("half", "half an event", "finished", "done")
"""Phases of a stream in which the client has seen a token."""
CASES = [
    pytest.param(protocol, phase, trouble, id=f"{protocol}-{phase}-{trouble}")
    for protocol in PROTOCOLS
    for phase in (STREAMED if "streamed" in protocol else WHOLE)
    for trouble in engines.TROUBLES
    if trouble != "falls silent"
]
UNSEEN = ("babbles", "resets")
"""What can take with it what came just before."""
SETTINGS = settings(
    timeouts={"betweenTokens": "300ms", "connect": "1s"},
    retry={"attempts": 3, "budget": 1},
    health={"consecutiveFailures": 100000, "ejection": {"maxShare": 0}, "slowStart": 0},
)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with acting() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferGateway]:
    with simulate("vllm", CALM) as calm:
        both = [f"{engine.url}/a", f"{engine.url}/b"]
        hasty = {"timeout": "400ms"}
        file = written(
            tmp_path_factory.mktemp("breaking"),
            pool(CALM, [calm], model=CALM),
            pool("solo", [], endpoints=both[:1], trafficPolicy=hasty),
            pool("pair", [], endpoints=both, trafficPolicy=hasty),
            SETTINGS,
        )
        with serve("-c", file) as running:
            yield running


@pytest.fixture(autouse=True)
def peace(gateway: InferGateway) -> Iterator[None]:
    with unharmed(gateway):
        yield


@pytest.mark.parametrize(("protocol", "phase", "trouble"), CASES)
def test_alone(gateway: InferGateway, engine: Engine, protocol: str, phase: str, trouble: str) -> None:
    engine.then(breaking(phase, trouble))
    judge(PROTOCOLS[protocol](gateway, "solo"), protocol, phase, trouble)
    assert len(engine.asked) == 1


@pytest.mark.parametrize("phase", STREAMED)
def test_silence_by_all_protocols_at_once(gateway: InferGateway, engine: Engine, phase: str) -> None:
    """Who has asked an engine that falls silent is told so in time, whoever else could be asked."""
    asking = [name for name in PROTOCOLS if phase in (STREAMED if "streamed" in name else WHOLE)]
    engine.then(*[breaking(phase, "falls silent")] * len(asking))
    with ThreadPoolExecutor(len(asking)) as threads:
        outcomes = list(threads.map(lambda name: PROTOCOLS[name](gateway, "pair"), asking))
    for protocol, outcome in zip(asking, outcomes, strict=True):
        judge(outcome, protocol, phase, "falls silent")
    assert len(engine.asked) == len(asking)


@pytest.mark.parametrize(("protocol", "phase", "trouble"), [case for case in CASES if "messages" not in case.id])
def test_beside_one_that_is_well(
    gateway: InferGateway, engine: Engine, protocol: str, phase: str, trouble: str
) -> None:
    engine.then(breaking(phase, trouble))
    outcome = PROTOCOLS[protocol](gateway, "pair")
    if len(engine.asked) == 2:
        assert (outcome.kind, outcome.text) == ("whole", TEXT)
        first, second = engine.asked
        assert first.path != second.path
        assert json.loads(first.body) == json.loads(second.body)
        assert not shown(protocol, phase) or trouble in UNSEEN
        return
    judge(outcome, protocol, phase, trouble)
    assert len(engine.asked) == 1
    assert shown(protocol, phase) or not_understood(protocol, phase, trouble)


def shown(protocol: str, phase: str) -> bool:
    """Whether the client has seen a token, after which nobody else can be asked."""
    return "streamed" in protocol and phase in SHOWN


def not_understood(protocol: str, phase: str, trouble: str) -> bool:
    """Whether it is the answer that is wrong and not its framing: the same would be asked of another engine."""
    return trouble == "babbles" and "streamed" not in protocol and phase in ("head", "half", "all but the last")


def judge(outcome: Outcome, protocol: str, phase: str, trouble: str) -> None:
    """What a client has to be told where nobody can help."""
    if outcome.kind == "whole":
        assert phase in ("finished", "done")
        assert outcome.text == TEXT
        return
    assert means(outcome, "upstream_timeout" if trouble == "falls silent" else "upstream_error"), outcome
    assert phase != "done" or trouble in UNSEEN, outcome
    assert TEXT.startswith(outcome.text)
    if shown(protocol, phase) and trouble not in UNSEEN:
        assert outcome.kind == "broken"
        assert outcome.text == (TEXT if phase == "finished" else "one two")
        assert phase == "finished" or not outcome.finished
    elif outcome.kind == "refused":
        assert outcome.status in (502, 504, "UNAVAILABLE", "DEADLINE_EXCEEDED")
    else:  # the role is shown by itself after a while
        assert phase == "role" or trouble in UNSEEN
