"""The `openai` profile against every simulated engine: what fails is foretold, and what is foretold fails."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest

from conformance.cases import profile
from conformance.cases.engines.deviations import DEVIATIONS
from conformance.suite.outcome import Kind
from tests.conformance.cases.playing import Stage, told

PROFILE = profile("openai")
ROOTS = {"gemini": "/v1beta/openai"}
ONLY_REAL = {
    "gemini": {"openai.chat.usage", "openai.n.usage"},
    "vllm": {"openai.errors.not-object", "openai.responses.text", "openai.responses.incomplete"},
    "llamacpp": {"openai.connections.after-*", "openai.completions.prompts-stream", "openai.prompts.image"},
}
"""Deviations of real servers that the simulated ones do not show."""


@pytest.mark.parametrize("engine", DEVIATIONS)
def test_deviations_are_those_foretold(engine: str) -> None:
    deviations = DEVIATIONS[engine]
    results = Stage(PROFILE, engine, root=ROOTS.get(engine, ""), deviations=deviations).play()
    assert not [r for r in results if r.kind is Kind.FAILED], told(r for r in results if r.kind is Kind.FAILED)
    deviated = [r.case for r in results if r.kind is Kind.DEVIATED]
    idle = {pattern for pattern in deviations if not any(fnmatchcase(case, pattern) for case in deviated)}
    assert idle <= ONLY_REAL.get(engine, set()), f"foretold, but does not happen: {sorted(idle)}"
    assert sum(r.kind is Kind.PASSED for r in results) > 100
