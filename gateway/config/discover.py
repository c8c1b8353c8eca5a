"""Backends given by URL alone → endpoints, and what they turn out to serve → pools and routes. (P)

Invariant: discovery only adds. A model name that a configured route owns stays with that route.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from gateway.config.document import ConfigError
from gateway.config.fleet import credential, is_key
from gateway.config.load import NO_VARIABLES
from gateway.config.resources import engine_named
from gateway.config.snapshot import Policy, PoolSpec, Snapshot, policy_of
from gateway.config.url import endpoint, is_loopback
from gateway.route import Route, RouteTable, Rule, Share
from gateway.types import Endpoint, ModelCard

NAMESPACE = "discovered"
"""Pools and routes made here are named discovered/MODEL."""


KEY_VARIABLES: Mapping[str, str] = {
    "openai": "OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
    "deepseek": "DEEPSEEK_API_KEY",
    "gemini": "GEMINI_API_KEY",
    "huggingface": "HF_TOKEN",
}
"""Where the key of a provider is looked for that has no document to say so, as the providers' own clients do."""


def from_backends(backends: Iterable[tuple[str, str]], environment: Mapping[str, str] = NO_VARIABLES) -> list[Endpoint]:
    """(engine, URL) pairs, as `--backend ENGINE=URL` gives them → endpoints to ask for their models.

    The engine may be "auto". A provider's key is taken from ``environment`` (`KEY_VARIABLES`) if there is one, and sent
    by https or within this machine only. Raises ConfigError naming every pair that cannot be used.
    """
    endpoints: list[Endpoint] = []
    problems: list[str] = []
    for engine, url in backends:
        try:
            made = _with_key(endpoint(url, engine_named(engine)), environment)
        except ValueError as error:
            shown = url if "@" not in url else "…"  # what precedes an @ is a password
            problems.append(f"--backend {engine}={shown}: {error}")
            continue
        if any(made.id == other.id for other in endpoints):
            problems.append(f"--backend {engine}={url}: given twice")
        endpoints.append(made)
    if problems:
        raise ConfigError(problems)
    return endpoints


def _with_key(at: Endpoint, environment: Mapping[str, str]) -> Endpoint:
    """Raises ValueError for a key that cannot be sent."""
    variable = KEY_VARIABLES.get(at.engine, "")
    key = environment.get(variable, "").strip()
    if not key or not (at.scheme == "https" or is_loopback(at.host)):
        return at
    if not is_key(key):
        raise ValueError(f"{variable} does not hold a key (printable ASCII without spaces)")
    return msgspec.structs.replace(at, headers=(credential(at, key),))


def discovered(snapshot: Snapshot, found: Mapping[Endpoint, Sequence[ModelCard]]) -> Snapshot:
    """``snapshot`` with one pool and one route per model that the endpoints serve.

    Endpoints serving the same model form one pool. A LoRA becomes a name that leads to its base model's pool, or to a
    pool of its own where only some of those endpoints have it loaded.
    """
    holders, cards = _holders(found)
    policy = policy_of(snapshot.settings)
    pools: dict[str, PoolSpec] = {}
    routes: list[Route] = []
    for name, endpoints in holders.items():
        card = cards[name]
        if name in snapshot.routes:
            continue
        base = card.parent if card.parent in holders else None
        shared = base is not None and holders[base] == endpoints
        pool = _pool(base if shared and base is not None else name, endpoints, policy)
        pools.setdefault(pool.name, pool)
        rule = Rule((Share(pool.name),))
        if card.parent is None:
            routes.append(Route(f"{NAMESPACE}/{name}", model=name, rules=(rule,), cards=(card,)))
        else:
            routes.append(Route(f"{NAMESPACE}/{name}", loras=(name,), rules=(rule,), cards=(card,)))
    return msgspec.structs.replace(
        snapshot,
        pools=(*snapshot.pools, *pools.values()),
        routes=RouteTable((*snapshot.routes.routes, *routes), snapshot.routes),
    )


def _holders(
    found: Mapping[Endpoint, Sequence[ModelCard]],
) -> tuple[dict[str, tuple[Endpoint, ...]], dict[str, ModelCard]]:
    """Model name → the endpoints that serve it, in the order given; and the first card seen of each."""
    holders: dict[str, tuple[Endpoint, ...]] = {}
    cards: dict[str, ModelCard] = {}
    for at, served in found.items():
        for card in served:
            known = holders.get(card.id, ())
            if card.id and at not in known:
                holders[card.id] = (*known, at)
                cards.setdefault(card.id, card)
    return holders, cards


def _pool(model: str, endpoints: tuple[Endpoint, ...], policy: Policy) -> PoolSpec:
    # every endpoint is spoken to in its own dialect, so a pool may mix engines; its own says which came first
    return PoolSpec(name=f"{NAMESPACE}/{model}", engine=endpoints[0].engine, endpoints=endpoints, policy=policy)
