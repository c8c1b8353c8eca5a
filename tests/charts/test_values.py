"""What the chart refuses, what it says afterwards, and what stands in its papers. (IO)"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from gateway.config.decode import Decoder
from gateway.config.settings import Settings
from gateway.config.sharing import Fairness
from tests.charts.chart import CHART, Case, Tree, asked, case, example, examples, refusal
from tests.charts.matrix import ALL_ON, CASES, PICKER, TLS
from tools import docs_check, generate_values_schema

POLICY: Tree = {"enabled": True}
TYPOS: list[tuple[Tree, str]] = [
    ({"inferGateway": {"replica": 2}}, "/inferGateway"),
    ({"inferGateway": {"replicas": "two"}}, "/inferGateway/replicas"),
    ({"inferGateway": {"fairness": {"windowsize": "5m"}}}, "windowsize"),
    ({"inferGateway": {"image": {"repository": ""}}}, "/inferGateway/image/repository"),
    ({"inferGatway": {}}, "inferGatway"),
    ({"config": {"auht": {}}}, "auht"),
    ({"config": {"scheduler": {"plugins": {"score": {}}}}}, "score"),
    ({"config": {"timeouts": {"connect": 5}}}, "/config/timeouts/connect"),
    ({"config": {"limits": [{"requestPerMinute": 1}]}}, "requestPerMinute"),
    ({"kubernetes": {"namespaces": ["Not A Name"]}}, "/kubernetes/namespaces/0"),
    ({"backends": ["http://vllm:8000"]}, "/backends/0"),
    ({"ports": {"http": 80}}, "/ports/http"),
    ({"host": "localhost"}, "/host"),
    ({"logLevel": "loud"}, "/logLevel"),
    ({"service": {"type": "ExternalName"}}, "/service/type"),
    ({"podLabels": {"a": "not a label!"}}, "/podLabels/a"),
    ({"resources": [{"kind": "ModelServer"}]}, "/resources/0"),
    ({"endpointPicker": {"inferencePool": {"failureMode": "Open"}}}, "failureMode"),
    ({"networkPolicy": {"http": {}}}, "/networkPolicy/http"),
    ({"inferGateway": {"fairness": {"windowSize": "30s"}}}, "/inferGateway/fairness/windowSize"),
    ({"inferGateway": {"fairness": {"windowSize": "61m"}}}, "/inferGateway/fairness/windowSize"),
    ({"inferGateway": {"fairness": {"windowSize": "2h"}}}, "/inferGateway/fairness/windowSize"),
    ({"accessLog": {"format": "xml"}}, "/accessLog/format"),
    ({"admin": {"token": {"key": "a/b"}}}, "/admin/token/key"),
    ({"prometheusRule": {"errorBudget": 1}}, "/prometheusRule/errorBudget"),
    ({"prometheusRule": {"alerts": {"InferGatewayDown": {"treshold": 1}}}}, "treshold"),
    ({"serviceMonitor": {"scrapeProtocols": ["http"]}}, "/serviceMonitor/scrapeProtocols/0"),
    ({"config": {"listeners": {"admin": {"tokenFile": "/a"}}}}, "tokenFile"),
]
CONTRADICTIONS: list[tuple[Tree, str]] = [
    ({"config": {"auth": {"required": True}}}, "config.auth.required: true, but nobody could be let in"),
    ({"config": {"listeners": {"extProc": {"fallbacks": 0}}}}, "endpointPicker.enabled only"),
    ({"apiKeys": {"secretName": "a"}, "config": {"auth": {"apiKeysFile": "/b"}}}, "give one of them"),
    ({"autoscaling": {"enabled": True}, "keda": {"enabled": True}}, "autoscaling.enabled and keda.enabled"),
    ({"autoscaling": {"enabled": True, "targetCPUUtilizationPercentage": None}}, "nothing to scale by"),
    ({"autoscaling": {"enabled": True, "minReplicas": 9, "maxReplicas": 3}}, "more than maxReplicas"),
    ({"keda": {"enabled": True}}, "keda: nothing to scale by"),
    ({"certManager": {"enabled": True}}, "inferGateway.tls.enabled only"),
    ({"inferGateway": {"tls": {"enabled": True, "secretName": ""}}}, "tls.secretName: needed"),
    ({"valkey": {"enabled": True}, "config": {"state": {"redis": {"url": "redis://a"}}}}, "one place"),
    ({"kubernetes": {"enabled": False, "namespaces": ["a"]}}, "kubernetes.enabled only"),
    ({"kubernetes": {"enabled": False, "gatewayAPI": True}}, "kubernetes.enabled only"),
    ({"kubernetes": {"gatewayPorts": [8081]}}, "kubernetes.gatewayPorts: of use with kubernetes.gatewayAPI only"),
    ({"kubernetes": {"gatewayAPI": True, "gatewayPorts": [9090]}}, "9090 is the port of another listener"),
    ({"gatewayClass": {"create": True}}, "kubernetes.gatewayAPI only"),
    ({"kubernetes": {"gatewayAPI": True, "inferenceExtension": False}}, "needs kubernetes.inferenceExtension"),
    ({"endpointPicker": {"inferencePool": {"create": True}}}, "endpointPicker.inferencePool.create: of use"),
    ({"endpointPicker": {"envoyExtensionPolicy": POLICY}}, "endpointPicker.envoyExtensionPolicy.enabled: of use"),
    ({"endpointPicker": {"enabled": True, "inferencePool": {"create": True}}}, "which pods are the engines?"),
    ({"endpointPicker": PICKER, "kubernetes": {"enabled": False}}, "pools are read from a cluster"),
    ({"endpointPicker": PICKER, "kubernetes": {"inferenceExtension": False}}, "need kubernetes.inferenceExtension"),
    (
        {"endpointPicker": PICKER | {"inferencePool": {"create": True, "matchLabels": {"a": "b"}}}},
        "leave this out",
    ),
    ({"endpointPicker": PICKER | {"httpRoute": {"enabled": True}}}, "which Gateway"),
    (
        {"endpointPicker": {"enabled": True, "httpRoute": {"enabled": True, "parentRefs": [{"name": "a"}]}}},
        "leads nowhere",
    ),
    ({"endpointPicker": PICKER | {"envoyExtensionPolicy": POLICY}}, "targetRefs: needed"),
    ({"endpointPicker": PICKER | {"tls": "secret"}}, "which is not enabled"),
    ({"ports": {"http": 9090}}, "is ports.admin already"),
    ({"terminationGracePeriodSeconds": 20}, "stopping takes up to 35"),
    ({"serviceMonitor": {"enabled": True}, "admin": {"service": {"enabled": False}}}, "admin.service"),
    (
        {"serviceMonitor": {"enabled": True}, "admin": {"anonymousMetrics": False, "token": {"create": False}}},
        "/metrics demands a token and there is none",
    ),
    ({"admin": {"tls": True}}, "admin.tls: its certificate"),
    ({"prometheusRule": {"enabled": True, "alerts": {"Down": {}}}}, "alerts.Down: there is no such alert"),
    (
        {"prometheusRule": {"enabled": True, "alerts": {"InferGatewayDown": {"threshold": 1}}}},
        "InferGatewayDown.threshold: it has none",
    ),
]


def config_section() -> Tree:
    found: Tree = json.loads((CHART / "values.schema.json").read_text())["properties"]["config"]
    return found


@pytest.mark.parametrize(("values", "where"), TYPOS, ids=str)
def test_what_is_not_in_the_schema_is_refused_by_its_path(values: Tree, where: str) -> None:
    said = refusal(case(values))
    assert "schema" in said
    assert where in said


@pytest.mark.parametrize(("values", "why"), CONTRADICTIONS, ids=str)
def test_what_cannot_be_meant_is_refused_in_words(values: Tree, why: str) -> None:
    assert why in refusal(case(values))


@pytest.mark.parametrize("window", ["1m", "60s", "90s", "1m30s", "59m59s", "60m", "1h", "3600s"])
def test_windows_of_a_minute_to_an_hour_are_taken(window: str) -> None:
    properties = json.loads((CHART / "values.schema.json").read_text())["properties"]["inferGateway"]["properties"]
    assert re.search(properties["fairness"]["properties"]["windowSize"]["pattern"], window)
    decoder = Decoder()
    decoder.build({"windowSize": window}, Fairness)
    assert not decoder.problems


@pytest.mark.parametrize("listener", ["http", "grpc", "admin"])
def test_addresses_of_listeners_are_the_charts(listener: str) -> None:
    # the schema has no place for them; with it left out Helm asks the templates
    values: Tree = {"config": {"listeners": {listener: {"address": "127.0.0.1:1"}}}}
    assert "address" in refusal(case(values))
    done = asked(case(values), "--skip-schema-validation")
    assert f"config.listeners.{listener}.address: probes and Services follow ports.{listener}" in done.stderr


def test_every_section_of_the_configuration_can_be_given() -> None:
    written = generate_values_schema.FILE.read_text("utf-8")
    assert generate_values_schema.text(written) == written
    assert set(config_section()["properties"]) == set(Settings.__struct_encode_fields__)


def test_the_published_names_are_there_with_their_defaults() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())["inferGateway"]
    assert set(values) >= {"enabled", "replicas", "image", "resource", "tls", "fairness"}
    assert set(values["image"]) >= {"repository", "tag", "pullPolicy"}
    assert set(values["resource"]) == {"limits", "requests"}
    assert set(values["tls"]) == {"enabled", "dnsName", "secretName"}
    fairness = values["fairness"]
    assert set(fairness) == {
        "enabled", "windowSize", "inputTokenWeight", "outputTokenWeight", "queueQPS", "maxConcurrent",
    }  # fmt: skip
    assert (fairness["enabled"], fairness["inputTokenWeight"], fairness["outputTokenWeight"]) == (False, 1.0, 2.0)


def test_the_schema_knows_the_values_and_no_others() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(schema["properties"]) - {"global"} == set(values)
    for path, node, given in walked(schema, values):
        assert set(node["properties"]) - {"global"} == set(given), path


def walked(schema: Tree, values: Any, path: str = "$") -> Iterator[tuple[str, Tree, Tree]]:
    """Objects of the schema beside those of the values, but for those that start out empty or free."""
    if path != "$.config" and isinstance(values, dict) and "properties" in schema and not path.startswith("$.probes."):
        if values and path not in ("$.inferGateway.resource", "$.valkey.resources"):
            yield path, schema, values
        for name, node in schema["properties"].items():
            if name in values:
                yield from walked(node, values[name], f"{path}.{name}")


def test_the_readme_lists_every_value_with_its_default() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    table = (CHART / "README.md").read_text().partition("\n## Values\n")[2]
    rows = dict(re.findall(r"^\| `([\w.]+)` \| `?(.*?)`? \|", table, re.MULTILINE))
    listed = dict(leaves(values))
    missing = [name for name in listed if not any(name == row or name.startswith(f"{row}.") for row in rows)]
    assert not missing
    gone = [row for row in rows if row not in listed and not any(name.startswith(f"{row}.") for name in listed)]
    assert not gone
    wrong = {name: (rows[name], json.dumps(value)) for name, value in listed.items() if rows.get(name, "") and
             yaml.safe_load(rows[name]) != value}  # fmt: skip
    assert not wrong


def leaves(values: Tree, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value and path != "probes.":
            yield from leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def test_links_of_the_readme_lead_somewhere() -> None:
    path = CHART / "README.md"
    assert not list(docs_check.broken_links(path, path.read_text()))


# -- what people are told


def notes(given: Case) -> str:
    done = asked(given, "--dry-run=client", verb="install")
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("\nNOTES:\n")[2]


def test_notes_say_what_to_do_next() -> None:
    said = notes(case())
    assert "kind: ModelRoute" in said
    assert "port-forward service/r-infer-gateway 8080:80" in said
    assert "helm test r -n models" in said
    assert "get secret r-infer-gateway-admin -o" in said
    assert "though you come by way of the pod's loopback" in said
    assert "WARNING: no authentication is configured" in said
    assert "Secrets are not read" in said
    assert "replicas do not share" not in said


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"inferGateway": {"enabled": False}}, "nothing is installed"),
        ({"inferGateway": {"replicas": 2}}, "replicas do not share"),
        ({"service": {"type": "LoadBalancer"}}, "THAT MAY BE THE INTERNET"),
        ({"networkPolicy": {"enabled": False}}, "every pod of the cluster can read the"),
        ({"admin": {"token": {"create": False}}}, "IT LETS NOBODY IN (403)"),
        (
            {"admin": {"token": {"existingSecret": "mine", "key": "k"}}},
            '{{index .data "k" | base64decode',
        ),
        (TLS | {"admin": {"tls": True}}, "https://127.0.0.1:9090"),
        ({"kubernetes": {"enabled": False}}, "THERE IS NOTHING TO SERVE"),
        ({"kubernetes": {"enabled": False}, "backends": ["vllm=http://a"]}, "It serves what `backends`"),
        ({"kubernetes": {"namespaces": ["a", "b"]}}, "in a, b"),
        ({"kubernetes": {"status": False}}, "stands in the log only"),
        ({"kubernetes": {"gatewayAPI": True}}, "infer-gateway.dev/gateway"),
        ({"inferGateway": {"image": {"tag": "7"}}}, "infer-gateway:7 has to be on the nodes already"),
        ({"crds": {"install": False}}, "drop fields that are ours"),
        ({"valkey": {"enabled": True}}, "give valkey.existingSecret"),
        ({"endpointPicker": PICKER}, "TLS, a certificate that nobody has signed"),
        (TLS, "curl -k https://"),
    ],
    ids=str,
)
def test_notes_go_by_the_values(values: Tree, told: str) -> None:
    assert told in notes(case(values))
    assert told not in notes(case({"apiKeys": {"secretName": "a"}, "inferGateway": {"fairness": {"enabled": True}}}))


def test_notes_hide_nothing_where_everything_is_on() -> None:
    assert "WARNING" not in notes(case(ALL_ON))
    assert "WARNING" not in notes(example("production"))


def test_every_example_is_in_the_matrix_and_says_what_it_is_for() -> None:
    for path in examples():
        assert f"example {path.stem}" in CASES
        assert path.read_text().startswith("# ")
        assert path.name in (CHART / "README.md").read_text()
