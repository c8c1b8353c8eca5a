"""The `openai` profile against real llama.cpp: by itself with its deviations."""

from __future__ import annotations

import trio

from conformance.cases import profile
from conformance.cases.engines.deviations import DEVIATIONS
from conformance.suite.outcome import Kind, Result
from conformance.suite.run import Runner
from conformance.suite.target import Setup
from conformance.suite.wire import address
from tests.conformance.cases.playing import told
from tests.engines.llamacpp import LlamaCpp

PROFILE = profile("openai")


async def _run(url: str) -> list[Result]:
    setup = Setup(address(url), engine="llamacpp", model="tiny", models=("tiny",))
    return await Runner(setup, DEVIATIONS["llamacpp"]).run(list(PROFILE), parallel=4)


def test_llamacpp_deviates_as_foretold() -> None:
    with LlamaCpp() as engine:
        results = trio.run(_run, engine.url)
    wrong = [result for result in results if result.kind is Kind.FAILED]
    assert not wrong, told(wrong)
    assert sum(result.kind is Kind.PASSED for result in results) > 130
    assert sum(result.kind is Kind.DEVIATED for result in results) > 20
