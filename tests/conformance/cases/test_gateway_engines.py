"""Our gateway in front of engines that differ most: the cases to which it matters what is behind, over gRPC, too.

Over HTTP `tests/whole/test_conformance.py` has every engine.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from conformance.cases import profile
from tests.conformance.cases.gated import gated, played
from tests.conformance.cases.playing import well

NO_COMPLETIONS = {
    "gateway.stream.completions": "not offered here",
    "gateway.stream.unicode": "not offered here",
    "grpc.completion": "not offered here",
    "grpc.stream.completion": "not offered here",
}
SKIPPED: dict[str, dict[str, str]] = {
    "tgi": {
        "gateway.stream.unicode": "echo is refused by name",
        "grpc.embedding": "not offered here",
    },
    "deepseek": {
        **NO_COMPLETIONS,
        "grpc.count": "not offered here",
        "grpc.embedding": "not offered here",
    },
}
"""What these engines do not offer: case → words of the reason."""

ALIKE = (
    "http.",
    "auth.",
    "error.",
    "limit.",
    "id.",
    "load.connections",
    "frame.",
    "h2.",
    "health",
    "reflection",
    "refuse.",
)
"""Cases, or beginnings of them, in which no engine has a part."""


@pytest.mark.parametrize("kind", SKIPPED)
def test_our_gateway_passes_all_cases_whatever_is_behind(tmp_path: Path, kind: str) -> None:
    cases = [case for name in ("gateway", "grpc") for case in profile(name)]
    cases = [case for case in cases if not case.id.partition(".")[2].startswith(ALIKE)]
    with gated(tmp_path, kind) as setup:
        hasty = {name: value for name, value in setup.extra.items() if name != "first_token_timeout"}
        results = played(msgspec.structs.replace(setup, extra=hasty), *cases)
    well(results, {**SKIPPED[kind], "gateway.failover.hang": "needs"})
