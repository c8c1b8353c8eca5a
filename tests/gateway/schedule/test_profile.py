"""A plugin that goes wrong is named, so that its author is asked and not the gateway's."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from gateway.ports import Candidate
from gateway.schedule.ask import Ask
from gateway.schedule.profile import Named, Profile, Weighted
from tests.gateway.schedule.fleet import Fake, ask


def pick(candidates: Sequence[Candidate], scores: Sequence[float]) -> Sequence[Candidate]:
    return candidates


def short(of: Ask, candidates: Sequence[Candidate]) -> Sequence[float]:
    return [1.0]


def odd(of: Ask, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    raise KeyError("price")


def test_a_scorer_that_scores_too_few_is_named() -> None:
    profile = Profile((), (Weighted("cheapest", short),), pick, name="batch")
    with pytest.raises(ValueError, match="1 scores for 2 candidates") as caught:
        list(profile.rank(ask(), [Fake("a"), Fake("b")]))
    assert caught.value.__notes__ == ["raised by the scorer cheapest of the profile batch"]


def test_a_filter_that_fails_is_named() -> None:
    with pytest.raises(KeyError) as caught:
        list(Profile((Named("priced", odd),), (), pick).rank(ask(), [Fake("a"), Fake("b")]))
    assert caught.value.__notes__ == ["raised by the filter priced of the profile default"]
