"""Published prefix plugins: who is believed to hold what, and since when."""

from __future__ import annotations

import pytest

from gateway.config.decode import Section
from gateway.ports import Scorer
from gateway.schedule.ask import Ask
from gateway.schedule.reuse import NoHitLRU, PrefixCache, PrefixCacheAffinity, PrefixCacheScorer
from gateway.types import Load, Usage
from tests.gateway.schedule.fleet import Fake, ask, ids, parts

A, B, C = FLEET = [Fake("a"), Fake("b"), Fake("c")]


def text(seed: str, blocks: int, size: int = 64) -> str:
    """Blocks that differ from each other and from those of other seeds."""
    return "".join(f"{seed}{block}".ljust(size, ".") for block in range(blocks))


def scorer(plugin: Section) -> Scorer:
    return plugin.scorer(parts())  # type: ignore[attr-defined, no-any-return]


def placed(learner: object, of: Ask, candidate: Fake) -> None:
    learner.placed(of, candidate)  # type: ignore[attr-defined]


def test_matched_blocks_as_a_share_of_the_prompts() -> None:
    score = scorer(PrefixCache())
    assert score(ask(text("x", 4)), FLEET) == [0.0, 0.0, 0.0]
    placed(score, ask(text("x", 4)), A)
    placed(score, ask(text("x", 1)), B)
    of = ask(text("x", 8))
    assert score(of, FLEET) == [0.5, 0.125, 0.0]
    assert of.hits == {"a": 64.0, "b": 16.0}
    assert score(ask(text("x", 4)), FLEET) == [1.0, 0.25, 0.0]
    assert score(ask(text("x", 4), model="other"), FLEET) == [0.0, 0.0, 0.0]


def test_the_last_block_may_be_short() -> None:
    score = scorer(PrefixCache())
    placed(score, ask("Hello"), A)
    assert score(ask("Hello"), FLEET) == [1.0, 0.0, 0.0]
    assert score(ask("Hello you"), FLEET) == [0.0, 0.0, 0.0]


def test_only_the_first_blocks_of_a_prompt_are_looked_at() -> None:
    score = scorer(PrefixCache(max_blocks_to_match=4))
    placed(score, ask(text("x", 4) + text("y", 100)), A)
    assert score(ask(text("x", 4) + text("z", 100)), FLEET) == [1.0, 0.0, 0.0]


def test_only_the_longest_matches_count() -> None:
    score = scorer(PrefixCache(top_k_matches=1))
    placed(score, ask(text("x", 4)), A)
    placed(score, ask(text("x", 4)), C)
    placed(score, ask(text("x", 2)), B)
    assert score(ask(text("x", 4)), FLEET) == [1.0, 0.0, 1.0]
    assert score(ask(text("x", 4)), [B]) == [0.5]


def test_what_is_kept_is_bounded() -> None:
    score = scorer(PrefixCache(max_hash_cache_size=10))
    for seed in "pqrs":
        placed(score, ask(text(seed, 4)), A)
    assert score(ask(text("p", 4)), FLEET)[0] == 0.0
    assert score(ask(text("s", 4)), FLEET)[0] == 1.0


def test_an_engine_that_has_room_for_less_is_believed() -> None:
    score = scorer(PrefixCache())
    placed(score, ask(text("x", 4)), A)
    score.loaded(Fake("a", Load(blocks=4, block_size=16)))  # type: ignore[attr-defined]
    placed(score, ask(text("y", 4)), A)
    assert [score(ask(text(seed, 4)), FLEET)[0] for seed in "xy"] == [0.0, 1.0]
    score.loaded(Fake("a"))  # type: ignore[attr-defined]


def test_what_failed_or_restarted_holds_nothing() -> None:
    score = scorer(PrefixCache())
    kept, failed = ask(text("x", 2)), ask(text("x", 4))
    placed(score, kept, A)
    placed(score, failed, A)
    score.left(kept, A, Usage(10, 10))  # type: ignore[attr-defined]
    score.left(failed, A, None)  # type: ignore[attr-defined]
    assert score(ask(text("x", 4)), FLEET) == [0.5, 0.0, 0.0]
    score.left(failed, B, None)  # type: ignore[attr-defined]
    score.forget("a")  # type: ignore[attr-defined]
    assert score(ask(text("x", 4)), FLEET) == [0.0, 0.0, 0.0]


# --- the reference picker's -------------------------------------------------------------------------------------------


def test_blocks_are_tokens_and_64_of_them_at_least() -> None:
    assert PrefixCacheScorer().cut().size == 256
    assert PrefixCacheScorer(block_size_tokens=128).cut().size == 512
    assert (
        PrefixCacheScorer(hash_block_size=64, max_prefix_tokens_to_match=0, max_prefix_blocks_to_match=9).cut().limit
        == 9
    )
    assert PrefixCacheScorer(max_prefix_tokens_to_match=640).cut().limit == 10


def test_the_length_of_a_match_may_count_beside_its_share() -> None:
    score = scorer(PrefixCacheScorer(match_length_weight=0.5, match_length_scale_tokens=512))
    placed(score, ask(text("x", 4, 256)), A)
    of = ask(text("x", 8, 256))
    # 4 of 8 blocks, 256 of 512 tokens
    assert score(of, FLEET) == pytest.approx([0.5 * 0.25 + 0.5 * 0.5, 0.0, 0.0])
    assert scorer(PrefixCacheScorer())(of, FLEET) == [0.0, 0.0, 0.0]


def test_engines_tell_how_much_they_hold_only_where_they_may() -> None:
    for auto, expected in ((True, 0.0), (False, 1.0)):
        score = scorer(PrefixCacheScorer(auto_tune=auto))
        placed(score, ask(text("x", 4, 256)), A)
        score.loaded(Fake("a", Load(blocks=16, block_size=16)))  # type: ignore[attr-defined]
        placed(score, ask(text("y", 4, 256)), A)
        assert score(ask(text("x", 4, 256)), FLEET)[0] == expected


def test_holders_of_a_prompt_keep_it() -> None:
    keep = PrefixCacheAffinity().filter(parts())
    of = ask(text("x", 10, 256))
    assert keep(of, FLEET) is FLEET
    placed(keep, ask(text("x", 8, 256)), A)
    placed(keep, ask(text("x", 7, 256)), B)
    assert ids(keep(of, FLEET)) == ["a"]
    assert ids(keep(of, [B, C])) == ["b", "c"]


def test_holders_that_are_too_busy_do_not() -> None:
    keep = PrefixCacheAffinity(max_ttft_penalty_ms=1000, peak_prefill_throughput=1000).filter(parts())
    of = ask(text("x", 10, 256))  # 640 tokens, all but one of them held
    placed(keep, of, A)
    assert ids(keep(of, [Fake("a", backlog=1500.0), B])) == ["a"]
    assert ids(keep(of, [Fake("a", backlog=1700.0), B])) == ["a", "b"]


def test_now_and_then_others_are_explored() -> None:
    keep = PrefixCacheAffinity(exploration_probability=0.3).filter(parts())
    of = ask(text("x", 10, 256))
    placed(keep, of, A)
    explored = sum(len(keep(of, FLEET)) == 3 for _ in range(1000))
    assert 240 < explored < 360


def test_cold_prompts_go_round() -> None:
    score = scorer(NoHitLRU())
    assert score(ask(), FLEET) == [1.0, 0.5, 0.0]
    placed(score, ask(), A)
    placed(score, ask(), B)
    assert score(ask(), FLEET) == [0.5, 0.0, 1.0]
    placed(score, ask(), A)
    assert score(ask(), FLEET) == [0.0, 0.5, 1.0]
    assert score(ask(), [A]) == [1.0]
    score.forget("a")  # type: ignore[attr-defined]
    assert score(ask(), [A, B]) == [1.0, 0.0]


def test_warm_prompts_do_not() -> None:
    score, warm = scorer(NoHitLRU()), ask("x" * 100)
    warm.hits = {"a": 10.0}
    assert score(warm, FLEET) == [0.5, 0.5, 0.5]
    placed(score, warm, A)
    assert score(ask(), FLEET) == [1.0, 0.5, 0.0]
