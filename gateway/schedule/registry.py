"""Which plugins there are, by name. (P)

Invariant: a name leads to one plugin; another distribution's wins over a built-in one of the same name, and is imported
only when a configuration names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Final, Literal

from gateway.config.decode import Section, suggestion
from gateway.schedule.affinity import SessionAffinity, SessionAffinityScorer
from gateway.schedule.cost import Cost
from gateway.schedule.filters import (
    ContextLength,
    Decode,
    Encode,
    HeaderSelection,
    Healthy,
    LabelSelector,
    Prefill,
    Utilization,
)
from gateway.schedule.pickers import MaxScore, PowerOfTwo, RandomChoice, WeightedRandom
from gateway.schedule.queues import ActiveRequests, LeastRequest, LoadAware, Queue, Running, TokenLoad
from gateway.schedule.reuse import NoHitLRU, PrefixCache, PrefixCacheAffinity, PrefixCacheScorer
from gateway.schedule.saturation import Concurrency, Saturation
from gateway.schedule.scorers import ContextLengthAware, Heterogeneous, KVCache, LeastLatency, LoRAAffinity

ENTRY_POINTS: Final = "infer_gateway.plugins"
"""Third parties' group: each entry names a class as `gateway.schedule.parts` describes it."""

Kind = Literal["filter", "scorer", "picker"]

BUILT_IN: Final[Mapping[str, type[Section]]] = {
    "cost": Cost,
    "least-request": LeastRequest,
    "least-latency": LeastLatency,
    "kv-cache": KVCache,
    "prefix-cache": PrefixCache,
    "lora-affinity": LoRAAffinity,
    "session-affinity": SessionAffinity,
    "heterogeneous": Heterogeneous,
    "random": RandomChoice,
    "healthy": Healthy,
    "label-selector": LabelSelector,
    "context-length": ContextLength,
    "max-score": MaxScore,
    "weighted-random": WeightedRandom,
    "power-of-two": PowerOfTwo,
    "queue-scorer": Queue,
    "running-requests-size-scorer": Running,
    "prefix-cache-scorer": PrefixCacheScorer,
    "load-aware-scorer": LoadAware,
    "active-request-scorer": ActiveRequests,
    "token-load-scorer": TokenLoad,
    "session-affinity-scorer": SessionAffinityScorer,
    "no-hit-lru-scorer": NoHitLRU,
    "context-length-aware": ContextLengthAware,
    "decode-filter": Decode,
    "prefill-filter": Prefill,
    "encode-filter": Encode,
    "utilization-filter": Utilization,
    "prefix-cache-affinity-filter": PrefixCacheAffinity,
    "header-based-testing-filter": HeaderSelection,
    "utilization-detector": Saturation,
    "concurrency-detector": Concurrency,
}

ALIASES: Final[Mapping[str, str]] = {
    "gpu-usage": "kv-cache",
    "kv-cache-utilization-scorer": "kv-cache",
    "lora-affinity-scorer": "lora-affinity",
    "label-selector-filter": "label-selector",
    "session-affinity-filter": "session-affinity-scorer",
    "max-score-picker": "max-score",
    "weighted-random-picker": "weighted-random",
    "random-picker": "random",
}
"""Other published names of the same thing."""

INSTEAD: Final[Mapping[str, str]] = {
    "kvcache-aware": "it reads an index that engines' sidecars keep in Redis; prefix-cache needs neither",
    "latency-scorer": "it asks a predictor beside the gateway; cost learns the latencies itself",
    "precise-prefix-cache-scorer": "it reads engines' KV events; use prefix-cache-scorer",
    "slo-headroom-tier-filter": "it asks a predictor beside the gateway; cost learns the latencies itself",
    "endpoint-attribute-scorer": "use queue-scorer, running-requests-size-scorer or kv-cache-utilization-scorer",
    "endpoint-attribute-filter": "use utilization-filter",
    "header-label-affinity-scorer": "use label-selector-filter in a named profile, or ModelRoute's modelMatch",
    "topology-affinity-scorer": "use label-selector-filter",
    "topology-affinity-filter": "use label-selector-filter",
    "mm-embeddings-cache-scorer": "use prefix-cache-scorer",
}
"""Published plugins that are not there, and what to use."""


def canonical(name: str) -> str:
    return name if name in _third_parties() else ALIASES.get(name, name)


def names() -> list[str]:
    """All that a configuration may name, aliases included."""
    return [*BUILT_IN, *ALIASES, *_third_parties()]


def find(name: str) -> type[Section]:
    """The plugin of that name. Raises ValueError, with what may have been meant."""
    entry = _third_parties().get(name)
    if entry is not None:
        return _loaded(entry)
    plugin = BUILT_IN.get(ALIASES.get(name, name))
    if plugin is None:
        hint = f": {INSTEAD[name]}" if name in INSTEAD else suggestion(name, names())
        raise ValueError(f'no plugin "{name}"{hint}')
    return plugin


def offers(plugin: type[Section], kind: Kind) -> bool:
    return callable(getattr(plugin, kind, None))


@cache
def _third_parties() -> Mapping[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}


def _loaded(entry: EntryPoint) -> type[Section]:
    try:
        plugin = entry.load()
    except Exception as error:  # whatever somebody else's module does when it is imported
        raise ValueError(f'plugin "{entry.name}" cannot be loaded from {entry.value}: {error}') from error
    if not (isinstance(plugin, type) and issubclass(plugin, Section)):
        raise ValueError(f'plugin "{entry.name}": {entry.value} is not a {Section.__module__}.{Section.__qualname__}')
    return plugin
