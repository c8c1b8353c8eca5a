"""EndpointPickerConfig: the same profiles under other names, and what is refused or has no effect."""
# ruff: noqa: E501 - messages are quoted whole

from __future__ import annotations

import pytest

from gateway.config.document import ConfigError, parse
from gateway.config.load import load
from gateway.config.picker import VERSIONS
from gateway.config.scheduler import ProfileSpec, Scheduler
from gateway.config.snapshot import Snapshot
from gateway.schedule.build import build
from gateway.schedule.reuse import PrefixCacheScorer
from gateway.schedule.saturation import Concurrency, Saturation
from tests.gateway.schedule.fleet import parts

USUAL = [("queue-scorer", 2.0), ("kv-cache-utilization-scorer", 2.0), ("prefix-cache-scorer", 3.0)]
SERVER = """---
apiVersion: networking.serving.volcano.sh/v1alpha1
kind: ModelServer
metadata: {name: a}
spec: {inferenceEngine: vLLM, endpoints: ['http://a:8000'], schedulingProfile: PROFILE}
"""


def document(text: str, version: str = VERSIONS[0]) -> str:
    return f"---\napiVersion: {version}\nkind: EndpointPickerConfig\n{text}\n"


def loaded(text: str) -> Snapshot:
    return load(parse("p.yaml", text.encode(), ""))


def read(text: str) -> Scheduler:
    made = loaded(document(text)).settings.scheduler
    for profile in (made, *made.profiles.values()):
        build(profile, parts())
    return made


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(text)
    return [problem.removeprefix("p.yaml, document 1 (EndpointPickerConfig): ") for problem in caught.value.problems]


def scores(profile: ProfileSpec) -> list[tuple[str, float]]:
    return [(chosen.name, chosen.weight) for chosen in profile.scores()]


def filters(profile: ProfileSpec) -> list[str]:
    return [chosen.name for chosen in profile.filters()]


@pytest.mark.parametrize("version", VERSIONS)
def test_without_plugins_the_published_ones_run(version: str) -> None:
    made = loaded(document("", version)).settings.scheduler
    assert scores(made) == USUAL
    assert filters(made) == ["healthy"]
    assert made.picks().name == "max-score"
    assert made.saturation == Saturation()


def test_plugins_without_a_profile_make_one() -> None:
    made = read(
        "plugins: [{type: queue-scorer}, {type: decode-filter}, {type: single-profile-handler}, {type: random-picker}]"
    )
    assert (filters(made), scores(made)) == (["healthy", "decode-filter"], [("queue-scorer", 1.0)])
    assert made.picks().name == "random-picker"


WHOLE = """
featureGates: [flowControl=false, "haPopulateNonLeaderDatastore=true"]
plugins:
- {type: queue-scorer}
- {name: by-kv, type: kv-cache-utilization-scorer}
- {name: cut, type: approx-prefix-cache-producer, parameters: {blockSizeTokens: 128, lruCapacityPerServer: 99}}
- {type: prefix-cache-scorer, parameters: {matchLengthWeight: 0.25, prefixMatchInfoProducerName: cut}}
- {name: h100, type: label-selector-filter, parameters: {matchLabels: {gpu: h100}}}
- {name: l4, type: label-selector-filter, parameters: {matchLabels: {gpu: l4}}}
- {type: no-hit-lru-scorer}
- {type: lora-affinity-scorer}
- {name: pick, type: weighted-random-picker, parameters: {maxNumOfEndpoints: 1}}
- {type: max-score-picker}
- {type: openai-parser}
schedulingProfiles:
- {name: cheap, plugins: [{pluginRef: l4}, {pluginRef: max-score-picker}]}
- name: default
  plugins:
  - {pluginRef: h100}
  - {pluginRef: no-hit-lru-scorer}
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: by-kv, weight: 0.5}
  - {pluginRef: prefix-cache-scorer, weight: 3}
  - {pluginRef: lora-affinity-scorer}
  - {pluginRef: pick}
requestHandler: {parsers: [{pluginRef: openai-parser}]}
dataLayer: {injectDefaults: true}
"""


def test_profiles() -> None:
    made = read(WHOLE)
    assert filters(made) == ["healthy", "h100"]
    assert scores(made) == [
        ("queue-scorer", 2.0), ("by-kv", 0.5), ("prefix-cache-scorer", 3.0), ("lora-affinity-scorer", 1.0),
        ("no-hit-lru-scorer", 1.0),
    ]  # fmt: skip
    assert made.picks().name == "weighted-random-picker"
    prefix = made.scores()[2].plugin
    assert isinstance(prefix, PrefixCacheScorer)
    assert (prefix.cut().size, prefix.lru_capacity_per_server, prefix.match_length_weight) == (512, 99, 0.25)
    cheap = made.profiles["cheap"]
    assert (filters(cheap), scores(cheap)) == (["healthy", "l4"], [])
    assert cheap.filters()[1].plugin.match_labels == {"gpu": "l4"}  # type: ignore[attr-defined]


def test_the_first_profile_is_the_default_where_none_is_called_so() -> None:
    made = read(WHOLE.replace("name: default", "name: other"))
    assert (filters(made), list(made.profiles)) == (["healthy", "l4"], ["other"])


def test_servers_choose_by_name() -> None:
    snapshot = loaded(document(WHOLE) + SERVER.replace("PROFILE", "cheap"))
    assert snapshot.pools[0].profile == "cheap"
    assert loaded(document(WHOLE) + SERVER.replace("PROFILE", "default")).pools[0].profile == ""
    assert problems(document(WHOLE) + SERVER.replace("PROFILE", "chea")) == [
        'p.yaml, document 2 (ModelServer/a): $.spec.schedulingProfile: no profile "chea" in the scheduler section; did you mean "cheap"?'
    ]


def test_a_broken_section_is_not_also_reported_by_those_who_name_its_profiles() -> None:
    assert len(problems(document("plugins: [{type: x}]") + SERVER.replace("PROFILE", "cheap"))) == 1
    broken = "---\napiVersion: infer-gateway.dev/v1alpha1\nkind: GatewayConfiguration\nscheduler: {profile: {}}\n"
    assert len(problems(SERVER.replace("PROFILE", "cheap") + broken)) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "plugins: [{type: utilization-detector, parameters: {queueDepthThreshold: 9}}]",
            Saturation(queue_depth_threshold=9),
        ),
        (
            "plugins: [{type: concurrency-detector, parameters: {maxConcurrency: 7}}]",
            Concurrency(max_concurrency=7),
        ),
        (
            """
plugins:
- {type: utilization-detector}
- {name: mine, type: concurrency-detector, parameters: {concurrencyMode: hybrid}}
flowControl: {saturationDetector: {pluginRef: mine}}""",
            Concurrency(concurrency_mode="hybrid"),
        ),
        (
            "saturationDetector: {queueDepthThreshold: 6, kvCacheUtilThreshold: 0.7, metricsStalenessThreshold: 200ms}",
            Saturation(queue_depth_threshold=6, kv_cache_util_threshold=0.7, metrics_staleness_threshold="200ms"),
        ),
    ],
)
def test_saturation(text: str, expected: object) -> None:
    assert read(text).saturation == expected


def test_a_detector_filters_where_a_profile_names_it() -> None:
    text = "plugins: [{type: utilization-detector}, {type: queue-scorer}]"
    named = "schedulingProfiles: [{name: a, plugins: [{pluginRef: utilization-detector}]}]"
    assert filters(read(text)) == ["healthy", "utilization-detector"]
    assert filters(read(f"{text}\n{named}")) == ["healthy", "utilization-detector"]
    assert filters(read(f"{text}\n{named.replace('utilization-detector', 'queue-scorer')}")) == ["healthy"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("plugin: []", '$.plugin: unknown field; did you mean "plugins"?'),
        (
            "featureGates: [flowControls]",
            '$.featureGates[0]: no feature gate "flowControls"; did you mean "flowControl"?',
        ),
        ("plugins: [{type: queue-score}]", '$.plugins[0].type: no plugin "queue-score"; did you mean "queue-scorer"?'),
        ("plugins: [{name: a}]", '$.plugins[0]: missing required field "type"'),
        ("plugins: [{type: latency-scorer}]", '$.plugins[0].type: no plugin "latency-scorer": it asks a predictor'),
        (
            "plugins: [{type: disagg-profile-handler}]",
            '$.plugins[0].type: no plugin "disagg-profile-handler": prefill and',
        ),
        (
            "plugins: [{type: queue-scorer}, {type: queue-scorer}]",
            '$.plugins[1].name: "queue-scorer" is configured twice',
        ),
        (
            "plugins: [{type: load-aware-scorer, parameters: {treshold: 1}}]",
            '$.plugins[0].parameters.treshold: unknown field; did you mean "threshold"?',
        ),
        (
            "plugins: [{type: approx-prefix-cache-producer, parameters: {blockSizeToken: 1}}]",
            "$.plugins[0].parameters.blockSizeToken: unknown field",
        ),
        (
            "plugins: [{type: prefix-cache-scorer, parameters: {prefixMatchInfoProducerName: x}}]",
            '$.plugins[0].parameters.prefixMatchInfoProducerName: no plugin is called "x"',
        ),
        (
            "plugins: [{type: session-affinity-scorer, parameters: {strategy: encoded_endpoint_header}}]",
            '$.plugins[0].parameters.strategy: expected "session_id"',
        ),
        (
            "plugins: [{type: queue-scorer}]\nschedulingProfiles: [{name: a, plugins: [{pluginRef: queue-scores}]}]",
            '$.schedulingProfiles[0].plugins[0].pluginRef: no plugin is called "queue-scores"; did you mean "queue-scorer"?',
        ),
        (
            "plugins: [{type: openai-parser}]\nschedulingProfiles: [{name: a, plugins: [{pluginRef: openai-parser}]}]",
            '$.schedulingProfiles[0].plugins[0].pluginRef: "openai-parser" is neither a filter nor a scorer nor a picker',
        ),
        (
            "plugins: [{type: random-picker}, {type: max-score-picker}]\nschedulingProfiles: "
            "[{name: a, plugins: [{pluginRef: random-picker}, {pluginRef: max-score-picker}]}]",
            "$.schedulingProfiles[0].plugins[1].pluginRef: a second picker",
        ),
        (
            "plugins: [{type: queue-scorer}]\nschedulingProfiles: "
            "[{name: a, plugins: [{pluginRef: queue-scorer}, {pluginRef: queue-scorer}]}]",
            '$.schedulingProfiles[0].plugins[1].pluginRef: "queue-scorer" is named twice',
        ),
        (
            "plugins: [{type: queue-scorer}]\nschedulingProfiles: [{name: a, plugins: [{pluginRef: queue-scorer, weight: -1}]}]",
            "$.schedulingProfiles[0].plugins[0].weight: expected float >= 0.0",
        ),
        ("schedulingProfiles: [{name: a}, {name: a}]", '$.schedulingProfiles[0].name: "a" is configured twice'),
        (
            "flowControl: {saturationDetector: {pluginRef: x}}",
            '$.flowControl.saturationDetector.pluginRef: no detector is called "x"',
        ),
        (
            "plugins: [{type: metrics-data-source, name: mine}]\n"
            "dataLayer: {sources: [{pluginRef: mine, extractors: [{pluginRef: min}]}]}",
            '$.dataLayer.sources[0].extractors[0].pluginRef: no plugin is called "min"; did you mean "mine"?',
        ),
        (
            "requestHandler: {parsers: [{pluginRef: x}]}",
            '$.requestHandler.parsers[0].pluginRef: no plugin is called "x"',
        ),
        ("requestHandler: {parser: []}", '$.requestHandler.parser: unknown field; did you mean "parsers"?'),
        ("dataLayer: {source: []}", '$.dataLayer.source: unknown field; did you mean "sources"?'),
        ("flowControl: {maxByte: 1}", '$.flowControl.maxByte: unknown field; did you mean "maxBytes"?'),
        ("saturationDetector: {queueDepth: 1}", "$.saturationDetector.queueDepth: unknown field"),
    ],
)
def test_refused(text: str, problem: str) -> None:
    (found,) = problems(document(text))
    assert found.startswith(problem)


def test_what_has_no_effect_is_told() -> None:
    snapshot = loaded(
        document("""
featureGates: [dataLayer, flowControl]
plugins:
- {type: fcfs-ordering-policy}
- {type: metrics-data-source, parameters: {interval: 1s}}
- {type: max-score-picker, parameters: {maxNumOfEndpoints: 3}}
- {type: utilization-detector, parameters: {metricsStalenessThreshold: 200ms}}
- {type: approx-prefix-cache-producer, parameters: {blockSizeTokens: 64}}
dataLayer: {injectDefaults: true, crossReplicaSyncInterval: 1s}
flowControl: {maxRequests: 5, saturationDetector: {pluginRef: utilization-detector}}
""")
    )
    assert [place.removeprefix("p.yaml, document 1 (EndpointPickerConfig): ") for place in snapshot.inert] == [
        "$.featureGates[1]",
        "$.flowControl.maxRequests",
        "$.dataLayer.crossReplicaSyncInterval",
        "$.plugins[0]",
        "$.plugins[1].parameters",
        "$.plugins[2].parameters.maxNumOfEndpoints",
        "$.plugins[3].parameters.metricsStalenessThreshold",
    ]


def test_it_is_the_scheduler_section_and_there_is_one() -> None:
    ours = "---\napiVersion: infer-gateway.dev/v1alpha1\nkind: GatewayConfiguration\nscheduler: {picker: random}\n"
    where = "p.yaml, document 1 (EndpointPickerConfig)"
    assert problems(document("") + ours) == [
        f"p.yaml, document 2 (GatewayConfiguration): $.scheduler: also given in {where}"
    ]
    assert problems(ours + document(""))[0].endswith(
        "$: this is the scheduler section, also given in p.yaml, document 1 (GatewayConfiguration)"
    )
    assert problems(document("") + document(""))[0].endswith(f"also given in {where}")


def test_neighbours_of_its_api_groups_are_ignored() -> None:
    text = "apiVersion: inference.networking.x-k8s.io/v1alpha1\nkind: InferencePoolImport\nmetadata: {name: a}\n"
    assert len(loaded(text).warnings) == 1
