"""Filters: which endpoints must not get a request, by their state, their labels, the length of their context. (P)

Invariant: the order stays. A filter that goes by an estimate keeps everybody rather than nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal

from msgspec import Meta, field

from gateway.config.decode import Fault, Section
from gateway.ports import Candidate, Filter
from gateway.schedule.ask import Ask
from gateway.schedule.parts import Parts
from gateway.schedule.queues import queued

ROLE_LABEL: Final = "llm-d.ai/role"
SELECTION: Final = b"test-epp-endpoint-selection"
_SHORT: Final = 256
"""Prompts estimated below so many tokens fit everywhere."""


class Healthy(Section, frozen=True):
    """Leaves out engines that say they sleep; the pool itself leaves out those that are down, set aside or drained."""

    def filter(self, parts: Parts) -> Filter:
        return self._keep

    def _keep(self, ask: Ask, candidates: Sequence[Candidate], /) -> Sequence[Candidate]:
        return [c for c in candidates if (load := c.load) is None or not load.asleep]


class ContextLength(Section, frozen=True):
    """Leaves out endpoints whose context is shorter than the prompt surely is.

    The prompt's length is an estimate, so an endpoint only goes where it exceeds its context ``margin`` times; where
    that leaves nobody, everybody stays and the engine has the last word.
    """

    margin: Annotated[float, Meta(ge=1)] = 1.5

    def filter(self, parts: Parts) -> Filter:
        return self._keep

    def _keep(self, ask: Ask, candidates: Sequence[Candidate], /) -> Sequence[Candidate]:
        if len(candidates) == 1 or ask.tokens < _SHORT * self.margin:
            return candidates
        model, text = ask.model, ask.text
        least = len(text) / ask.bytes_per_token / self.margin
        short = {
            c.id
            for c in candidates
            for card in c.cards
            if card.max_model_len is not None and card.max_model_len < least and card.id == model
        }
        return [c for c in candidates if c.id not in short] or candidates if short else candidates


class Requirement(Section, frozen=True):
    """One of Kubernetes' matchExpressions."""

    key: Annotated[str, Meta(min_length=1)]
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.operator in ("In", "NotIn") and not self.values:
            raise Fault(".values", f"needed with {self.operator}")
        if self.operator in ("Exists", "DoesNotExist") and self.values:
            raise Fault(".values", f"means nothing with {self.operator}")

    def holds(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        if self.operator == "In":
            return value in self.values
        if self.operator == "NotIn":
            return value not in self.values
        return (value is not None) == (self.operator == "Exists")


class LabelSelector(Section, frozen=True):
    """A Kubernetes label selector over endpoints' labels; an empty one selects all."""

    match_labels: dict[str, str] = field(default_factory=dict)
    match_expressions: tuple[Requirement, ...] = ()

    def filter(self, parts: Parts) -> Filter:
        return self._keep

    def _keep(self, ask: Ask, candidates: Sequence[Candidate], /) -> Sequence[Candidate]:
        wanted = self.match_labels.items()
        found = [(c, dict(c.endpoint.labels)) for c in candidates]
        return [
            c
            for c, labels in found
            if wanted <= labels.items() and all(rule.holds(labels) for rule in self.match_expressions)
        ]


class _Role(Section, frozen=True):
    """Keeps endpoints by the label ``llm-d.ai/role``."""

    def filter(self, parts: Parts) -> Filter:
        return self._keep

    def roles(self) -> tuple[str | None, ...]:
        """Those that stay; None stands for an endpoint without the label."""
        raise NotImplementedError

    def _keep(self, ask: Ask, candidates: Sequence[Candidate], /) -> Sequence[Candidate]:
        roles = self.roles()
        return [c for c in candidates if _label(c, ROLE_LABEL) in roles]


class Decode(_Role, frozen=True):
    def roles(self) -> tuple[str | None, ...]:
        return ("decode", "prefill-decode", "both", "encode-prefill-decode", None)


class Prefill(_Role, frozen=True):
    def roles(self) -> tuple[str | None, ...]:
        return ("prefill", "encode-prefill", "prefill-decode", "both", "encode-prefill-decode")


class Encode(_Role, frozen=True):
    def roles(self) -> tuple[str | None, ...]:
        return ("encode", "encode-prefill", "encode-prefill-decode")


def _label(candidate: Candidate, wanted: str) -> str | None:
    for name, value in candidate.endpoint.labels:
        if name == wanted:
            return value
    return None


class Condition(Section, frozen=True):
    metric: Literal["active-requests", "running-requests", "waiting-queue", "kv-cache-utilization"]
    max_value: Annotated[float, Meta(ge=0)]

    def holds(self, candidate: Candidate) -> bool:
        """At most ``max_value``; what is unknown holds."""
        load = candidate.load
        if self.metric == "active-requests":
            return candidate.inflight <= self.max_value
        if load is None:
            return True
        if self.metric == "running-requests":
            return load.running <= self.max_value
        if self.metric == "waiting-queue":
            return queued(candidate) <= self.max_value
        return load.kv_usage is None or load.kv_usage <= self.max_value


class Utilization(Section, frozen=True):
    """EPP's utilization-filter: all conditions hold; ``fallback_on_empty`` keeps everybody where nobody is left."""

    conditions: tuple[Condition, ...] = ()
    fallback_on_empty: bool = False

    def filter(self, parts: Parts) -> Filter:
        return self._keep

    def _keep(self, ask: Ask, candidates: Sequence[Candidate], /) -> Sequence[Candidate]:
        left = [c for c in candidates if all(condition.holds(c) for condition in self.conditions)]
        return candidates if not left and self.fallback_on_empty else left


class HeaderSelection(Section, frozen=True):
    """For conformance tests: only the addresses a request names in test-epp-endpoint-selection, "ip[:port],…"."""

    def filter(self, parts: Parts) -> Filter:
        return self._keep

    def _keep(self, ask: Ask, candidates: Sequence[Candidate], /) -> Sequence[Candidate]:
        given = next((value for name, value in ask.request.headers if name == SELECTION), b"")
        named = {part.strip() for part in given.decode("latin-1").split(",")} - {""}
        if not named:
            return candidates
        return [c for c in candidates if c.endpoint.host in named or f"{c.endpoint.host}:{c.endpoint.port}" in named]
