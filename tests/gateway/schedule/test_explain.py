"""What a decision says of itself, in a header and kept."""

from __future__ import annotations

import json
import math
import re

from hypothesis import given
from hypothesis import strategies as st

from gateway.schedule.explain import SHOWN, Decisions, Explanation
from tests.gateway.schedule.fleet import Fake, ask


def explained(model: str, count: int, score: float = 0.5) -> Explanation:
    asked = ask("x" * 100, model=model)
    explanation = Explanation(asked, "default/pool", "")
    fakes = [Fake(f"{index}.endpoint.with.a.long.name.example:8000") for index in range(count)]
    explanation.filtered("least-request", [*fakes, *(Fake(f"gone-{index}") for index in range(count))], fakes)
    explanation.scored("cost", [score] * count)
    explanation.weighed(asked, fakes, [score] * count, [])
    return explanation


@given(st.text(), st.sampled_from([1, 8, 512]), st.sampled_from([0.5, math.nan, math.inf]))
def test_a_header_holds_nothing_but_printable_ascii_and_is_not_long(model: str, count: int, score: float) -> None:
    field = explained(model, count, score).as_field()
    assert re.fullmatch(rb"[ -~]+", field)
    assert len(field) <= 6000
    said = json.loads(field)
    assert said["model"] == model
    assert said["candidates"]


def test_what_is_kept_is_bounded_whatever_the_request() -> None:
    kept = explained("m" * 1_000_000, 512).as_json()
    assert len(kept["model"]) == 256
    assert len(kept["candidates"]) == len(kept["leftOut"]) == SHOWN
    decisions = Decisions(size=3)
    for index in range(5):
        decisions.keep(explained(f"m{index}", 1))
    assert [decision["model"] for decision in decisions.newest(2)] == ["m4", "m3"]
    assert decisions.newest(50, "another") == []
    assert len(decisions.newest(50, "req")) == 3
