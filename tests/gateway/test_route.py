"""Routing: who is matched, who is picked, who stays where they are."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.entrance import NOWHERE, Entrance, Inlet, Parent
from gateway.errors import ModelNotFound, NoEndpoints
from gateway.expression import Expression
from gateway.route import FEW, Match, Route, RouteTable, Rule, Share, Sticky, Target, TextMatch, _by_name
from gateway.types import Headers, ModelCard

CHAT = "/v1/chat/completions"


def pool(table: RouteTable, model: str, headers: Headers = (), path: str = CHAT, chance: float = 0.0) -> str | None:
    try:
        return table.match(model, path, headers, chance).pool
    except ModelNotFound:
        return None


def route(name: str, model: str = "m", *rules: Rule, **more: object) -> Route:
    return Route(name, model, rules=rules or (Rule((Share(name),)),), **more)  # type: ignore[arg-type]


def rule(where: str, **match: object) -> Rule:
    return Rule((Share(where),), match=Match(**match))  # type: ignore[arg-type]


def test_unknown_model() -> None:
    table = RouteTable([route("a")])
    with pytest.raises(ModelNotFound) as caught:
        table.match("nope", CHAT, (), 0.5)
    assert caught.value.status == 404
    assert caught.value.param == "model"


@pytest.mark.parametrize(
    ("match", "text", "holds"),
    [
        (TextMatch(exact="a"), "a", True),
        (TextMatch(exact="a"), "A", False),
        (TextMatch(exact="a"), "ab", False),
        (TextMatch(prefix="a"), "ab", True),
        (TextMatch(prefix="a"), "ba", False),
        (TextMatch(prefix=""), "", True),
        (TextMatch(regex=Expression("b+", whole=False)), "abbc", True),
        (TextMatch(regex=Expression("^b+$", whole=False)), "abbc", False),
        (TextMatch(), "anything", True),
        (TextMatch(exact="a", prefix="b"), "b", False),  # exact decides
        (TextMatch(prefix="b", regex=Expression("a", whole=False)), "a", False),  # prefix decides
        (TextMatch(exact=""), "", True),
    ],
)
def test_text_match(match: TextMatch, text: str, holds: bool) -> None:
    assert match.holds(text) is holds


@pytest.mark.parametrize(
    ("headers", "path", "wanted"),
    [
        ([(b"user-type", b"premium")], CHAT, "big"),
        ([(b"user-type", b"free")], CHAT, "small"),
        ([], CHAT, "small"),
        ([(b"user-type", b"premium"), (b"user-type", b"free")], CHAT, "big"),  # the first line counts
        ([(b"user-type", b"premium")], "/v1/completions", "legacy"),
    ],
)
def test_rules_go_in_order(headers: Headers, path: str, wanted: str) -> None:
    table = RouteTable(
        [
            route(
                "r",
                "m",
                rule("legacy", uri=TextMatch(exact="/v1/completions")),
                rule("big", headers=((b"user-type", TextMatch(exact="premium")),)),
                Rule((Share("small"),)),
            )
        ]
    )
    assert pool(table, "m", headers, path) == wanted


@pytest.mark.parametrize("others", [0, FEW, 10_000])
def test_of_fields_the_first_counts_however_many_there_are(others: int) -> None:
    both = ((b"a", TextMatch(exact="1")), (b"b", TextMatch(exact="")))
    table = RouteTable([route("r", "m", rule("x", headers=both))])
    more = [(b"x-%d" % n, b"v") for n in range(others)]
    assert pool(table, "m", [*more, (b"a", b"1"), (b"a", b"2")]) == "x"
    assert pool(table, "m", [*more, (b"a", b"2"), (b"a", b"1")]) is None
    assert pool(table, "m", [*more, (b"a", b"1"), (b"b", b"2")]) is None


def test_all_parts_of_a_match_have_to_hold() -> None:
    table = RouteTable(
        [route("r", "m", rule("x", headers=((b"a", TextMatch(exact="1")),), uri=TextMatch(prefix="/v1/"), model="m"))]
    )
    assert pool(table, "m", [(b"a", b"1")]) == "x"
    assert pool(table, "m", [(b"a", b"2")]) is None
    assert pool(table, "m", [(b"a", b"1")], "/tokenize") is None


def test_body_model_tells_loras_apart() -> None:
    first = rule("x", model="lora-1")
    table = RouteTable([Route("r", loras=("lora-1", "lora-2"), rules=(first, Rule((Share("y"),))))])
    assert pool(table, "lora-1") == "x"
    assert pool(table, "lora-2") == "y"


def test_candidates_go_by_age_then_version_then_name() -> None:
    def table(*ages: tuple[str, tuple[float, int, str]]) -> str | None:
        return pool(RouteTable([route(name, age=age) for name, age in ages]), "m")

    assert table(("a", (2.0, 0, "")), ("b", (1.0, 0, ""))) == "b"
    assert table(("a", (1.0, 10, "10")), ("b", (1.0, 9, "9"))) == "b"
    assert table(("b", (1.0, 0, "")), ("a", (1.0, 0, ""))) == "a"


def test_a_route_without_a_holding_rule_is_passed_over() -> None:
    never = rule("never", headers=((b"x", TextMatch(exact="1")),))
    table = RouteTable([route("a", "m", never), route("b")])
    assert pool(table, "m") == "b"
    assert pool(table, "m", [(b"x", b"1")]) == "never"


def test_base_models_come_before_loras() -> None:
    lora = Route("a", "base", ("tuned",), (Rule((Share("lora-pool", model="base-upstream"),)),))
    assert RouteTable([lora]).match("tuned", CHAT, (), 0) == Target("lora-pool", None, (), "a", "0")
    assert RouteTable([lora]).match("base", CHAT, (), 0).model == "base-upstream"
    owner = route("b", "tuned")
    assert pool(RouteTable([lora, owner]), "tuned") == "b"


def test_a_base_route_that_does_not_hold_is_not_replaced_by_a_lora() -> None:
    owner = route("b", "tuned", rule("never", model="other"))
    assert pool(RouteTable([Route("a", loras=("tuned",), rules=(Rule((Share("l"),)),)), owner]), "tuned") is None


def test_other_targets_are_fallbacks_in_their_order() -> None:
    shares = (Share("a", 50, "A"), Share("b", 50, "B"), Share("spare", 0, "S"))
    table = RouteTable([route("r", "m", Rule(shares))])
    first = table.match("m", CHAT, (), 0.0)
    assert [first.pool, *(t.pool for t in first.fallbacks)] == ["a", "b", "spare"]
    second = table.match("m", CHAT, (), 0.99)
    assert [second.pool, *(t.pool for t in second.fallbacks)] == ["b", "a", "spare"]
    assert [(t.model, t.fallbacks) for t in second.fallbacks] == [("A", ()), ("S", ())]


def test_a_weight_of_zero_is_never_picked() -> None:
    table = RouteTable([route("r", "m", Rule((Share("off", 0), Share("on", 1), Share("off2", 0))))])
    for chance in (0.0, 0.5, 1 - 2**-53):
        assert pool(table, "m", chance=chance) == "on"


weights = st.lists(st.integers(0, 100), min_size=1, max_size=16).filter(any)


def split(shares: list[int], sticky: Sticky | None = None) -> RouteTable:
    rules = Rule(tuple(Share(str(n), weight) for n, weight in enumerate(shares)), sticky=sticky)
    return RouteTable([route("r", "m", rules)])


@given(weights)
def test_the_split_is_exact(shares: list[int]) -> None:
    """Each target owns a stretch of [0, 1) as long as its part of the sum: the middles of all unit cells tell."""
    table, total = split(shares), sum(shares)
    counts = dict.fromkeys(range(len(shares)), 0)
    for cell in range(total):
        counts[int(pool(table, "m", chance=float(Fraction(2 * cell + 1, 2 * total))) or 0)] += 1
    assert [counts[n] for n in range(len(shares))] == shares


@given(weights, st.floats(0, 1, exclude_max=True))
def test_any_chance_picks_a_weighted_target(shares: list[int], chance: float) -> None:
    assert shares[int(pool(split(shares), "m", chance=chance) or 0)] > 0


def side(shares: list[int], key: str) -> int:
    table = split(shares, Sticky(header=b"x-user"))
    return int(pool(table, "m", [(b"x-user", key.encode())]) or 0)


@settings(max_examples=100)
@given(weights, st.data(), st.text("abcdef0123456789", min_size=1))
def test_a_growing_weight_only_draws_users_in(shares: list[int], data: st.DataObject, key: str) -> None:
    target = data.draw(st.integers(0, len(shares) - 1))
    grown = list(shares)
    grown[target] += data.draw(st.integers(1, 100))
    before, after = side(shares, key), side(grown, key)
    assert after in (before, target)


def test_sticky_splits_by_weight() -> None:
    keys = [f"user-{n}" for n in range(4000)]
    share = sum(side([90, 10], key) == 1 for key in keys) / len(keys)
    assert 0.08 < share < 0.12


def test_two_rules_split_the_same_users_independently() -> None:
    by = Sticky(user=True)
    shares = (Share("a", 50), Share("b", 50))
    table = RouteTable([route("r", "m", Rule(shares, sticky=by)), route("s", "n", Rule(shares, sticky=by))])
    same = sum(
        table.match("m", CHAT, (), 0, f"u{n}").pool == table.match("n", CHAT, (), 0, f"u{n}").pool for n in range(2000)
    )
    assert 900 < same < 1100


@pytest.mark.parametrize(
    ("sticky", "headers", "user"),
    [
        (Sticky(header=b"x-session"), [(b"x-session", b"s1")], ""),
        (Sticky(cookie="sid"), [(b"cookie", b'other=1; sid="s1"; x=2')], ""),
        (Sticky(cookie="sid"), [(b"cookie", b"a=b"), (b"cookie", b"sid=s1")], ""),
        (Sticky(user=True), [], "s1"),
    ],
)
def test_sticky_sources_find_the_same_key(sticky: Sticky, headers: Headers, user: str) -> None:
    assert sticky.key(headers, user) == "s1"
    table = split([50, 50], sticky)
    picks = {table.match("m", CHAT, headers, chance / 10, user).pool for chance in range(10)}
    assert len(picks) == 1


def test_without_a_key_chance_decides() -> None:
    table = split([50, 50], Sticky(header=b"x-session"))
    assert {pool(table, "m", chance=chance) for chance in (0.1, 0.9)} == {"0", "1"}


def test_models_are_the_sorted_union() -> None:
    card = ModelCard("z", max_model_len=4096)
    table = RouteTable(
        [Route("a", "z", ("y",), (Rule((Share("p"),)),), cards=(card,)), route("b", "b"), route("c", "b")],
    )
    assert [model.id for model in table.models()] == ["b", "y", "z"]
    assert table.models()[1].parent == "z"
    assert table.models()[2] is card
    assert "y" in table
    assert "nope" not in table


def test_target_values_are_prepared_once() -> None:
    table = RouteTable([route("r")])
    assert table.match("m", CHAT, (), 0.1) is table.match("m", CHAT, (), 0.9)
    assert msgspec.structs.asdict(table.match("m", CHAT, (), 0.1))["route"] == "r"


def test_a_rule_without_targets_holds_and_refuses() -> None:
    dangling = Rule((), "gone", Match(headers=((b"x", TextMatch(exact="1")),)))
    table = RouteTable([route("ns/a", "m", dangling, Rule((Share("p"),)))])
    with pytest.raises(NoEndpoints, match="rule gone of the route ns/a") as caught:
        table.match("m", CHAT, [(b"x", b"1")], 0.5)
    assert (caught.value.status, caught.value.code) == (503, "no_endpoints")
    assert pool(table, "m") == "p"
    with pytest.raises(NoEndpoints, match="rule 0 of"):
        RouteTable([route("ns/a", "m", Rule((), sticky=Sticky(user=True)))]).match("m", CHAT, (), 0.5, "u")


def test_where_only_spares_are_left_the_first_stands_in() -> None:
    table = split([0, 0])
    assert {pool(table, "m", chance=chance) for chance in (0.0, 0.9)} == {"0"}
    assert [target.pool for target in table.match("m", CHAT, (), 0.9).fallbacks] == ["1"]


names = st.sampled_from(["", "m", "n", "o"])
some_routes = st.lists(
    st.builds(
        route,
        st.sampled_from(["a", "b", "c", "d"]),
        names,
        st.sampled_from([Rule((Share("p"),)), rule("q", uri=TextMatch(prefix="/x")), Rule(())]),
        loras=st.lists(names.filter(bool), max_size=2).map(tuple),
        age=st.integers(0, 3).map(lambda age: (float(age), 0, "")),
    ),
    max_size=6,
    unique_by=lambda made: made.name,
)


@given(some_routes, some_routes, st.data())
def test_a_table_made_of_an_old_one_is_as_one_made_anew(
    before: list[Route], more: list[Route], data: st.DataObject
) -> None:
    kept = [each for each in before if data.draw(st.booleans())]
    after = [*kept, *(each for each in more if each.name not in {other.name for other in kept})]
    anew, made = RouteTable(after), RouteTable(after, RouteTable(before))
    assert made.routes == anew.routes
    assert made.models() == anew.models()
    for model in ("m", "n", "o"):
        for path in (CHAT, "/x"):
            assert answer(made, model, path) == answer(anew, model, path)


def answer(table: RouteTable, model: str, path: str) -> Target | str:
    try:
        return table.match(model, path, (), 0.5)
    except (ModelNotFound, NoEndpoints) as error:
        return str(error)


def test_what_stays_is_not_compiled_again() -> None:
    stays, goes = route("a", "m"), route("b", "n")
    old = RouteTable([stays, goes])
    new = RouteTable([stays, route("b", "n")], old)
    assert new.match("m", CHAT, (), 0) is old.match("m", CHAT, (), 0)
    assert new.match("n", CHAT, (), 0) is not old.match("n", CHAT, (), 0)


# -- bound to Gateways ------------------------------------------------------------------------------------------------


def inlet(gateway: str, listener: str = "http", takes: str = "All") -> Inlet:
    return Inlet(gateway, listener, 80, takes)


def shared(*inlets: Inlet) -> Entrance:
    """Where the program's own port stands for that of the Gateways."""
    return Entrance(inlets, None)


def entered(table: RouteTable, entrance: Entrance | None, model: str = "m", headers: Headers = ()) -> str | None:
    try:
        return table.match(model, CHAT, headers, 0.0, "", entrance).pool
    except ModelNotFound:
        return None


def bound(name: str, *gateways: str, model: str = "m", age: float = 0.0, rules: tuple[Rule, ...] = ()) -> Route:
    return route(name, model, *rules, parents=tuple(map(Parent, gateways)), age=(age, 0, ""))


def test_a_bound_route_is_asked_for_what_comes_in_there_and_for_nothing_else() -> None:
    table = RouteTable([bound("ns/a", "ns/left"), bound("ns/b", "ns/right"), bound("ns/c", "ns/right", model="n")])
    left, right, other = shared(inlet("ns/left")), shared(inlet("ns/right")), shared(inlet("ns/other"))
    assert [entered(table, each) for each in (left, right, other, None)] == ["ns/a", "ns/b", None, None]
    assert [card.id for card in table.models(right)] == ["m", "n"]
    assert [card.id for card in table.models(left)] == ["m"]
    assert table.models(other) == table.models() == ()
    assert "m" not in table
    assert entered(RouteTable([bound("ns/a")]), left) is None  # its parents cannot be read


def test_a_bound_route_comes_before_older_ones_that_are_not_and_leaves_them_what_it_does_not_hold_for() -> None:
    only = Rule((Share("ns/a"),), match=Match(headers=((b"h", TextMatch(exact="1")),)))
    table = RouteTable([bound("ns/a", "ns/g", age=9.0, rules=(only,)), route("ns/plain"), route("ns/n", "n")])
    here = shared(inlet("ns/g"))
    assert entered(table, here, headers=[(b"h", b"1")]) == "ns/a"
    assert entered(table, here) == entered(table, None, headers=[(b"h", b"1")]) == "ns/plain"
    assert (entered(table, here, "n"), entered(table, here, "x")) == ("ns/n", None)
    assert [card.id for card in table.models(here)] == ["m", "n"]


def test_of_bound_routes_the_oldest_comes_first_whichever_gateway_it_names() -> None:
    table = RouteTable([bound("ns/young", "ns/a", age=2.0), bound("ns/old", "ns/b", "ns/a", age=1.0)])
    assert entered(table, shared(inlet("ns/a"), inlet("ns/b"))) == "ns/old"
    assert entered(table, shared(inlet("ns/a"))) == "ns/old"


def test_a_listener_that_takes_no_routes_of_a_namespace_leads_to_none() -> None:
    table = RouteTable([bound("ns/a", "infra/g"), bound("infra/b", "infra/g", age=1.0)])
    assert entered(table, shared(inlet("infra/g"))) == "ns/a"
    assert entered(table, shared(inlet("infra/g", takes="Same"))) == "infra/b"
    assert entered(table, shared(inlet("infra/g", takes=""))) is None


def test_on_a_port_of_its_own_a_gateway_has_the_plain_routes_of_some_namespaces() -> None:
    table = RouteTable([route("ns/a"), route("other/b", "n"), bound("ns/c", "ns/g", model="o")])
    own = Entrance((inlet("ns/g"),), frozenset(["ns"]))
    assert [entered(table, own, model) for model in "mno"] == ["ns/a", None, "ns/c"]
    assert [card.id for card in table.models(own)] == ["m", "o"]
    assert [entered(table, NOWHERE, model) for model in "mno"] == [None, None, None]
    assert table.models(NOWHERE) == ()


def test_a_new_table_knows_nothing_of_what_the_old_one_laid_out() -> None:
    first, here = bound("ns/a", "ns/g"), shared(inlet("ns/g"))
    old = RouteTable([first])
    assert entered(old, here) == "ns/a"
    new = RouteTable([first, bound("ns/b", "ns/g", model="n")], old)
    assert (entered(new, here), entered(new, here, "n"), entered(old, here, "n")) == ("ns/a", "ns/b", None)


GATES = st.sampled_from(["a/g", "a/h", "b/g"])
BOUND = st.builds(
    lambda name, model, loras, gates, age, only: Route(
        f"{name[0]}/{name[1]}",
        model,
        loras,
        (Rule((Share(f"{name[0]}/{name[1]}"),), match=Match(model="m") if only else None),),
        (age, 0, ""),
        parents=None if gates is None else tuple(map(Parent, gates)),
    ),
    st.tuples(st.sampled_from("ab"), st.integers(0, 99)),
    st.sampled_from(["m", "n"]),
    st.sampled_from([(), ("l",), ("l", "m")]),
    st.none() | st.lists(GATES, max_size=2),
    st.integers(0, 3).map(float),
    st.booleans(),
)
ENTRANCES = st.none() | st.builds(
    Entrance,
    st.lists(st.builds(inlet, GATES, takes=st.sampled_from(["All", "Same", ""])), max_size=2).map(tuple),
    st.none() | st.frozensets(st.sampled_from("ab"), max_size=2),
)


def by_the_book(routes: list[Route], model: str, entrance: Entrance | None) -> str | None:
    """One after the other: those that may be asked there, a group at a time."""
    ordered = sorted(routes, key=lambda each: (each.age, each.name))
    plain = [each for each in ordered if each.parents is None]
    groups = [plain]
    if entrance is not None:
        here = [each for each in ordered if any(i.admits(each.namespace, each.parents or ()) for i in entrance.inlets)]
        spaces = entrance.namespaces
        groups = [here, plain] if spaces is None else [here + [each for each in plain if each.namespace in spaces]]
    for group in groups:
        bases = [each for each in group if each.model == model]
        for each in bases or [each for each in group if model in each.loras]:
            match = each.rules[0].match
            if match is None or match.holds(model, CHAT, ()):
                return each.name
    return None


@given(st.lists(BOUND, max_size=8, unique_by=lambda each: each.name), st.lists(ENTRANCES, max_size=3))
def test_whoever_comes_in_wherever_gets_the_route_that_the_rules_say(
    routes: list[Route], entrances: list[Entrance | None]
) -> None:
    table = RouteTable(routes[:4])
    table = RouteTable(routes, table)
    for entrance in (*entrances, *entrances, None):
        for model in ("m", "n", "l", "x"):
            assert entered(table, entrance, model) == by_the_book(routes, model, entrance)
        told = {card.id for card in table.models(entrance)}
        assert {model for model in "mnl" if by_the_book(routes, model, entrance)} <= told


class Lone(tuple[Any, ...]):
    """Is not copied for each one that is put behind it."""

    def __add__(self, other: object) -> Any:
        raise AssertionError("copied")


def test_of_routes_without_number_that_share_a_name_each_is_laid_out_once() -> None:
    rules: Any = [(("m", f"m-{n}"), Lone((n, -n))) for n in range(1, 4)]
    assert _by_name(rules) == {"m": (1, -1, 2, -2, 3, -3), "m-1": (1, -1), "m-2": (2, -2), "m-3": (3, -3)}
