"""ModelRoute → `Route`, with the references that lead nowhere as values. (P)

Invariant: a rule keeps its place and the targets that exist; one with none left refuses what it holds for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gateway.config.envelope import Flaw, Resource
from gateway.config.resources import ModelMatch, ModelRoute, StickyBy, StringMatch, TargetModel
from gateway.config.resources import Rule as RuleSpec
from gateway.config.snapshot import PoolSpec
from gateway.route import Match, Route, Rule, Share, Sticky, TextMatch

Find = Callable[[str, str], PoolSpec | None]
"""(kind, "namespace/name") → the pool that is made of it."""
Absent = Callable[[str, str, str], str]
"""(kind, namespace, name) → what to say of a target that has no pool, "" for nothing."""


def route_of(resource: Resource, find: Find, absent: Absent) -> tuple[Route, list[Flaw]]:
    """The route as far as its targets exist, and those that do not."""
    spec: ModelRoute = resource.content
    flaws: list[Flaw] = []
    rules = tuple(_rule(resource, index, rule, find, absent, flaws) for index, rule in enumerate(spec.rules))
    drop = spec.unsupported == "drop"
    made = Route(resource.name, spec.model_name, spec.lora_adapters, rules, resource.age, drop=drop, hedge=spec.hedging)
    return made, flaws


def targets(resource: Resource) -> Iterator[list[tuple[str, str]]]:
    """Of each rule, the (kind, "namespace/name") of its targets."""
    for rule in resource.content.rules:
        named = (_named(target) for target in rule.target_models)
        yield [(kind, f"{resource.metadata.namespace}/{name}") for kind, _, name in named]


def unreached(resource: Resource) -> Iterator[Flaw]:
    """The rule that no request gets to, if there is one: a rule before it matches every request."""
    rules = resource.content.rules
    everything = [index for index, rule in enumerate(rules) if match_of(rule.model_match) is None]
    if everything and everything[0] < len(rules) - 1:
        first = everything[0]
        yield resource.flaw(f"$.spec.rules[{first + 1}]", f"never reached: rules[{first}] matches every request")


def _rule(resource: Resource, index: int, rule: RuleSpec, find: Find, absent: Absent, flaws: list[Flaw]) -> Rule:
    shares = []
    namespace = resource.metadata.namespace
    for number, target in enumerate(rule.target_models):
        kind, member, name = _named(target)
        pool = find(kind, f"{namespace}/{name}")
        if pool is not None:
            shares.append(Share(pool.name, 1 if target.weight is None else target.weight, pool.model))
        elif message := absent(kind, namespace, name):
            path = f"$.spec.rules[{index}].targetModels[{number}].{member}"
            flaws.append(resource.flaw(path, message, reference=True))
    return Rule(tuple(shares), rule.name, match_of(rule.model_match), _sticky(rule.sticky_by))


def _named(target: TargetModel) -> tuple[str, str, str]:
    """(kind, the member that names it, name)"""
    if target.model_server_name is not None:
        return "ModelServer", "modelServerName", target.model_server_name
    return "ExternalModelProvider", "externalModelProviderName", target.external_model_provider_name or ""


def match_of(match: ModelMatch | None) -> Match | None:
    """None where it holds for every request."""
    if match is None:
        return None
    headers = tuple((name.lower().encode("latin-1", "replace"), _text(text)) for name, text in match.headers.items())
    uri = None if match.uri is None else _text(match.uri)
    made = Match(headers, uri, None if match.body is None else match.body.model)
    trivial = all(text == TextMatch() for _, text in headers) and made.uri in (None, TextMatch())
    return None if trivial and made.model is None else made


def _text(match: StringMatch) -> TextMatch:
    return TextMatch(match.exact, match.prefix, match.expression)


def _sticky(by: StickyBy | None) -> Sticky | None:
    if by is None:
        return None
    return Sticky((by.header or "").lower().encode("latin-1", "replace"), by.cookie or "", by.user is True)
