"""The `scheduler` section in its published shape: profiles, their plugins, what the plugins are told. (P)

Invariant: a `Scheduler` names only plugins that exist, where they can be used, with arguments that fit them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, field

from gateway.config.decode import INVALID, Decoder, Fault, Section, member, suggestion
from gateway.config.resources import StickySource
from gateway.schedule import registry
from gateway.schedule.registry import Kind, canonical
from gateway.schedule.saturation import Concurrency, Saturation

DEFAULT: Final = "default"
ALWAYS: Final = ("healthy",)
"""Filters that run unless they are disabled, whatever is enabled."""
FILTERS: Final = ("lora-affinity", "context-length")
SCORERS: Final = ("cost",)
PICKER: Final = "max-score"
"""What runs where a configuration enables nothing of a kind."""


class PluginConfig(Section, frozen=True):
    """Parameters. ``name``: the plugin, or a name of its own. ``type``: the plugin, where ``name`` is a name of its
    own, so that one may run twice. ``args``: its parameters, by name.
    """

    name: str
    type: str = ""
    args: dict[str, Any] = field(default_factory=dict)


class Enabled(Section, frozen=True):
    """One enabled plugin. ``name``: as configured, or the plugin's. ``weight``: relative to the other scorers'; means
    nothing to a filter.
    """

    name: str
    weight: Annotated[float, Meta(ge=0)] = 1


class Listed(Section, frozen=True):
    """Plugins of a kind. ``enabled``: these run instead of the built-in ones. ``disabled``: these do not, of either;
    "*": all built-in ones.
    """

    enabled: tuple[str | Enabled, ...] = ()
    disabled: tuple[str | Enabled, ...] = ()

    def running(self, always: Sequence[str], usual: Sequence[str]) -> tuple[tuple[str, float], ...]:
        """Names and weights."""
        off = {canonical(_name(entry)) for entry in self.disabled}
        chosen = [(_name(entry), 1.0 if isinstance(entry, str) else entry.weight) for entry in self.enabled]
        given = {canonical(name) for name, _ in chosen}
        built_in = [] if "*" in off else [*always, *(() if chosen else usual)]
        running = [*((name, 1.0) for name in built_in if name not in given), *chosen]
        return tuple((name, weight) for name, weight in running if canonical(name) not in off)


class Plugins(Section, frozen=True):
    """What runs. ``filter``: who may be chosen. ``score``: who is the better choice."""

    filter: Listed = field(default=Listed(), name="Filter")
    score: Listed = field(default=Listed(), name="Score")


class Chosen(msgspec.Struct, frozen=True):
    """A plugin that runs, with its parameters, under the name it has in the configuration."""

    name: str
    plugin: Section
    weight: float = 1.0


class Picked(Section, frozen=True):
    """A picker with parameters. ``name``: of the picker. ``args``: its parameters, by name."""

    name: str
    args: dict[str, Any] = field(default_factory=dict)


class ProfileSpec(Section, frozen=True):
    """One way of choosing endpoints; an empty one is the built-in profile. ``plugin_config``: parameters of plugins.
    ``plugins``: which run. ``picker``: who chooses by the scores, a name or one with ``args``.
    """

    plugin_config: tuple[PluginConfig, ...] = ()
    plugins: Plugins = Plugins()
    picker: str | Picked = PICKER

    def __post_init__(self) -> None:
        Fault.together(self._faults())

    def _faults(self) -> Iterator[Fault]:
        seen: dict[str, str] = {}
        for index, entry in enumerate(self.plugin_config):
            yield from _caught(self._check_config, f".pluginConfig[{index}]", entry, seen)
        yield from self._check(".plugins.Filter", "filter", self.plugins.filter)
        yield from self._check(".plugins.Score", "scorer", self.plugins.score)
        if self.picker != PICKER:
            yield from _caught(self._check_picker)

    def _check_config(self, where: str, entry: PluginConfig, seen: dict[str, str]) -> None:
        _once(f"{where}.name", entry.name, seen, "configured")
        _built(where, ".type" if entry.type else ".name", entry.type or entry.name, entry.args, named=not entry.type)

    def _check(self, path: str, kind: Kind, section: Listed) -> Iterator[Fault]:
        for which, entries in (("enabled", section.enabled), ("disabled", section.disabled)):
            seen: dict[str, str] = {}
            for index, entry in enumerate(entries):
                where, name = f"{path}.{which}[{index}]", _name(entry)
                if name != "*" or which == "enabled":
                    yield from _caught(_once, where, name, seen, "named")
                    yield from _caught(self._offering, where, name, kind)

    def _offering(self, where: str, name: str, kind: Kind) -> None:
        entry = self._entry(name)
        if entry is None:
            plugin = type(_built(where, "", name, {}))
        else:
            try:
                plugin = registry.find(entry.type or entry.name)
            except ValueError:
                return  # told where it is configured
        if not registry.offers(plugin, kind):
            raise Fault(where, f'"{name}" is no {kind}')

    def _check_picker(self) -> None:
        if isinstance(self.picker, str):
            self._offering(".picker", self.picker, "picker")
            return
        _built(".picker", ".name", self.picker.name, self.picker.args)
        self._offering(".picker.name", self.picker.name, "picker")

    def _entry(self, name: str) -> PluginConfig | None:
        wanted = canonical(name)
        return next((entry for entry in self.plugin_config if canonical(entry.name) == wanted), None)

    def unused(self) -> Iterator[str]:
        """Paths, from here, of parameters for plugins that do not run."""
        running = {canonical(chosen.name) for chosen in (*self.filters(), *self.scores(), self.picks())}
        for index, entry in enumerate(self.plugin_config):
            if canonical(entry.name) not in running:
                yield f".pluginConfig[{index}]"

    def claims(self) -> Iterator[str]:
        """Names of the claims of a caller's token that plugins go by."""
        for entry in self.plugin_config:
            for source in getattr(self.args(entry.name), "sources", ()):
                if isinstance(source, StickySource) and source.type == "JWTClaim":
                    yield source.name

    def args(self, name: str) -> Section:
        """The plugin of that name, with its parameters: the defaults where none were given."""
        entry = self._entry(name)
        if entry is None:
            return registry.find(name)()
        return _built("", "", entry.type or entry.name, entry.args)

    def filters(self) -> tuple[Chosen, ...]:
        """Those that run, in order."""
        return self._chosen(self.plugins.filter.running(ALWAYS, FILTERS))

    def scores(self) -> tuple[Chosen, ...]:
        """Those that run, with their weights."""
        return self._chosen(self.plugins.score.running((), SCORERS))

    def picks(self) -> Chosen:
        picker = self.picker
        if isinstance(picker, str):
            return Chosen(picker, self.args(picker))
        return Chosen(picker.name, _built("", "", picker.name, picker.args))

    def _chosen(self, names: Iterable[tuple[str, float]]) -> tuple[Chosen, ...]:
        return tuple(Chosen(name, self.args(name), weight) for name, weight in names)


class Scheduler(ProfileSpec, frozen=True):
    """The default profile, the named ones that a ModelServer may choose, and when a pool counts as full.
    ``plugin_config``: parameters of plugins. ``plugins``: which run. ``picker``: who chooses by the scores, a name or
    one with ``args``. ``profiles``: further ones, by name. ``saturation``: when a pool counts as full.
    ``debug_header``: whether a client may ask why its request went where it did; None: on loopback only.
    """

    profiles: dict[str, ProfileSpec] = field(default_factory=dict)
    saturation: Saturation | Concurrency = Saturation()
    debug_header: bool | None = None

    def __post_init__(self) -> None:
        ProfileSpec.__post_init__(self)  # a frozen struct's bases are not reached by super()
        if DEFAULT in self.profiles:
            raise Fault(f".profiles.{DEFAULT}", "the section itself is the default profile")

    def profile(self, name: str) -> ProfileSpec:
        """Of that name; "" and "default" mean the section itself. Raises KeyError."""
        return self if name in ("", DEFAULT) else self.profiles[name]

    def parts(self) -> Iterator[tuple[str, ProfileSpec]]:
        """All profiles, with their paths from here."""
        yield "", self
        yield from ((member(".profiles", name), spec) for name, spec in self.profiles.items())

    def check_profile(self, name: str) -> str:
        """What is wrong with naming this profile, "" if nothing."""
        if name in (*self.profiles, "", DEFAULT):
            return ""
        return f'no profile "{name}" in the scheduler section{suggestion(name, (*self.profiles, DEFAULT))}'


def _name(entry: str | Enabled) -> str:
    return entry if isinstance(entry, str) else entry.name


def _found(where: str, name: str, *, named: bool) -> type[Section]:
    try:
        return registry.find(name)
    except ValueError as error:
        own = '; if the name is your own, say under "type" which plugin it is'
        near = str(error) != f'no plugin "{name}"'
        raise Fault(where, f"{error}{own if named and not near else ''}") from None


def _built(where: str, at: str, name: str, args: dict[str, Any], *, named: bool = False) -> Section:
    """The plugin ``name`` with these parameters. Raises Fault below ``where``; ``at`` is where the name stands.

    ``named``: it might have been meant as a name of its own.
    """
    plugin, decoder = _found(where + at, name, named=named), Decoder()
    made = decoder.build(args, plugin, "")
    if made is INVALID:
        parted = (problem.partition(": ") for problem in decoder.problems)
        Fault.together(Fault(f"{where}.args{path}", message) for path, _, message in parted)
    assert isinstance(made, Section)
    return made


def _once(where: str, name: str, seen: dict[str, str], what: str) -> None:
    """Raises Fault for a plugin that stands in ``seen`` already, whatever it is called there."""
    first = seen.setdefault(canonical(name), "")
    if first:
        again = f'"{name}" is another name of "{first}", which is {what} already'
        raise Fault(where, f'"{name}" is {what} twice' if first == name else again)
    seen[canonical(name)] = name


def _caught(check: Callable[..., None], *given: Any) -> Iterator[Fault]:
    """The fault of one check, so that the others are made too."""
    try:
        check(*given)
    except Fault as fault:
        yield fault
