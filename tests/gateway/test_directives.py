"""How urgent a request is and which model answers it, as objects beside its pool say."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gateway.directives import Directives, Objective, Rewrite, RewriteRule

POOL = "ns/pool"


def to(*targets: str, models: tuple[str, ...] = ()) -> RewriteRule:
    return RewriteRule(models, tuple((target, 1) for target in targets))


def asked(rewrites: list[Rewrite], model: str = "m", pool: str = POOL, chance: float = 0.0) -> str:
    found = Directives(rewrites=rewrites).rewritten(pool, model, chance)
    return "" if found is None else found.model


def test_an_objective_is_known_by_its_name_in_its_pool() -> None:
    directives = Directives(
        [Objective("ns/urgent", POOL, 2), Objective("ns/whenever", POOL, -1), Objective("other/far", "other/pool", 7)]
    )
    priorities = {name: directives.priority(POOL, name) for name in ("urgent", "whenever", "far", "unknown", "")}
    assert priorities == {"urgent": 2, "whenever": -1, "far": 0, "unknown": 0, "": 0}
    assert directives.priority("other/pool", "far") == 7
    assert directives.priority("ns/another", "urgent") == 0


def test_of_two_objectives_of_a_name_the_one_of_before_yields() -> None:
    now, before = Objective("ns/a", POOL, 1), Objective("ns/a", POOL, 9, legacy=True)
    for order in ([now, before], [before, now]):
        assert Directives(order).priority(POOL, "a") == 1
    assert Directives([before]).priority(POOL, "a") == 9


def test_a_rule_that_names_the_model_comes_first_then_the_oldest_object_then_its_first_rule() -> None:
    old = Rewrite("ns/z", POOL, (to("any-old"), to("m-late", models=("x", "m"))), (1.0, 0, ""))
    young = Rewrite(
        "ns/a", POOL, (to("m-young", models=("m",)), to("any-young"), to("m-last", models=("n",))), (2.0, 0, "")
    )
    for order in ([old, young], [young, old]):
        assert asked(order) == "m-late"
        assert asked(order, "n") == "m-last"
        assert asked(order, "whatever") == "any-old"
        assert asked(order, pool="ns/other") == ""
    assert asked([Rewrite("ns/a", POOL, (to("first"), to("second")))]) == "first"


def test_which_object_decided_and_whether_it_meant_the_model() -> None:
    directives = Directives(rewrites=[Rewrite("ns/a", POOL, (to("exact", models=("m",)), to("any")))])
    exact, generic = directives.rewritten(POOL, "m", 0.5), directives.rewritten(POOL, "n", 0.5)
    assert exact is not None
    assert generic is not None
    assert (exact.by, exact.exact, generic.model, generic.exact) == ("ns/a", True, "any", False)
    assert directives.names(POOL, "m")
    assert not directives.names(POOL, "n")


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=6))
def test_shares_are_by_weight(weights: list[int]) -> None:
    targets = tuple((str(index), weight) for index, weight in enumerate(weights))
    directives = Directives(rewrites=[Rewrite("ns/a", POOL, (RewriteRule((), targets),))])
    total = sum(weights)
    found = (directives.rewritten(POOL, "m", (step + 0.5) / total) for step in range(total))
    assert Counter(each.model for each in found if each is not None) == {
        str(index): weight for index, weight in enumerate(weights)
    }
