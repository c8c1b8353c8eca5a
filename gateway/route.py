"""Which pool a request goes to: model, LoRA, header and path match → weighted target with its fallbacks. (P)

Invariant: a `RouteTable` never changes; the same request with the same chance always gets the same target.
Resolution follows the published ModelRoute semantics: a name some route owns as its base model is never looked up as a
LoRA; candidates go oldest first; the first rule that holds decides; a route none of whose rules holds is passed over.
Routes that are bound to Gateways serve what comes in there and nothing else, and are asked there before the others.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from operator import attrgetter
from typing import Final

import msgspec

from gateway import expression
from gateway.entrance import Entrance, Parent
from gateway.errors import ModelNotFound, NoEndpoints
from gateway.expression import Expression
from gateway.types import Headers, ModelCard

_ENTRANCES: Final = 4096
"""For so many the routes are laid out at a time: Gateways may come and go while routes stay."""
FEW: Final = 64
"""Fields of a request that are gone through for each match; of more they are looked up: there may be thousands of both.
"""
Fields = Headers | dict[bytes, bytes]


class TextMatch(msgspec.Struct, frozen=True):
    """The first one given decides: exact, prefix, regex. None given holds for any text."""

    exact: str | None = None
    prefix: str | None = None
    regex: Expression | None = None

    def holds(self, text: str) -> bool:
        if self.exact is not None:
            return text == self.exact
        if self.prefix is not None:
            return text.startswith(self.prefix)
        return self.regex is None or self.regex.holds(text)


class Match(msgspec.Struct, frozen=True):
    """All parts have to hold. Header names are lower-case; a header that was not sent matches as the empty text."""

    headers: tuple[tuple[bytes, TextMatch], ...] = ()
    uri: TextMatch | None = None
    model: str | None = None

    def holds(self, model: str, path: str, headers: Fields) -> bool:
        if self.model is not None and self.model != model:
            return False
        if self.uri is not None and not self.uri.holds(path):
            return False
        return all(match.holds(_header(headers, name)) for name, match in self.headers)


class Sticky(msgspec.Struct, frozen=True):
    """Where a rule finds the key that keeps a caller on one side: one of a header, a cookie, the verified user."""

    header: bytes = b""
    cookie: str = ""
    user: bool = False

    def key(self, headers: Headers, user: str) -> str:
        if self.user:
            return user
        if self.header:
            return _header(headers, self.header)
        return _cookie(headers, self.cookie)


class Share(msgspec.Struct, frozen=True):
    """One target of a rule as configured. ``model`` is the name its engines know (None: the client's stays)."""

    pool: str
    weight: int = 1
    model: str | None = None


class Rule(msgspec.Struct, frozen=True):
    """``shares`` may be empty, where nothing that the rule names exists: it holds all the same, and refuses."""

    shares: tuple[Share, ...]
    name: str = ""
    match: Match | None = None
    sticky: Sticky | None = None


class Route(msgspec.Struct, frozen=True):
    """One ModelRoute. ``name`` is "namespace/name"; ``age`` sorts candidates, oldest first.

    ``cards`` describe models beyond their names, where discovery knows more. ``drop``: members of a request that an
    engine would ignore are left out rather than refused. ``hedge``: a second endpoint may be asked beside one that is
    slow. ``parents``: what it is bound to; None: to nothing, so that it
    serves wherever requests come in.
    """

    name: str
    model: str = ""
    loras: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    age: tuple[float, int, str] = (0.0, 0, "")
    cards: tuple[ModelCard, ...] = ()
    drop: bool = False
    hedge: bool = False
    parents: tuple[Parent, ...] | None = None

    @property
    def namespace(self) -> str:
        return self.name.partition("/")[0]


class Target(msgspec.Struct, frozen=True):
    """Where to send a request. ``model`` replaces the client's name for it unless None; ``fallbacks`` come next.
    ``drop`` and ``hedge`` as in `Route`.
    """

    pool: str
    model: str | None = None
    fallbacks: tuple[Target, ...] = ()
    route: str = ""
    rule: str = ""
    drop: bool = False
    hedge: bool = False


class _Choice:
    """A rule ready to pick from: each target prepared once, with its fallbacks, so that a request builds nothing."""

    __slots__ = ("label", "match", "route", "single", "steps", "sticky", "stuck", "targets", "total")

    def __init__(self, route: Route, index: int, *, lora: bool) -> None:
        rule = route.rules[index]
        self.route = route.name
        self.label = label = rule.name or str(index)
        self.match = rule.match
        self.sticky = rule.sticky
        self.targets = _prepared(route, label, rule.shares, lora=lora)
        self.steps = tuple(accumulate(share.weight for share in rule.shares))
        self.total = self.steps[-1] if self.steps else 0
        # with nothing but spares left (of weight 0), the first of them stands in
        weighted = [n for n, share in enumerate(rule.shares) if share.weight] or [0][: len(rule.shares)]
        self.single = self.targets[weighted[0]] if len(weighted) == 1 else None
        # the rule's identity and the target's are mixed into the hash, so that two rules split the same users
        # independently, and moving a rule or adding a target leaves everyone else where they are
        self.stuck = tuple(
            (n, rule.shares[n].weight, f"{route.name}\0{label}\0{rule.shares[n].pool}") for n in weighted
        )

    def pick(self, chance: float, headers: Headers, user: str) -> Target:
        """Raises NoEndpoints."""
        if self.single is not None:
            return self.single
        if not self.targets:
            raise NoEndpoints(f"no target of rule {self.label} of the route {self.route} exists")
        if self.sticky is not None:
            key = self.sticky.key(headers, user)
            if key:
                return self.targets[_rendezvous(key, self.stuck)]
        return self.targets[bisect_right(self.steps, chance * self.total)]


class _Compiled:
    """One route's part of every table it stands in."""

    __slots__ = ("bases", "cards", "key", "loras", "route")

    def __init__(self, route: Route) -> None:
        self.route = route
        self.key = (route.age, route.name)
        rules = range(len(route.rules))
        self.bases = tuple(_Choice(route, n, lora=False) for n in rules) if route.model else ()
        self.loras = tuple(_Choice(route, n, lora=True) for n in rules) if route.loras else ()
        self.cards = _cards(route)


def _prepared(route: Route, label: str, shares: tuple[Share, ...], *, lora: bool) -> tuple[Target, ...]:
    # a LoRA is a name the engine itself knows: rewriting it would ask for the base model instead
    plain = [Target(s.pool, None if lora else s.model, (), route.name, label, route.drop, route.hedge) for s in shares]
    return tuple(
        msgspec.structs.replace(target, fallbacks=(*plain[:index], *plain[index + 1 :]))
        for index, target in enumerate(plain)
    )


def _rendezvous(key: str, stuck: tuple[tuple[int, int, str], ...]) -> int:
    """Weighted rendezvous hashing: a target whose weight grows only gains keys, one whose weight shrinks only loses.

    Each target draws -ln(u)/weight, u uniform from the hash of key and target; the smallest wins with probability
    weight/total (the draws are exponential clocks).
    """
    best, winner = math.inf, stuck[0][0]
    for index, weight, identity in stuck:
        digest = hashlib.blake2b(f"{key}\0{identity}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        # 53 bits, so that the quotient is exact and below 1; plus a half, so that it is above 0
        uniform = ((int.from_bytes(digest) >> 11) + 0.5) / 9007199254740992
        draw = -math.log(uniform) / weight
        if draw < best:
            best, winner = draw, index
    return winner


class _Names:
    """Routes by the names they have. ``fixed``: the names that always lead to one target."""

    __slots__ = ("_models", "bases", "compiled", "fixed", "loras")

    def __init__(self, compiled: Sequence[_Compiled]) -> None:
        self.compiled = compiled
        self.bases = _by_name(((each.route.model,) if each.route.model else (), each.bases) for each in compiled)
        self.loras = _by_name((each.route.loras, each.loras) for each in compiled)
        self.fixed = _fixed(self.loras) | _fixed(self.bases)  # a LoRA of a base model's name is not looked at
        self._models: tuple[ModelCard, ...] | None = None

    def find(self, model: str, path: str, headers: Headers, chance: float, user: str) -> Target | None:
        """None where no rule holds. Raises NoEndpoints."""
        expression.afresh()
        fields = headers if len(headers) <= FEW else dict(reversed(headers))
        for choice in self.bases.get(model) or self.loras.get(model) or ():
            if choice.match is None or choice.match.holds(model, path, fields):
                return choice.pick(chance, headers, user)
        return None

    def models(self) -> tuple[ModelCard, ...]:
        if self._models is None:
            self._models = _listed(self.compiled)
        return self._models


class RouteTable:
    """All routes, compiled. Those that ``old`` has, too, as the same objects, are not compiled again: a table of 1,000
    routes of which few are new takes 1.2 ms instead of 24. What is bound to Gateways is laid out by entrance when it is
    first asked for there, in as much.
    """

    __slots__ = ("_at", "_bound", "_compiled", "_fixed", "_plain", "routes")

    def __init__(self, routes: Iterable[Route] = (), old: RouteTable | None = None) -> None:
        known: dict[int, _Compiled] = {} if old is None else old._compiled
        compiled = sorted((known.get(id(route)) or _Compiled(route) for route in routes), key=attrgetter("key"))
        # an id stands for its route as long as the value keeps that alive
        self._compiled: dict[int, _Compiled] = {id(each.route): each for each in compiled}
        self.routes: Final = tuple(each.route for each in compiled)
        self._plain = _Names([each for each in compiled if each.route.parents is None])
        self._fixed = self._plain.fixed
        self._bound: dict[str, list[_Compiled]] = {}
        if len(self._plain.compiled) < len(compiled):
            for each in compiled:
                for gateway in dict.fromkeys(parent.gateway for parent in each.route.parents or ()):
                    self._bound.setdefault(gateway, []).append(each)
        self._at: dict[Entrance, _Names] = {}

    def match(
        self,
        model: str,
        path: str,
        headers: Headers,
        chance: float,
        user: str = "",
        entrance: Entrance | None = None,
    ) -> Target:
        """The target of one request. ``chance`` is uniform in [0, 1); ``user`` is the verified identity's.
        ``entrance``: the Gateways it came in by, None for none.

        Raises ModelNotFound; NoEndpoints where the rule that holds has no target.
        """
        if entrance is None:
            target = self._fixed.get(model)
            if target is not None:
                return target
        else:
            names = self._at.get(entrance) or self._entered(entrance)
            target = names.fixed.get(model) or names.find(model, path, headers, chance, user)
        if target is None and (entrance is None or entrance.namespaces is None):
            target = self._plain.find(model, path, headers, chance, user)
        if target is None:
            raise ModelNotFound(f"The model `{model[:256]}` does not exist", param="model")
        return target

    def _entered(self, entrance: Entrance) -> _Names:
        """What is asked before the routes that are bound to nothing, or, where only some of those are served, with them
        behind.
        """
        inlets = [(inlet, self._bound[inlet.gateway]) for inlet in entrance.inlets if inlet.gateway in self._bound]
        found = {
            each.key: each
            for inlet, bound in inlets
            for each in bound
            if inlet.admits(each.route.namespace, each.route.parents or ())
        }
        bound = [found[key] for key in sorted(found)]
        if entrance.namespaces:
            bound += [each for each in self._plain.compiled if each.route.namespace in entrance.namespaces]
        if len(self._at) >= _ENTRANCES:
            self._at.clear()
        names = self._at[entrance] = _Names(bound)
        return names

    def models(self, entrance: Entrance | None = None) -> tuple[ModelCard, ...]:
        """What can be asked for by those who come in there, sorted by name."""
        if entrance is None:
            return self._plain.models()
        found = (self._at.get(entrance) or self._entered(entrance)).models()
        if entrance.namespaces is not None:
            return found
        cards = {card.id: card for card in (*self._plain.models(), *found)}
        return tuple(cards[name] for name in sorted(cards))

    def __contains__(self, model: object) -> bool:
        """Whether it can be asked for by whoever comes in by no Gateway."""
        return model in self._plain.bases or model in self._plain.loras


def _by_name(named: Iterable[tuple[tuple[str, ...], tuple[_Choice, ...]]]) -> dict[str, tuple[_Choice, ...]]:
    """Model name → the rules to go through, of all candidate routes in order."""
    found: dict[str, list[tuple[_Choice, ...]]] = {}
    for names, choices in named:
        for name in names:
            found.setdefault(name, []).append(choices)
    # put together once: thousands of routes may have one name
    return {name: parts[0] if len(parts) == 1 else tuple(chain.from_iterable(parts)) for name, parts in found.items()}


def _fixed(names: dict[str, tuple[_Choice, ...]]) -> dict[str, Target | None]:
    """The names that always lead to one target, whatever else a request says: one look-up answers them."""
    return {
        name: choices[0].single if choices and choices[0].match is None else None for name, choices in names.items()
    }


def _cards(route: Route) -> tuple[tuple[str, ModelCard], ...]:
    known = {card.id: card for card in route.cards}
    parents = {name: route.model or None for name in route.loras if name != route.model}
    names = (route.model, *route.loras)
    return tuple((name, known.get(name) or ModelCard(name, parents.get(name))) for name in names if name)


def _listed(compiled: Iterable[_Compiled]) -> tuple[ModelCard, ...]:
    """One card a name, the oldest route's."""
    cards: dict[str, ModelCard] = {}
    for each in compiled:
        for name, card in each.cards:
            cards.setdefault(name, card)
    return tuple(cards[name] for name in sorted(cards))


def _header(headers: Fields, wanted: bytes) -> str:
    if isinstance(headers, dict):
        return headers.get(wanted, b"").decode("latin-1")
    for name, value in headers:
        if name == wanted:
            return value.decode("latin-1")
    return ""


def _cookie(headers: Headers, wanted: str) -> str:
    for name, value in headers:
        if name == b"cookie":
            for pair in value.decode("latin-1").split(";"):
                cookie, _, content = pair.strip().partition("=")
                if cookie == wanted:
                    return content.strip('"')
    return ""
