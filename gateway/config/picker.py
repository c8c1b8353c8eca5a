"""EndpointPickerConfig, the reference endpoint picker's file → the scheduler section. (P)

Invariant: what decodes becomes a `Scheduler` of the same filters, scorers, weights and picker; a plugin that is not
there is refused with what to use, and what is read without effect is told by `inert`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, TypeVar

from msgspec import Meta, field

from gateway.config.decode import INVALID, Decoder, Fault, Section, member, suggestion
from gateway.config.scheduler import (
    DEFAULT,
    FILTERS,
    PICKER,
    SCORERS,
    Enabled,
    Listed,
    Picked,
    PluginConfig,
    Plugins,
    ProfileSpec,
    Scheduler,
)
from gateway.schedule import registry
from gateway.schedule.registry import Kind
from gateway.schedule.reuse import ApproxPrefixCache
from gateway.schedule.saturation import Concurrency, Saturation

S = TypeVar("S", bound=Section)
VERSIONS: Final = (
    "llm-d.ai/v1alpha1", "inference.networking.x-k8s.io/v1alpha1", "config.x-k8s.io/v1alpha1",
)  # fmt: skip
_PRODUCER: Final = "approx-prefix-cache-producer"
_PRODUCED_FOR: Final = ("prefix-cache-scorer", "prefix-cache-affinity-filter")
_USUAL: Final = (("queue-scorer", 2.0), ("kv-cache-utilization-scorer", 2.0), ("prefix-cache-scorer", 3.0))
"""What the reference picker runs where its file names no plugins."""

_DONE_ANYWAY: Final = frozenset(
    ("single-profile-handler", "openai-parser", "anthropic-parser", "vllmhttp-parser", "passthrough-parser",
     "metrics-data-source", "models-data-source", "core-metrics-extractor", "token-producer",
     "inflight-load-producer", _PRODUCER),
)  # fmt: skip
"""Types whose work the gateway does without them."""

_LATER: Final = frozenset(
    ("global-strict-fairness-policy", "round-robin-fairness-policy", "program-aware-fairness", "fcfs-ordering-policy",
     "edf-ordering-policy", "slo-deadline-ordering-policy", "static-usage-limit-policy", "priority-holdback-policy",
     "soft-reflective-ceiling-policy"),
)  # fmt: skip
"""Types of flow control: read, without effect."""

_INSTEAD: Final[Mapping[str, str]] = {
    "disagg-profile-handler": "prefill and decode apart are not supported; profiles are chosen by schedulingProfile",
    "pd-profile-handler": "prefill and decode apart are not supported; profiles are chosen by schedulingProfile",
    "data-parallel-profile-handler": "list each rank's port as an endpoint",
    "header-profile-handler": "a ModelServer's schedulingProfile chooses the profile, a route's modelMatch the server",
    "predicted-latency-producer": "cost learns the latencies itself",
    "latency-slo-admitter": "it asks a predictor beside the gateway",
    "probabilistic-admitter": "see fairness and limits",
    "file-discovery": "list the endpoints in a ModelServer",
    "k8s-notification-source": "endpoints come from ModelServer and InferencePool",
    "endpoint-notification-source": "endpoints come from ModelServer and InferencePool",
}
_GATES: Final = (
    "flowControl",
    "haPopulateNonLeaderDatastore",
    "dataLayer",
    "prepareDataPlugins",
    "enableLegacyMetrics",
)
_DATA_LAYER: Final = (
    "injectDefaults", "sources", "discovery", "peerDiscovery", "crossReplicaSyncerPluginRef",
    "crossReplicaSyncInterval",
)  # fmt: skip
_FLOW_CONTROL: Final = (
    "maxBytes", "maxRequests", "defaultRequestTTL", "noEndpointRequestTTL", "defaultPriorityBand",
    "defaultNegativePriorityBand", "priorityBands", "usageLimitPolicyPluginRef", "saturationDetector", "enableEviction",
)  # fmt: skip
_IDLE: Final = ("maxNumOfEndpoints", "metricsStalenessThreshold", "evictionSweepSeconds", "profileName")
"""Parameters that are read only."""

_ENDINGS: Final[Mapping[str, Kind]] = {"-scorer": "scorer", "-filter": "filter", "-picker": "picker"}


class PickerPlugin(Section, frozen=True):
    """One instance. ``type``: the plugin. ``name``: its own, else its type is one. ``parameters``: by name."""

    type: Annotated[str, Meta(min_length=1)]
    name: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def called(self) -> str:
        return self.name or self.type

    def kinds(self) -> tuple[Kind, ...]:
        """What it does in a profile: a type says so by its ending; others do all they can."""
        for ending, kind in _ENDINGS.items():
            if self.type.endswith(ending):
                return (kind,)
        kinds: tuple[Kind, ...] = ("filter", "scorer", "picker")
        plugin = None if self.type in _DONE_ANYWAY | _LATER else registry.find(self.type)
        return tuple(kind for kind in kinds if plugin is not None and registry.offers(plugin, kind))


class PluginRef(Section, frozen=True):
    """``plugin_ref``: the name of a plugin above. ``weight``: of a scorer, relative to the others."""

    plugin_ref: str
    weight: Annotated[float, Meta(ge=0)] = 1.0


class SchedulingProfile(Section, frozen=True):
    """One way of choosing endpoints. ``name``: by which a ModelServer chooses it; "default", or the first, is everybody
    else's. ``plugins``: what runs.
    """

    name: Annotated[str, Meta(min_length=1)]
    plugins: tuple[PluginRef, ...] = ()


class EndpointPickerConfig(Section, frozen=True):
    """As published. ``feature_gates``: names, with =false where one is off; without effect. ``plugins``: each is
    configured once, with its parameters. ``scheduling_profiles``: which of them run; none: all in one.
    ``request_handler``: which parsers there are; the gateway knows all anyway. ``data_layer``: where metrics come from;
    without effect. ``flow_control``: of it, only saturationDetector has an effect. ``saturation_detector``: earlier
    releases had its thresholds here.
    """

    feature_gates: tuple[str, ...] = ()
    plugins: tuple[PickerPlugin, ...] = ()
    scheduling_profiles: tuple[SchedulingProfile, ...] = ()
    request_handler: dict[str, Any] = field(default_factory=dict)
    data_layer: dict[str, Any] = field(default_factory=dict)
    flow_control: dict[str, Any] = field(default_factory=dict)
    saturation_detector: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for index, gate in enumerate(self.feature_gates):
            if _gate(gate)[0] not in _GATES:
                raise Fault(f".featureGates[{index}]", f'no feature gate "{gate}"{suggestion(gate, _GATES)}')
        for index, plugin in enumerate(self.plugins):
            self._check(f".plugins[{index}]", plugin)
            if self._plugin(plugin.called) is not plugin:
                raise Fault(f".plugins[{index}].name", f'"{plugin.called}" is configured twice')
        for index, profile in enumerate(self.scheduling_profiles):
            self._check_profile(f".schedulingProfiles[{index}]", profile)
        self._check_section(".requestHandler", self.request_handler, ("parsers",))
        self._check_section(".dataLayer", self.data_layer, _DATA_LAYER)
        _check_names(".flowControl", self.flow_control, _FLOW_CONTROL)
        self.saturation()

    def _check_section(self, path: str, tree: dict[str, Any], known: Sequence[str]) -> None:
        _check_names(path, tree, known)
        self._check_refs(path, tree)

    def _check_refs(self, path: str, tree: Any) -> None:
        if isinstance(tree, list):
            for index, item in enumerate(tree):
                self._check_refs(f"{path}[{index}]", item)
        for name, item in tree.items() if isinstance(tree, dict) else ():
            if name == "pluginRef" and item not in _DONE_ANYWAY and self._plugin(item) is None:
                near = suggestion(str(item), [plugin.called for plugin in self.plugins])
                raise Fault(f"{path}.pluginRef", f'no plugin is called "{item}"{near}')
            self._check_refs(member(path, name), item)

    def _check(self, path: str, plugin: PickerPlugin) -> None:
        if plugin.type in _DONE_ANYWAY | _LATER and plugin.type != _PRODUCER:
            return
        try:
            kind = ApproxPrefixCache if plugin.type == _PRODUCER else registry.find(plugin.type)
        except ValueError as error:
            instead = _INSTEAD.get(plugin.type)
            raise Fault(f"{path}.type", f'no plugin "{plugin.type}": {instead}' if instead else str(error)) from None
        _decoded(f"{path}.parameters", plugin.parameters, kind)
        producer = plugin.parameters.get("prefixMatchInfoProducerName")
        if producer and self._plugin(producer) is None:
            raise Fault(f"{path}.parameters.prefixMatchInfoProducerName", f'no plugin is called "{producer}"')

    def _check_profile(self, path: str, profile: SchedulingProfile) -> None:
        if any(other.name == profile.name for other in self.scheduling_profiles if other is not profile):
            raise Fault(f"{path}.name", f'"{profile.name}" is configured twice')
        pickers = 0
        for index, ref in enumerate(profile.plugins):
            where, plugin = f"{path}.plugins[{index}].pluginRef", self._plugin(ref.plugin_ref)
            if plugin is None:
                near = suggestion(ref.plugin_ref, [plugin.called for plugin in self.plugins])
                raise Fault(where, f'no plugin is called "{ref.plugin_ref}"{near}')
            kinds = plugin.kinds()
            if not kinds:
                raise Fault(where, f'"{ref.plugin_ref}" is neither a filter nor a scorer nor a picker')
            pickers += kinds == ("picker",)
            if pickers > 1:
                raise Fault(where, "a second picker")
            if any(self._plugin(other.plugin_ref) is plugin for other in profile.plugins[:index]):
                raise Fault(where, f'"{ref.plugin_ref}" is named twice')

    def _plugin(self, called: str) -> PickerPlugin | None:
        return next((plugin for plugin in self.plugins if plugin.called == called), None)

    # --- the scheduler section ----------------------------------------------------------------------------------------

    def scheduler(self) -> Scheduler:
        """The profile called default, or the first one, is the section itself; the others are named profiles."""
        if not self.plugins:
            enabled = tuple(Enabled(name=name, weight=weight) for name, weight in _USUAL)
            usual = Plugins(filter=Listed(disabled=FILTERS), score=Listed(enabled=enabled))
            return Scheduler(plugins=usual, saturation=self.saturation())
        every = SchedulingProfile(name=DEFAULT, plugins=tuple(map(_ref, filter(PickerPlugin.kinds, self.plugins))))
        profiles = {profile.name: self._profile(profile) for profile in self.scheduling_profiles or (every,)}
        first = DEFAULT if DEFAULT in profiles else next(iter(profiles))
        main = profiles.pop(first)
        return Scheduler(
            plugin_config=main.plugin_config,
            plugins=main.plugins,
            picker=main.picker,
            profiles=profiles,
            saturation=self.saturation(),
        )

    def _profile(self, profile: SchedulingProfile) -> ProfileSpec:
        used = [(plugin, ref.weight) for ref in profile.plugins if (plugin := self._plugin(ref.plugin_ref)) is not None]
        used.sort(key=lambda pair: pair[0].type == "no-hit-lru-scorer")  # it goes by what prefix scorers found
        filters = tuple(plugin.called for plugin, _ in used if "filter" in plugin.kinds())
        scores = tuple(Enabled(name=plugin.called, weight=w) for plugin, w in used if "scorer" in plugin.kinds())
        pickers = [plugin for plugin, _ in used if plugin.kinds() == ("picker",)]
        return ProfileSpec(
            plugin_config=tuple(
                PluginConfig(name=plugin.called, type=plugin.type, args=self._parameters(plugin))
                for plugin, _ in used
                if plugin not in pickers
            ),
            # a profile of the reference picker runs what it names, and nothing beside
            plugins=Plugins(
                filter=Listed(enabled=filters, disabled=() if filters else FILTERS),
                score=Listed(enabled=scores, disabled=() if scores else SCORERS),
            ),
            picker=Picked(name=pickers[0].type, args=pickers[0].parameters) if pickers else PICKER,
        )

    def _parameters(self, plugin: PickerPlugin) -> dict[str, Any]:
        """With those of the producer that cuts prompts for it."""
        if plugin.type not in _PRODUCED_FOR:
            return plugin.parameters
        named = plugin.parameters.get("prefixMatchInfoProducerName")
        found = (p for p in self.plugins if (p.called == named if named else p.type == _PRODUCER))
        producer = next(found, None)
        return plugin.parameters if producer is None else {**producer.parameters, **plugin.parameters}

    def saturation(self) -> Saturation | Concurrency:
        """Of the detector that flow control names, of the only one there is, or as published. Raises Fault."""
        if self.saturation_detector and "pluginRef" not in self.saturation_detector:
            return _decoded(".saturationDetector", self.saturation_detector, Saturation)
        where, given = ".flowControl.saturationDetector", self.flow_control.get("saturationDetector")
        if given is None:
            where, given = ".saturationDetector", self.saturation_detector
        named = given.get("pluginRef") if isinstance(given, dict) else None
        detectors = [
            plugin for plugin in self.plugins if plugin.type in ("utilization-detector", "concurrency-detector")
        ]
        found = [plugin for plugin in detectors if named in (None, plugin.called)]
        if not found and named is not None:
            raise Fault(f"{where}.pluginRef", f'no detector is called "{named}"')
        if not found:
            return Saturation()
        if found[0].type == "concurrency-detector":
            return _decoded("", found[0].parameters, Concurrency)
        return _decoded("", found[0].parameters, Saturation)

    # --- what does nothing --------------------------------------------------------------------------------------------

    def inert(self) -> Iterator[str]:
        """JSON paths of what is read and has no effect."""
        yield from (
            f"$.featureGates[{n}]" for n, gate in enumerate(self.feature_gates) if _gate(gate) == (_GATES[0], True)
        )
        yield from (f"$.flowControl.{name}" for name in self.flow_control if name != "saturationDetector")
        yield from (f"$.dataLayer.{name}" for name in self.data_layer if name != "injectDefaults")
        for index, plugin in enumerate(self.plugins):
            if plugin.type in _LATER:
                yield f"$.plugins[{index}]"
            elif plugin.type in _DONE_ANYWAY and plugin.type != _PRODUCER and plugin.parameters:
                yield f"$.plugins[{index}].parameters"
            yield from (f"$.plugins[{index}].parameters.{name}" for name in _IDLE if name in plugin.parameters)


def _check_names(path: str, tree: dict[str, Any], known: Sequence[str]) -> None:
    for name in tree:
        if name not in known:
            raise Fault(member(path, name), f"unknown field{suggestion(name, known)}")


def _gate(text: str) -> tuple[str, bool]:
    name, _, value = text.partition("=")
    return name, value != "false"


def _ref(plugin: PickerPlugin) -> PluginRef:
    return PluginRef(plugin_ref=plugin.called)


def _decoded(path: str, tree: dict[str, Any], kind: type[S]) -> S:
    decoder = Decoder()
    made = decoder.build(tree, kind, "")
    if made is INVALID:
        where, _, message = decoder.problems[0].partition(": ")
        raise Fault(path + where, message)
    assert isinstance(made, kind)
    return made
