"""The scheduler section: what runs, with which parameters, and how a wrong one is told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import yaml

from gateway.config.decode import INVALID, Decoder
from gateway.config.scheduler import Scheduler
from gateway.schedule.queues import LeastRequest
from gateway.schedule.saturation import Saturation


def read(text: str) -> Scheduler:
    decoder = Decoder()
    made = decoder.build(yaml.safe_load(text), Scheduler, "$")
    assert decoder.problems == []
    assert isinstance(made, Scheduler)
    return made


def filters(text: str) -> list[str]:
    return [chosen.name for chosen in read(f"plugins: {{Filter: {text}}}").filters()]


def scores(text: str) -> list[tuple[str, float]]:
    return [(chosen.name, chosen.weight) for chosen in read(f"plugins: {{Score: {text}}}").scores()]


def test_an_empty_section_is_the_built_in_profile() -> None:
    made = read("{}")
    assert [chosen.name for chosen in made.filters()] == ["healthy", "lora-affinity", "context-length"]
    assert [chosen.name for chosen in made.scores()] == ["cost"]
    assert made.picks().name == "max-score"
    assert made.saturation == Saturation(queue_depth_threshold=5, kv_cache_util_threshold=0.8, headroom=0)


def test_one_kind_given_leaves_the_other_built_in() -> None:
    made = read("plugins: {Filter: {enabled: [least-request]}}")
    assert [chosen.name for chosen in made.scores()] == ["cost"]
    made = read("plugins: {Score: {enabled: [least-request]}}")
    assert [chosen.name for chosen in made.filters()] == ["healthy", "lora-affinity", "context-length"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{enabled: [least-request]}", ["healthy", "least-request"]),
        ("{enabled: [least-request, lora-affinity], disabled: [lora-affinity]}", ["healthy", "least-request"]),
        ("{enabled: [{name: least-request}, healthy]}", ["least-request", "healthy"]),
        ("{disabled: [lora-affinity]}", ["healthy", "context-length"]),
        ("{disabled: [healthy]}", ["lora-affinity", "context-length"]),
        ('{disabled: ["*"]}', []),
        ('{enabled: [least-request], disabled: ["*"]}', ["least-request"]),
        ("{enabled: [label-selector-filter], disabled: [label-selector]}", ["healthy"]),
    ],
)
def test_filters_enabled_and_disabled(text: str, expected: list[str]) -> None:
    assert filters(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{enabled: [{name: random, weight: 0.5}, least-request]}", [("random", 0.5), ("least-request", 1.0)]),
        ("{enabled: [random, {name: gpu-usage}], disabled: [{name: kv-cache}]}", [("random", 1.0)]),
        ("{disabled: [cost]}", []),
        ("{enabled: [cost, random]}", [("cost", 1.0), ("random", 1.0)]),
    ],
)
def test_scorers_enabled_and_disabled(text: str, expected: list[tuple[str, float]]) -> None:
    assert scores(text) == expected


def test_parameters() -> None:
    made = read("""
pluginConfig:
- {name: least-request, args: {maxWaitingRequests: 3}}
- {name: h100, type: label-selector, args: {matchLabels: {gpu: h100}}}
- {name: not-l4, type: label-selector-filter, args: {matchExpressions: [{key: gpu, operator: NotIn, values: [l4]}]}}
- {name: gpu-usage}
plugins:
  Filter: {enabled: [least-request, h100, not-l4]}
  Score: {enabled: [least-request, kv-cache]}
picker: {name: weighted-random}
""")
    assert made.args("least-request") == LeastRequest(max_waiting_requests=3)
    _, least, h100, rest = (chosen.plugin for chosen in made.filters())
    assert least is not None
    assert h100.match_labels == {"gpu": "h100"}  # type: ignore[attr-defined]
    assert rest.match_expressions[0].values == ("l4",)  # type: ignore[attr-defined]
    assert made.picks().name == "weighted-random"
    assert msgspec.to_builtins(made)["picker"] == {"name": "weighted-random", "args": {}}


def test_named_profiles() -> None:
    made = read("profiles: {batch: {plugins: {Score: {enabled: [random]}}, picker: random}}")
    batch = made.profile("batch")
    assert [chosen.name for chosen in batch.scores()] == ["random"]
    assert batch.picks().name == "random"
    assert made.profile("") is made.profile("default") is made
    assert made.check_profile("bach") == 'no profile "bach" in the scheduler section; did you mean "batch"?'
    assert made.check_profile("batch") == made.check_profile("default") == made.check_profile("") == ""
    with pytest.raises(KeyError):
        made.profile("bach")


def test_saturation() -> None:
    made = read("saturation: {queueDepthThreshold: 8, kvCacheUtilThreshold: 0.9, headroom: 0.1}")
    assert made.saturation == Saturation(queue_depth_threshold=8, kv_cache_util_threshold=0.9, headroom=0.1)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{plugin: {}}", '$.plugin: unknown field; did you mean "plugins"?'),
        ("{plugins: {filter: {}}}", '$.plugins.filter: unknown field; did you mean "Filter"?'),
        ("{plugins: {Score: {enabled: [kvcache-aware]}}}", '$.plugins.Score.enabled[0]: no plugin "kvcache-aware": it'),
        (
            "{plugins: {Score: {disabled: [lest-latency]}}}",
            '$.plugins.Score.disabled[0]: no plugin "lest-latency"; did',
        ),
        ("{plugins: {Score: {disabled: [healthy]}}}", '$.plugins.Score.disabled[0]: "healthy" is no scorer'),
        ("{plugins: {Score: {enabled: ['*']}}}", '$.plugins.Score.enabled[0]: no plugin "*"'),
        (
            "{plugins: {Filter: {enabled: [healthy, {name: healthy}]}}}",
            '$.plugins.Filter.enabled[1]: "healthy" is named',
        ),
        (
            "{pluginConfig: [{name: x, type: label-selector, args: {matchLabel: {}}}]}",
            '$.pluginConfig[0].args.matchLabel: unknown field; did you mean "matchLabels"?',
        ),
        (
            "{pluginConfig: [{name: label-selector, args: {matchExpressions: [{key: a, operator: In}]}}]}",
            "$.pluginConfig[0].args.matchExpressions[0].values: needed with In",
        ),
        ("{pluginConfig: [{name: x, type: label-slector}]}", '$.pluginConfig[0].type: no plugin "label-slector"; did'),
        (
            "{pluginConfig: [{name: x, type: random}, {name: x, type: cost}]}",
            '$.pluginConfig[1].name: "x" is configured',
        ),
        (
            "{pluginConfig: [{name: x, type: random}], plugins: {Filter: {enabled: [x]}}}",
            "$.plugins.Filter.enabled[0]: ",
        ),
        ("{picker: max-scor}", '$.picker: no plugin "max-scor"; did you mean "max-score"?'),
        ("{picker: cost}", '$.picker: "cost" is no picker'),
        ("{picker: {name: cost}}", '$.picker.name: "cost" is no picker'),
        ("{picker: {name: max-scor}}", '$.picker.name: no plugin "max-scor"'),
        ("{picker: {name: random, args: {seed: 1}}}", "$.picker.args.seed: unknown field"),
        ("{profiles: {a: {plugins: {Score: {enabled: [x]}}}}}", '$.profiles.a.plugins.Score.enabled[0]: no plugin "x"'),
        ("{profiles: {default: {}}}", "$.profiles.default: the section itself is the default profile"),
        ("{profiles: {a: {profiles: {}}}}", "$.profiles.a.profiles: unknown field"),
        ("{saturation: {kvCacheUtilThreshold: 2}}", "$.saturation.kvCacheUtilThreshold: expected float <= 1.0"),
        (
            "{saturation: {queueDepth: 2}}",
            '$.saturation.queueDepth: unknown field; did you mean "queueDepthThreshold"?',
        ),
    ],
)
def test_refused(text: str, problem: str) -> None:
    decoder = Decoder()
    tree: Any = yaml.safe_load(text)
    assert decoder.build(tree, Scheduler, "$") is INVALID
    assert len(decoder.problems) == 1
    assert decoder.problems[0].startswith(problem)
