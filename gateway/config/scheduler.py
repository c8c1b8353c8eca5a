"""The `scheduler` section in its published shape, and the plugins it may name. (P)

Invariant: a `Scheduler` names only known plugins, under their canonical names, with arguments that fit them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, field

from gateway.config.decode import INVALID, Decoder, Fault, Section, suggestion

Count = Annotated[int, Meta(ge=1)]
Port = Annotated[int, Meta(ge=1, le=65535)]


class NoArgs(Section, frozen=True):
    """A plugin without parameters."""


class LeastRequestArgs(Section, frozen=True):
    """``max_waiting_requests``: an endpoint with this many requests waiting is left out; 0 means the default."""

    max_waiting_requests: Annotated[int, Meta(ge=0)] = 10


class LeastLatencyArgs(Section, frozen=True):
    """``ttft_tpot_weight_factor``: the share of TTFT in the score, the rest is TPOT."""

    ttft_tpot_weight_factor: Annotated[float, Meta(ge=0, le=1)] = field(default=0.5, name="TTFTTPOTWeightFactor")


class PrefixCacheArgs(Section, frozen=True):
    """Block size in bytes of prompt text, blocks looked at per request, hashes kept per endpoint."""

    block_size_to_hash: Count = 64
    max_blocks_to_match: Count = 128
    max_hash_cache_size: Count = 50_000
    top_k_matches: Count = 5


class KVCacheArgs(Section, frozen=True):
    """Block size in tokens; the ports are where engines tokenize."""

    block_size_to_hash: Count = 16
    max_blocks_to_match: Count = 128
    vllm_tokenizer_port: Port = 8000
    sglang_tokenizer_port: Port = 30000


class Plugin(msgspec.Struct, frozen=True):
    """A plugin the configuration may name: where it can be enabled and what parameters it takes."""

    args: type[Section] = NoArgs
    filter: bool = False
    score: bool = False


PLUGINS: Mapping[str, Plugin] = {
    "least-request": Plugin(LeastRequestArgs, filter=True, score=True),
    "least-latency": Plugin(LeastLatencyArgs, score=True),
    "gpu-usage": Plugin(score=True),
    "random": Plugin(score=True),
    "lora-affinity": Plugin(filter=True),
    "prefix-cache": Plugin(PrefixCacheArgs, score=True),
    "kvcache-aware": Plugin(KVCacheArgs, score=True),
}
ALIASES: Mapping[str, str] = {"kv-cache": "kvcache-aware"}
"""Names of earlier releases, still read."""


class PluginConfig(Section, frozen=True):
    name: str
    args: dict[str, Any] = field(default_factory=dict)


class Enabled(Section, frozen=True):
    """One enabled plugin; the weight is relative to the other scorers' and means nothing to a filter."""

    name: str
    weight: Annotated[float, Meta(ge=0)] = 1


class Filters(Section, frozen=True):
    enabled: tuple[str | Enabled, ...] = ()
    disabled: tuple[str | Enabled, ...] = ()


class Scores(Section, frozen=True):
    enabled: tuple[str | Enabled, ...] = ()
    disabled: tuple[str | Enabled, ...] = ()


class Plugins(Section, frozen=True):
    filter: Filters = field(default=Filters(), name="Filter")
    score: Scores = field(default=Scores(), name="Score")


def canonical(name: str) -> str:
    return ALIASES.get(name, name)


def args_of(entry: PluginConfig) -> Section:
    """The plugin's parameters. Raises Fault."""
    plugin = PLUGINS.get(canonical(entry.name))
    if plugin is None:
        raise Fault(".name", f'no plugin "{entry.name}"{suggestion(entry.name, [*PLUGINS, *ALIASES])}')
    decoder = Decoder()
    made = decoder.build(entry.args, plugin.args, "")
    if made is INVALID:
        where, _, message = decoder.problems[0].partition(": ")
        raise Fault(f".args{where}", message)
    assert isinstance(made, Section)
    return made


def _checked(path: str, kind: str, section: Filters | Scores) -> None:
    seen: set[str] = set()
    for which, entries in (("enabled", section.enabled), ("disabled", section.disabled)):
        for index, entry in enumerate(entries):
            name = entry if isinstance(entry, str) else entry.name
            plugin = PLUGINS.get(canonical(name))
            where = f"{path}.{which}[{index}]"
            if plugin is None:
                raise Fault(where, f'no plugin "{name}"{suggestion(name, [*PLUGINS, *ALIASES])}')
            if not getattr(plugin, kind):
                raise Fault(where, f'"{name}" is not a {kind} plugin')
            if canonical(name) in seen:
                raise Fault(where, f'"{name}" is named twice')
            seen.add(canonical(name))


class Scheduler(Section, frozen=True):
    """``plugin_config`` gives parameters, ``plugins`` says what runs; an empty section leaves the built-in profile."""

    plugin_config: tuple[PluginConfig, ...] = ()
    plugins: Plugins = Plugins()

    def __post_init__(self) -> None:
        names = [canonical(entry.name) for entry in self.plugin_config]
        for index, entry in enumerate(self.plugin_config):
            try:
                args_of(entry)
            except Fault as fault:
                raise Fault(f".pluginConfig[{index}]{fault.path}", str(fault)) from None
            if names.index(names[index]) != index:
                raise Fault(f".pluginConfig[{index}].name", f'"{entry.name}" is configured twice')
        _checked(".plugins.Filter", "filter", self.plugins.filter)
        _checked(".plugins.Score", "score", self.plugins.score)

    def args(self, name: str) -> Section:
        """The parameters of a plugin, its defaults where none were given."""
        for entry in self.plugin_config:
            if canonical(entry.name) == canonical(name):
                return args_of(entry)
        return PLUGINS[canonical(name)].args()

    def filters(self) -> tuple[str, ...]:
        """Canonical names of the filters that run, in order."""
        return tuple(name for name, _ in _entries(self.plugins.filter))

    def scores(self) -> tuple[tuple[str, float], ...]:
        """Canonical names and weights of the scorers that run."""
        return _entries(self.plugins.score)


def _entries(section: Filters | Scores) -> tuple[tuple[str, float], ...]:
    pairs = ((entry, 1.0) if isinstance(entry, str) else (entry.name, entry.weight) for entry in section.enabled)
    return tuple((canonical(name), weight) for name, weight in pairs)
