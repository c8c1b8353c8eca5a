"""What Helm makes of the chart, over a matrix of values. (IO)"""

from __future__ import annotations

import functools
import json
import re
import subprocess
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

import gateway
from gateway import cli
from gateway.config.document import parse
from gateway.config.exposure import exposed
from gateway.config.load import load
from gateway.config.settings import AdminListener
from gateway.config.snapshot import Snapshot
from gateway.sources.check import check
from gateway.sources.kube.kinds import GATEWAY_API, PICKER
from tests.charts.chart import CHART, Case, Tree, asked, case, container, of_kind, only, pod, render, run
from tests.charts.matrix import ALL_ON, CASES, HOSTILE, KEDA
from tests.process import ROOT
from tests.process import run as infer_gateway

OLDEST, NEWEST = "1.28.0", "1.37.0"
FOREIGN: dict[str, dict[str, tuple[str, ...]]] = {
    "monitoring.coreos.com/v1": {
        "PrometheusRule": ("groups",),
        "ServiceMonitor": ("endpoints", "namespaceSelector", "scrapeProtocols", "selector"),
    },
    "keda.sh/v1alpha1": {
        "ScaledObject": (
            "cooldownPeriod", "maxReplicaCount", "minReplicaCount", "pollingInterval", "scaleTargetRef", "triggers",
        )
    },
    "cert-manager.io/v1": {
        "Certificate": ("dnsNames", "duration", "issuerRef", "privateKey", "renewBefore", "secretName", "usages"),
        "Issuer": ("selfSigned",),
    },
    "gateway.envoyproxy.io/v1alpha1": {
        "EnvoyExtensionPolicy": ("extProc", "targetRefs"),
        "BackendTrafficPolicy": ("loadBalancer", "retry", "targetRefs"),
    },
}  # fmt: skip
"""Kinds of others that no schemas are at hand for, and what we say of them."""
KEYS = b"[{name: ci, keySha256: " + b"a" * 64 + b"}]"
everywhere = pytest.mark.parametrize("given", CASES.values(), ids=CASES)
serving = pytest.mark.parametrize(
    "given", [each for name, each in CASES.items() if name != "disabled"], ids=[n for n in CASES if n != "disabled"]
)


def mounted(name: str) -> bytes:
    """Of files that Secrets bring."""
    if not name.startswith("/etc/infer-gateway-"):
        raise FileNotFoundError(2, "No such file or directory", name)
    return KEYS if name.endswith(".yaml") else b"x"


def settings_map(given: Case) -> Tree:
    return only(given, "ConfigMap", "-config")


def loaded(given: Case) -> Snapshot:
    """Its ConfigMap as an object of a cluster, and the other file in it."""
    tree = settings_map(given)
    documents = list(parse("map", json.dumps(tree).encode()))
    documents += parse("resources", tree["data"].get("resources.yaml", "").encode())
    return load(documents, mounted, kubernetes=True)


# -- well formed


@pytest.mark.parametrize("name", ["defaults", "everything", "nothing", "disabled", "hostile strings"])
def test_lint_finds_nothing(name: str) -> None:
    done = asked(CASES[name], "--strict", verb="lint")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout


@pytest.mark.parametrize(
    ("name", "version"),
    [*((name, NEWEST) for name in CASES), *((name, OLDEST) for name in ("everything", "nothing", "defaults", "KEDA"))],
)
def test_every_object_is_one_of_kubernetes(name: str, version: str) -> None:
    ours = {(kind.api_version, kind.name) for kind in (*PICKER, *GATEWAY_API)}
    for tree in render(CASES[name], version):
        members = FOREIGN.get(tree["apiVersion"], {}).get(tree["kind"])
        if members is not None:
            assert sorted(tree["spec"]) == [name for name in members if name in tree["spec"]], tree
        elif (tree["apiVersion"], tree["kind"]) not in ours:
            valid(json.dumps(tree), version)


@functools.cache
def valid(tree: str, version: str) -> None:
    """Most objects are the same in most cases."""
    kubernetes_validate.validate(json.loads(tree), version, strict=True)


@pytest.mark.parametrize("name", ["everything", "gateway API", "example endpoint-picker"])
def test_objects_of_the_gateway_api_fit_their_definitions(name: str) -> None:
    from tests.kube import apiserver_schema
    from tests.kube.apiserver import definitions

    known = {
        (tree["spec"]["group"], version["name"], tree["spec"]["names"]["kind"]): version["schema"]["openAPIV3Schema"]
        for tree in definitions(ROOT / "tests" / "kube" / "crds")
        for version in tree["spec"]["versions"]
    }
    seen = 0
    for tree in render(CASES[name]):
        group, _, version = tree["apiVersion"].rpartition("/")
        if (group, version, tree["kind"]) in known:
            seen += 1
            assert not apiserver_schema.check(tree, known[group, version, tree["kind"]])
    assert seen


@everywhere
def test_nothing_is_there_twice_and_names_are_legal(given: Case) -> None:
    seen: set[tuple[str, str, str]] = set()
    for tree in render(given):
        metadata = tree["metadata"]
        key = (tree["kind"], metadata.get("namespace", ""), metadata["name"])
        assert key not in seen
        seen.add(key)
        long = 253 if "rbac" in tree["apiVersion"] or tree["kind"] == "CustomResourceDefinition" else 63
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", metadata["name"])
        assert len(metadata["name"]) <= long, metadata["name"]
        assert "." not in metadata["name"] or tree["kind"] == "CustomResourceDefinition"
        if tree["kind"] != "CustomResourceDefinition":
            assert metadata["labels"]["app.kubernetes.io/part-of"] == "infer-gateway"
            assert all(len(value) <= 63 for value in metadata["labels"].values())


@serving
def test_every_selector_finds_its_pods_and_no_others(given: Case) -> None:
    templates = {
        tree["metadata"]["name"]: tree["spec"]["template"]["metadata"]["labels"]
        for tree in of_kind(given, "Deployment", "StatefulSet")
    }
    templates |= {tree["metadata"]["name"]: tree["metadata"]["labels"] for tree in of_kind(given, "Pod")}
    for tree, selector in selectors(given):
        found = [name for name, labels in templates.items() if selector.items() <= labels.items()]
        name = tree["metadata"]["name"]
        if name.endswith("-engines"):
            assert not found
        elif "valkey" in name:
            assert found == [f"{only(given, 'StatefulSet')['metadata']['name']}"]
        else:
            assert found == [only(given, "Deployment")["metadata"]["name"]], tree


def selectors(given: Case) -> Iterator[tuple[Tree, dict[str, str]]]:
    for tree in render(given):
        spec = tree.get("spec", {})
        if tree["kind"] == "Service":
            yield tree, spec["selector"]
        elif tree["kind"] in ("Deployment", "StatefulSet", "PodDisruptionBudget"):
            yield tree, spec["selector"]["matchLabels"]
        elif tree["kind"] == "NetworkPolicy":
            yield tree, spec["podSelector"]["matchLabels"]
    for constraint in pod(given)["spec"].get("topologySpreadConstraints", ()):
        yield only(given, "Deployment"), constraint["labelSelector"]["matchLabels"]


@serving
def test_a_service_monitor_finds_the_admin_service_alone(given: Case) -> None:
    for monitor in of_kind(given, "ServiceMonitor"):
        selector = monitor["spec"]["selector"]["matchLabels"]
        found = [tree for tree in of_kind(given, "Service") if selector.items() <= tree["metadata"]["labels"].items()]
        assert [tree["metadata"]["name"][-6:] for tree in found] == ["-admin"]
        assert monitor["spec"]["endpoints"][0]["port"] == found[0]["spec"]["ports"][0]["name"]


# -- what runs


@serving
def test_the_command_line_is_one_that_the_program_takes(given: Case) -> None:
    arguments = cli.parser().parse_args(container(given)["args"])
    assert arguments.kubernetes == ("--kubernetes" in container(given)["args"])
    for tree in of_kind(given, "Pod"):
        cli.parser().parse_args(tree["spec"]["containers"][0]["args"])
    if arguments.kubernetes:
        assert arguments.config_map == settings_map(given)["metadata"]["name"]
    else:
        assert arguments.config == [Path("/etc/infer-gateway")]


@serving
def test_the_configuration_is_one_that_the_program_takes(given: Case) -> None:
    snapshot = loaded(given)
    listeners = snapshot.settings.listeners
    assert exposed(snapshot.settings, listeners.hosts) == ""
    ports = {each["name"]: each["containerPort"] for each in container(given)["ports"]}
    assert (listeners.http.port, listeners.admin.port) == (ports["http"], ports["admin"])
    assert listeners.grpc.address == "off" if "grpc" not in ports else listeners.grpc.port == ports["grpc"]
    picker = listeners.ext_proc
    assert (picker is None) == ("ext-proc" not in ports)
    if picker is not None:
        assert (picker.port, picker.health[1]) == (ports["ext-proc"], ports["ext-proc-health"])
        assert picker.health[0] == picker.host


@serving
def test_probes_and_services_lead_to_ports_that_are_there(given: Case) -> None:
    ports = {each["name"]: each["containerPort"] for each in container(given)["ports"]}
    assert len(set(ports.values())) == len(ports)
    tls = loaded(given).settings.listeners.http.tls is not None
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        probe = container(given)[name]
        if "grpc" in probe:
            assert probe["grpc"] == {"port": ports["ext-proc-health"], "service": "readiness"}
        else:
            assert probe["httpGet"]["port"] in ports
            assert probe["httpGet"]["scheme"] == ("HTTPS" if tls else "HTTP")
    known = ports.keys() | {"valkey"}
    for tree in of_kind(given, "Service"):
        for port in tree["spec"]["ports"]:
            assert port["targetPort"] in known or tree["metadata"]["name"].endswith("-engines")
    for tree in of_kind(given, "NetworkPolicy"):
        assert all(port["port"] in known for rule in tree["spec"]["ingress"] for port in rule["ports"])


@serving
def test_files_that_the_configuration_names_are_mounted(given: Case) -> None:
    mounts = {each["name"]: each["mountPath"] for each in container(given)["volumeMounts"]}
    assert sorted({each["name"] for each in pod(given)["spec"]["volumes"]}) == sorted(mounts)
    files = [name for name in loaded(given).files if name.startswith("/")]
    assert all(any(name.startswith(f"{path}/") for path in mounts.values()) for name in files), files


@serving
def test_pods_may_do_nothing_but_their_work(given: Case) -> None:
    specs = [tree["spec"]["template"]["spec"] for tree in of_kind(given, "Deployment", "StatefulSet")]
    specs += [tree["spec"] for tree in of_kind(given, "Pod")]
    for spec in specs:
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for each in spec["containers"]:
            may = each["securityContext"]
            assert may["readOnlyRootFilesystem"]
            assert may["allowPrivilegeEscalation"] is False
            assert may["capabilities"] == {"drop": ["ALL"]}
            assert each["resources"]["requests"]
            assert not any(value.get("value") and "password" in value["name"].lower() for value in each.get("env", ()))
    assert pod(given)["spec"]["automountServiceAccountToken"] == ("--kubernetes" in container(given)["args"])


@serving
def test_it_is_given_the_time_that_stopping_takes(given: Case) -> None:
    settings = loaded(given).settings
    grace = pod(given)["spec"]["terminationGracePeriodSeconds"]
    sleep = container(given).get("lifecycle", {}).get("preStop", {}).get("exec", {"command": ["sleep", "0"]})
    linger = settings.listeners.ext_proc.linger if settings.listeners.ext_proc else 0
    assert grace > int(sleep["command"][1]) + settings.drain_timeout + linger


def test_a_drain_without_limit_is_given_an_hour() -> None:
    given = case({"config": {"drainTimeout": 0}})
    assert pod(given)["spec"]["terminationGracePeriodSeconds"] == 3605


# -- single values


def test_no_custom_resources_means_files_and_no_rights(tmp_path: Path) -> None:
    given = CASES["example files-only"]
    assert not of_kind(given, "Role", "ClusterRole", "CustomResourceDefinition")
    for name, text in settings_map(given)["data"].items():
        (tmp_path / name).write_text(text.replace("/etc/infer-gateway-keys/keys.yaml", "keys.list"))
    (tmp_path / "keys.list").write_bytes(KEYS)
    assert check([tmp_path]) == (0, ["ok: 1 route, 1 pool"])


def test_the_rendered_configuration_passes_the_check_that_people_run(tmp_path: Path) -> None:
    names = ["defaults", "example development", "example kthena-migration", "picker", "hostile strings"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "map.yaml").write_text(yaml.safe_dump(settings_map(CASES[name])))
        code, lines = check([tmp_path / name])
        assert code == 0, (name, lines)
        assert not [line for line in lines if "has no effect" in line], lines
    done = infer_gateway("check", str(tmp_path / "defaults" / "map.yaml"))
    assert (done.returncode, done.stdout[:2]) == (0, "ok")


def test_values_reach_the_configuration_as_they_were_meant() -> None:
    settings = loaded(CASES["everything"]).settings
    assert settings.listeners.http.max_body_bytes == 268435456
    assert settings.limits[0].total_tokens_per_month == 1_000_000_000_000
    assert (settings.fairness.queue_qps, settings.fairness.headroom, settings.fairness.enabled) == (100, 0.1, True)
    assert settings.state.redis is not None
    assert settings.state.redis.url.reveal() == "redis://r-infer-gateway-valkey:6379/0"
    assert settings.auth.api_keys_file == "/etc/infer-gateway-keys/keys.yaml"
    assert settings.auth.required is None
    assert settings.auth.enforced
    assert settings.drain_timeout == 90
    assert settings.scheduler.profile("batch").picks().name == "power-of-two"


def test_config_wins_over_what_is_said_elsewhere() -> None:
    over = {"enabled": False, "windowSize": "5m", "inputTokenWeight": 0, "maxConcurrent": 0}
    given = case({"inferGateway": {"fairness": {"enabled": True, "maxConcurrent": 7}}, "config": {"fairness": over}})
    fairness = loaded(given).settings.fairness
    assert (fairness.enabled, fairness.window_size) == (False, 300)
    assert (fairness.input_token_weight, fairness.output_token_weight, fairness.max_concurrent) == (0, 2.0, 0)


def test_strings_stay_what_they_are() -> None:
    given = CASES["hostile strings"]
    settings = loaded(given).settings
    assert (settings.auth.api_keys[0].name, settings.auth.api_keys[0].tenant) == (HOSTILE, HOSTILE)
    assert loaded(given).pools[0].model == HOSTILE
    assert only(given, "Service", "gateway")["metadata"]["annotations"] == {"note": HOSTILE}
    assert pod(given)["metadata"]["annotations"]["note"] == HOSTILE
    assert container(given)["env"][-1] == {"name": "NOTE", "value": HOSTILE}
    assert HOSTILE in only(given, "Pod")["spec"]["containers"][0]["args"]
    trigger = only(given, "ScaledObject")["spec"]["triggers"][0]["metadata"]
    assert (trigger["serverAddress"], trigger["query"]) == (HOSTILE, HOSTILE)


@pytest.mark.parametrize(
    ("auth", "required"),
    [
        ({}, False),
        ({"issuer": "", "audiences": [], "jwksUri": ""}, False),
        ({"apiKeysFile": "/etc/infer-gateway-x/k.yaml"}, None),
        ({"apiKeysFile": "/etc/infer-gateway-x/k.yaml", "required": False}, False),
        ({"apiKeysFile": "/etc/infer-gateway-x/k.yaml", "required": True}, True),
        ({"trustedProxies": {"cidrs": ["10.0.0.0/8"]}}, None),
    ],
)
def test_strangers_are_let_in_only_where_nobody_could_be_known(auth: Tree, required: bool | None) -> None:
    given = case({"config": {"auth": auth}})
    assert loaded(given).settings.auth.required is required
    notes = asked(given, "--dry-run=client", verb="install").stdout
    assert ("WARNING: " in notes and "whoever reaches the Service is served" in notes) == (required is False)


def test_listeners_that_change_start_the_pods_anew_and_nothing_else_does() -> None:
    def template(**config: Tree | str) -> Tree:
        return pod(case({"config": config}))

    assert template() == template(retry={"attempts": 5}) == template(timeouts={"connect": "1s"})
    assert template() != template(listeners={"http": {"maxBodyBytes": 1}})


def test_definitions_are_those_of_the_program_and_stay() -> None:
    wanted = {path.stem: yaml.safe_load(path.read_text()) for path in (CHART / "files" / "crds").glob("*.yaml")}
    found = of_kind(CASES["defaults"], "CustomResourceDefinition")
    assert len(found) == len(wanted)
    for tree in found:
        metadata = tree["metadata"]
        assert metadata["annotations"] == {"helm.sh/resource-policy": "keep"}
        assert metadata["labels"] == {"app.kubernetes.io/part-of": "infer-gateway"}
        made = wanted[f"{tree['spec']['group']}_{tree['spec']['names']['plural']}"]
        assert tree == {**made, "metadata": {**made["metadata"], **metadata}}
    given = case({"crds": {"keep": False}})
    assert not any("annotations" in tree["metadata"] for tree in of_kind(given, "CustomResourceDefinition"))
    assert not of_kind(CASES["example kthena-migration"], "CustomResourceDefinition")


def test_a_picker_says_how_it_is_spoken_to() -> None:
    def picker(**values: object) -> tuple[str, bool, bool]:
        given = case({"endpointPicker": {"enabled": True, **values}, "inferGateway": {"tls": {"enabled": True}}})
        settings = loaded(given).settings.listeners.ext_proc
        assert settings is not None
        protocol = only(given, "Service", "-picker")["spec"]["ports"][0]["appProtocol"]
        return protocol, settings.self_signed, settings.tls is not None

    policy = {"enabled": True, "targetRefs": [{"group": "g", "kind": "Gateway", "name": "n"}]}
    assert picker() == ("https", True, False)
    assert picker(envoyExtensionPolicy=policy) == ("kubernetes.io/h2c", False, False)
    assert picker(tls="secret") == ("https", False, True)
    assert picker(tls="off") == ("kubernetes.io/h2c", False, False)


def test_a_picker_picks_from_the_pool_of_its_release() -> None:
    given = CASES["example endpoint-picker"]
    made = only(given, "InferencePool")
    assert cli.parser().parse_args(container(given)["args"]).pool == "models/llama"
    reference = made["spec"]["endpointPickerRef"]
    service = next(tree for tree in of_kind(given, "Service") if tree["metadata"]["name"] == reference["name"])
    assert reference["port"]["number"] in [port["port"] for port in service["spec"]["ports"]]
    (rule,) = only(given, "HTTPRoute")["spec"]["rules"]
    assert "filters" not in rule  # they would undo what the picker has set
    (backend,) = rule["backendRefs"]
    engines = only(given, "Service", backend["name"])
    assert engines["spec"]["selector"] == made["spec"]["selector"]["matchLabels"]
    policy = only(given, "EnvoyExtensionPolicy")["spec"]
    assert policy["targetRefs"][0]["name"] == only(given, "HTTPRoute")["metadata"]["name"]
    assert policy["extProc"][0]["processingMode"]["response"] == {"body": "Streamed"}
    assert policy["extProc"][0]["backendRefs"][0]["name"] == reference["name"]
    assert only(CASES["picker of a pool elsewhere"], "Deployment")["spec"]["template"]["spec"]["containers"][0]["args"][
        -3
    ] == ("other/llama")


def test_scaling_leaves_the_number_of_replicas_alone() -> None:
    assert "replicas" not in only(CASES["everything"], "Deployment")["spec"]
    assert "replicas" not in only(CASES["KEDA"], "Deployment")["spec"]
    assert only(case({"inferGateway": {"replicas": 0}}), "Deployment")["spec"]["replicas"] == 0
    zero = case({"keda": KEDA | {"minReplicas": 0}})
    assert only(zero, "ScaledObject")["spec"]["minReplicaCount"] == 0


def test_a_password_is_nobodys_but_valkeys() -> None:
    given = CASES["everything"]
    password = only(given, "Secret", "-valkey")["data"]["password"]
    assert len(password) > 40
    others = [tree for tree in render(given) if tree["kind"] != "Secret"]
    assert password not in json.dumps(others)
    names = [tree["metadata"]["name"] for tree in of_kind(CASES["Valkey of somebody"], "Secret")]
    assert names == ["r-infer-gateway-admin"]


def test_the_admin_port_is_for_this_namespace_and_for_prometheus() -> None:
    def admitted(given: Case) -> list[Tree]:
        rules = only(given, "NetworkPolicy")["spec"]["ingress"]
        (found,) = [rule["from"] for rule in rules if rule["ports"][0]["port"] == "admin"]
        assert isinstance(found, list)
        return found

    here: Tree = {"podSelector": {}}
    there = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    assert admitted(case()) == [here]
    assert admitted(case({"serviceMonitor": {"enabled": True}})) == [here, there]
    assert admitted(case({"networkPolicy": {"admin": [there]}})) == [there]


# -- who looks at it


def admin(given: Case) -> AdminListener:
    return loaded(given).settings.listeners.admin


def test_the_admin_port_has_a_token_of_its_own() -> None:
    given = case()
    secret = only(given, "Secret", "-admin")
    assert len(b64decode(secret["data"]["token"])) == 40
    assert (admin(given).token_file, admin(given).anonymous_metrics) == ("/etc/infer-gateway-admin/token", True)
    (volume,) = [each["secret"] for each in pod(given)["spec"]["volumes"] if each["name"] == "admin"]
    assert volume == {"secretName": secret["metadata"]["name"], "items": [{"key": "token", "path": "token"}]}
    others = [tree for tree in render(given) if tree != secret]
    assert secret["data"]["token"] not in json.dumps(others)


def test_the_token_may_be_somebodys_or_nobodys() -> None:
    given = case({"admin": {"token": {"existingSecret": "mine", "key": "a"}}})
    assert not of_kind(given, "Secret")
    assert {"secretName": "mine", "items": [{"key": "a", "path": "token"}]} in [
        each.get("secret") for each in pod(given)["spec"]["volumes"]
    ]
    nobody = case({"admin": {"token": {"create": False}}})
    assert not of_kind(nobody, "Secret")
    assert admin(nobody).token_file == ""
    assert admin(nobody).anonymous_metrics


def test_prometheus_shows_the_token_where_metrics_demand_it() -> None:
    def endpoint(given: Case) -> Tree:
        found: Tree = only(given, "ServiceMonitor")["spec"]["endpoints"][0]
        return found

    assert endpoint(case({"serviceMonitor": {"enabled": True}})).keys() == {
        "port", "path", "interval", "scrapeTimeout",
    }  # fmt: skip
    seen = endpoint(CASES["everything"])
    assert admin(CASES["everything"]).tls is not None
    assert seen["authorization"] == {"credentials": {"name": "r-infer-gateway-admin", "key": "secret"}}
    assert seen["scheme"] == "https"
    assert seen["tlsConfig"]["serverName"] in only(CASES["everything"], "Certificate")["spec"]["dnsNames"]
    assert only(CASES["everything"], "Service", "-admin")["spec"]["ports"][0]["appProtocol"] == "https"


def rules_of(**values: object) -> dict[str, Tree]:
    given = case({"prometheusRule": {"enabled": True, **values}})
    groups = only(given, "PrometheusRule")["spec"]["groups"]
    return {rule.get("alert") or rule["record"]: rule for group in groups for rule in group["rules"]}


def test_alerts_are_those_of_the_file_until_values_change_them() -> None:
    written = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    assert only(case({"prometheusRule": {"enabled": True}}), "PrometheusRule")["spec"] == written
    name = "InferGatewayKVCacheNearlyFull"
    change = {"threshold": 0.9, "for": "1h", "severity": "page", "labels": {"team": "gpu"}}
    changed = rules_of(
        alerts={name: change, "InferGatewayDown": {"enabled": False}},
        alertLabels={"team": "ml", "region": "eu"},
        errorBudget=0.01,
        runbookUrl="https://git.example/",
    )
    rule, before = changed[name], rules_of()[name]
    assert rule["expr"] == before["expr"].replace("0.95", "0.9") != before["expr"]
    assert (rule["for"], rule["labels"]) == ("1h", {"severity": "page", "team": "gpu", "region": "eu"})
    assert rule["annotations"]["runbook_url"] == f"https://git.example/{before['annotations']['runbook_url']}"
    assert changed["InferGatewayPoolSaturated"]["labels"] == {"severity": "warning", "team": "ml", "region": "eu"}
    assert changed["infer_gateway:error_budget:ratio"]["expr"] == "vector(0.01)"
    assert rules_of().keys() - changed.keys() == {"InferGatewayDown"}


def test_a_log_and_traces_are_as_the_values_say() -> None:
    settings = loaded(CASES["everything"]).settings
    assert (settings.access_log.requests, settings.access_log.format) == ("all", "text")
    assert (settings.tracing.endpoint, settings.tracing.sample_ratio) == ("http://collector:4318", 0.1)
    assert loaded(case()).settings.access_log == type(settings.access_log)()
    over = case({"accessLog": {"enabled": True}, "config": {"accessLog": {"requests": "off"}}})
    assert loaded(over).settings.access_log.requests == "off"


# -- the rest of the chart


def test_the_chart_is_of_the_programs_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == chart["version"] == gateway.__version__
    assert container(case())["image"].endswith(f":{gateway.__version__}")


def test_a_kubernetes_that_is_too_old_is_refused() -> None:
    done = asked(case(), "--kube-version", "1.27.16")
    assert done.returncode
    assert "1.28" in done.stderr


def test_dashboards_are_delivered_as_they_are() -> None:
    delivered = only(CASES["everything"], "ConfigMap", "-dashboards")
    assert delivered["data"] == {path.name: path.read_text() for path in (CHART / "dashboards").glob("*.json")}
    assert delivered["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert delivered["metadata"]["annotations"] == {"folder": "LLM"}
    assert sum(map(len, delivered["data"].values())) < 900_000  # a ConfigMap holds a MiB


def test_the_package_has_what_it_needs(tmp_path: Path) -> None:
    done: subprocess.CompletedProcess[str] = run("package", str(CHART), "-d", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tgz")
    shown = run("template", "r", str(archive))
    assert shown.stdout.count("\nkind: ") == len(render(case()))
    assert "examples" not in subprocess.run(["tar", "tzf", str(archive)], capture_output=True, text=True).stdout


@pytest.mark.parametrize("name", sorted(ALL_ON))
def test_everything_that_the_matrix_turns_on_does_something(name: str) -> None:
    less = {key: value for key, value in ALL_ON.items() if key != name}
    if name == "kubernetes":
        less |= {"gatewayClass": {}, "gateway": {}}
    if name == "inferGateway":
        less |= {"certManager": {}, "endpointPicker": ALL_ON["endpointPicker"] | {"tls": "off"}, "admin": {}}
    if name == "endpointPicker":
        less |= {"config": {}}
    assert without_password(render(case(less))) != without_password(render(CASES["everything"]))


def without_password(trees: tuple[Tree, ...]) -> list[Tree]:
    return [tree for tree in trees if tree["kind"] != "Secret"]
