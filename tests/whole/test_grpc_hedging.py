"""Hedging as gRPC clients have it: two engines side by side, one of which keeps silent."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import grpc
import pytest

from tests.faults.stage import held, unharmed
from tests.process import InferGateway, eventually, serve, simulate, together
from tests.whole.fleet import POOL, settings, written
from tests.whole.test_grpc import chat, stream, streamed, unary
from tests.whole.test_hedging import counted, metrics, troubled

MODEL: Final = "m"
WARM: Final = 40
"""More than has to be known of a kind of requests before any is hedged."""
Engines: TypeAlias = tuple[InferGateway, InferGateway]
SILENT: Final = "slow:60@path=/v1/chat/completions"


class Stage:
    """A gateway, its two engines, and what it has written of its requests."""

    def __init__(self, gateway: InferGateway, channel: grpc.Channel, engines: Engines, log: Path) -> None:
        self.gateway = gateway
        self.engines = engines
        self._channel = channel
        self._log = log
        self._question = WARM

    def begun(self, kind: str, n: int | None = None, timeout: float = 30.0, id: str = "") -> Any:
        """A call that is under way, with the question that `troubled` has asked."""
        asked = {"text": f"{self._question if n is None else n} is the question. " * 60}
        metadata = [("x-request-id", id)] if id else []
        if kind == "whole":
            return unary(self._channel, "CreateChatCompletion").future(chat(**asked), timeout, metadata)
        return stream(self._channel, "StreamChatCompletion")(streamed(**asked), timeout, metadata)

    def whole(self, n: int | None = None, **more: Any) -> str:
        """The text of a whole answer."""
        answer = self.begun("whole", n, **more).result()
        assert answer.choices[0].finish_reason
        return str(answer.choices[0].message.content)

    def streamed(self, n: int | None = None, **more: Any) -> str:
        """The text of a stream that has one beginning and one end."""
        pieces = list(self.begun("streamed", n, **more))
        choices = [choice for piece in pieces for choice in piece.choices]
        assert sum(choice.delta.role == "assistant" for choice in choices) == 1
        assert sum(bool(choice.finish_reason) for choice in choices) == 1
        return "".join(choice.delta.content for choice in choices)

    def hedged(self, outcome: str) -> float:
        return counted(metrics(self.gateway), "infer_gateway_hedges_total", outcome=outcome)

    def lines(self, **members: object) -> list[dict[str, Any]]:
        """What the access log has of such requests."""
        found = map(json.loads, self._log.read_text().splitlines())
        return [line for line in found if all(line.get(name) == value for name, value in members.items())]

    def troubled(self, *faults: str, other: Sequence[str] = ()) -> tuple[str, str]:
        """Faults of the engine that is asked first, for it knows the question, and of the other: which they are."""
        troubled(self.engines)
        self._question += 1
        seen = len(self.lines())
        self.streamed()
        assert eventually(lambda: len(self.lines()) > seen)
        chosen = str(self.lines()[-1]["endpoint"])
        first, second = sorted(self.engines, key=lambda engine: not engine.url.endswith(chosen))
        troubled([first], *faults)
        troubled([second], *other)
        return chosen, second.url.removeprefix("http://")

    def hedge(
        self, outcome: str, kind: str, *faults: str, other: Sequence[str] = ()
    ) -> tuple[dict[str, Any], str, str]:
        """The line of a request whose hedge ended so, the engine with these faults, and the other. What an engine knows
        is not all that it is chosen by: a request may have gone to the other.
        """
        before = self.hedged(outcome)
        for n in range(20):
            chosen, second = self.troubled(*faults, other=other)
            request_id = f"{outcome}-{kind}-{n}"
            assert getattr(self, kind)(id=request_id)
            if self.hedged(outcome) > before:
                break
        assert self.hedged(outcome) == before + 1
        assert eventually(lambda: bool(self.lines(id=request_id)))
        (line,) = self.lines(id=request_id)
        return line, chosen, second


@contextmanager
def staged(directory: Path, engines: Engines, budget: float, *kinds: str) -> Iterator[Stage]:
    """A gateway that knows how long answers of these kinds take. ``budget``: what hedges may cost."""
    troubled(engines)
    log = directory / "access.jsonl"
    server = {"model": MODEL, "inferenceEngine": "vLLM", "endpoints": [engine.url for engine in engines]}
    route = {"modelName": MODEL, "hedging": True, "rules": [{"targetModels": [{"modelServerName": MODEL}]}]}
    config = written(
        directory,
        settings(
            hedging={"quantile": 0.5, "minDelay": "100ms", "budget": budget},
            health={"ejection": {"maxShare": 0}},
            accessLog={"requests": "all", "file": str(log)},
        ),
        POOL.format(name=MODEL, server=json.dumps(server), route=json.dumps(route)),
    )
    with serve("--config", config) as gateway, grpc.insecure_channel(gateway.ready["grpc"]) as channel:
        stage = Stage(gateway, channel, engines, log)
        with ThreadPoolExecutor(8) as pool:
            for kind in kinds:
                list(pool.map(getattr(stage, kind), range(WARM)))
        yield stage


@pytest.fixture(scope="module")
def engines() -> Iterator[Engines]:
    one, two = (simulate("vllm", MODEL, "--ttft", "0.02", "--itl", "0.001", "--seed", str(n)) for n in range(2))
    with together(one, two):
        yield one, two


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, engines: Engines) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("hedging"), engines, 1.0, "whole", "streamed") as stage:
        yield stage


KINDS: Final = pytest.mark.parametrize("kind", ["whole", "streamed"])


@KINDS
def test_who_keeps_silent_is_overtaken_and_cut(stage: Stage, kind: str) -> None:
    with unharmed(stage.gateway, bystander=False):  # the other engine's connection, too, long before it would answer
        line, silent, quick = stage.hedge("won", kind, SILENT)
    assert (line["status"], line["hedge"], line["attempts"], line["protocol"]) == (200, "won", 2, "grpc")
    assert (line["endpoint"], line["beside"]) == (quick, silent)


@KINDS
def test_who_was_only_late_answers_and_the_other_is_cut(stage: Stage, kind: str) -> None:
    with unharmed(stage.gateway, bystander=False):
        line, late, silent = stage.hedge("lost", kind, "slow:0.4", other=[SILENT])
    assert (line["status"], line["hedge"], line["attempts"]) == (200, "lost", 2)
    assert (line["endpoint"], line["beside"]) == (late, silent)


@KINDS
@pytest.mark.parametrize("leaving", ["deadline", "cancel"])
def test_both_are_cut_when_nobody_waits_any_longer(stage: Stage, kind: str, leaving: str) -> None:
    before = stage.hedged("left")
    with unharmed(stage.gateway, bystander=False):
        stage.troubled(SILENT, other=[SILENT])
        if leaving == "deadline":
            with pytest.raises(grpc.RpcError) as raised:
                getattr(stage, kind)(timeout=0.4)
            assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        else:
            call = stage.begun(kind)
            assert eventually(lambda: held(stage.gateway)["inflight"] == 2)
            call.cancel()
    assert stage.hedged("left") == before + 1


def test_without_budget_the_first_is_waited_for(tmp_path: Path, engines: Engines) -> None:
    with staged(tmp_path, engines, 0.0001, "whole") as stage, unharmed(stage.gateway, bystander=False):
        line, late, _ = stage.hedge("no_budget", "whole", "slow:0.4")
        assert (line["status"], line["endpoint"], line["attempts"], line.get("hedge", "")) == (200, late, 1, "")
        assert counted(metrics(stage.gateway), "infer_gateway_hedge_tokens_total") == 0
