"""The grammar of --fail, and which requests a selector takes."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.engines.faults import KINDS, Fault, Faults, parse


@pytest.mark.parametrize(
    ("spec", "kind", "number", "retry_after"),
    [
        ("refuse", "refuse", 0, None),
        ("503", "status", 503, None),
        ("429:2.5", "status", 429, 2.5),
        ("status:500", "status", 500, None),
        ("status=429:1", "status", 429, 1),
        ("stall:3", "stall", 3, None),
        ("cut", "cut", 0, None),
        ("slow:0.5", "slow", 0.5, None),
    ],
)
def test_kinds(spec: str, kind: str, number: float, retry_after: float | None) -> None:
    fault = parse(spec)
    assert (fault.kind, fault.number, fault.retry_after) == (kind, number, retry_after)


@pytest.mark.parametrize(
    "spec", ["", "explode", "200", "cut:x", "refuse:1", "rubbish:xml", "cut@p=2", "cut@every=0", "cut@often", "slow:-1"]
)
def test_what_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="''" if not spec else spec.replace("?", "")):
        parse(spec)


def struck(spec: str, count: int, path: str = "/p", model: str = "m", *, inference: bool = True) -> list[int]:
    faults = Faults([spec], random.Random(1))
    return [at for at in range(1, count + 1) if faults.strike(path, model, inference) is not None]


def test_selectors() -> None:
    assert struck("cut", 3) == [1, 2, 3]
    assert struck("cut@every=3", 9) == [3, 6, 9]
    assert struck("cut@first=2", 9) == [1, 2]
    assert struck("cut@after=2,first=1", 9) == [3]
    assert struck("cut@model=other", 3) == []
    assert struck("cut@path=/p", 2, inference=False) == [1, 2]
    assert struck("cut", 2, inference=False) == []
    assert 200 < len(struck("cut@p=0.3", 1000)) < 400
    assert struck("cut@p=0.3", 50) == struck("cut@p=0.3", 50)


def test_the_first_that_selects_strikes() -> None:
    faults = Faults(["500@every=2", "cut"], random.Random(1))
    kinds = [fault.kind for _ in range(4) if (fault := faults.strike("/p", "m", True))]
    assert kinds == ["cut", "status", "cut", "status"]


@given(st.sampled_from(KINDS), st.text(max_size=8), st.text(max_size=12))
def test_nonsense_is_a_value_error(kind: str, argument: str, selector: str) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(parse(f"{kind}:{argument}@{selector}"), Fault)
