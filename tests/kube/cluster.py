"""A cluster for tests: the fake API server as a process, and what a test does to it. (IO)

    with Cluster() as cluster:
        cluster.create(model_route("chat", "llama", ("servers", 100)), pod("a", "127.0.0.2", {"app": "llama"}))
        gateway = serve("--kubernetes", "--kubeconfig", str(cluster.kubeconfig))

A test's own calls are made as an admin at another port: they are not on record, not refused, work during an outage,
need no namespace to be there, and may set status, uid and times.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import ProxyHandler, Request, build_opener

import yaml

from tests.process import ROOT, Program, eventually

Tree = dict[str, Any]
Trees = list[Tree]
TOKEN = "the-token-of-tests"
CHART_CRDS = ROOT / "charts" / "infer-gateway" / "files" / "crds"
_OPEN = build_opener(ProxyHandler({})).open
VOLCANO, MATRIX = "networking.serving.volcano.sh/v1alpha1", "networking.matrixinfer.ai/v1alpha1"
POOLS, OLD_POOLS, LLM_D = (
    "inference.networking.k8s.io/v1",
    "inference.networking.x-k8s.io/v1alpha2",
    "llm-d.ai/v1alpha2",
)
GATEWAYS = "gateway.networking.k8s.io/v1"


class Refused(Exception):
    """The server's Status where it is no success."""

    def __init__(self, status: Tree) -> None:
        super().__init__(f"{status.get('code')} {status.get('reason')}: {status.get('message')}")
        self.status = status
        self.code: int = status.get("code", 0)
        self.reason: str = status.get("reason", "")


class Cluster:
    """The process and a handle to it. ``url``: of the API server; ``kubeconfig``: a file for clients of it.

    ``tls``: TLS with a certificate authority of its own, who asks brings a token; without, anybody may ask over http.
    ``crds``: directories of definitions besides those of tests; None: the chart's, where it has any.
    """

    def __init__(
        self,
        *,
        tls: bool = False,
        token: str | None = None,
        deny: Iterable[str] = (),
        crds: Iterable[Path] | None = None,
        namespace: str = "default",
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="cluster-"))
        self.tls, self.namespace = tls, namespace
        self.token = token or (TOKEN if tls else "")
        if crds is None:
            crds = [CHART_CRDS] if CHART_CRDS.is_dir() else []
        argv = ["-m", "tests.kube.apiserver"]
        argv += ["--tls", str(self.directory / "tls")] if tls else []
        argv += ["--token", self.token] if self.token else []
        for each in deny:
            argv += ["--deny", each]
        for directory in crds:
            argv += ["--crds", str(directory)]
        self.process = Program(*argv)
        self.url = self.control = ""
        self._resources: dict[tuple[str, str], Tree] = {}

    def __enter__(self) -> Self:
        self.process.__enter__()
        self.url, self.control = self.process.ready["url"], self.process.ready["control"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.process.__exit__(kind, error, trace)
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    # -- credentials

    @property
    def ca(self) -> Path:
        """The certificate authority's certificate, with ``tls``."""
        return self.directory / "tls" / "ca.crt"

    @property
    def kubeconfig(self) -> Path:
        """With the token in it, where one is needed."""
        return self.kubeconfig_by("token" if self.token else "")

    def kubeconfig_by(self, way: str, **user: Any) -> Path:
        """A kubeconfig. ``way``: "token", "token-file", "certificate", "exec", "" for none, or "given": ``user``."""
        users: dict[str, Tree] = {
            "": {},
            "given": user,
            "token": {"token": self.token},
            "token-file": {"tokenFile": str(self.token_file())},
            "certificate": {
                "client-certificate": str(self.directory / "tls" / "client.crt"),
                "client-key": str(self.directory / "tls" / "client.key"),
            },
            "exec": {
                "exec": {
                    "apiVersion": "client.authentication.k8s.io/v1",
                    "command": sys.executable,
                    "args": [str(self._plugin()), str(self.token_file())],
                    "interactiveMode": "Never",
                }
            },
        }
        at: Tree = {"server": self.url} | ({"certificate-authority": str(self.ca)} if self.tls else {})
        context = {"cluster": "fake", "user": "tester", "namespace": self.namespace}
        tree: Tree = {"apiVersion": "v1", "kind": "Config", "current-context": "fake", "preferences": {}}
        tree["clusters"] = [{"name": "fake", "cluster": at}]
        tree["users"] = [{"name": "tester", "user": users[way]}]
        tree["contexts"] = [{"name": "fake", "context": context}]
        path = self.directory / f"kubeconfig-{way or 'plain'}"
        path.write_text(yaml.safe_dump(tree))
        return path

    def token_file(self) -> Path:
        """A file with the token; also what the exec plugin prints, at each call anew."""
        path = self.directory / "token"
        if not path.exists():
            path.write_text(self.token)
        return path

    def _plugin(self) -> Path:
        path = self.directory / "plugin.py"
        path.write_text(
            "import json, sys, datetime\n"
            "token = open(sys.argv[1]).read()\n"
            "end = (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1))\n"
            "print(json.dumps({'apiVersion': 'client.authentication.k8s.io/v1', 'kind': 'ExecCredential',\n"
            "    'status': {'token': token, 'expirationTimestamp': end.strftime('%Y-%m-%dT%H:%M:%SZ')}}))\n"
        )
        return path

    def service_account(self, namespace: str = "default") -> Path:
        """A directory as a pod has it mounted: token, ca.crt, namespace."""
        path = self.directory / "serviceaccount"
        path.mkdir(exist_ok=True)
        (path / "token").write_text(self.token)
        (path / "namespace").write_text(namespace)
        if self.tls:
            shutil.copy(self.ca, path / "ca.crt")
        return path

    @property
    def in_cluster(self) -> dict[str, str]:
        """The environment variables that a pod has."""
        host, _, port = self.url.partition("://")[2].rpartition(":")
        return {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}

    # -- objects

    def ask(self, method: str, path: str, body: Any = None, *, kind: str = "application/json", **query: str) -> Tree:
        """Any request, as an admin. Raises Refused."""
        url = f"{self.control}{path}" + (f"?{urlencode(query)}" if query else "")
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            with _OPEN(Request(url, data, {"Content-Type": kind}, method=method), timeout=30) as answer:
                found: Tree = json.load(answer)
                return found
        except HTTPError as refused:
            with refused:
                raise Refused(json.load(refused)) from None

    def path(self, tree: Tree, name: bool = True, part: str = "") -> str:
        """Where a tree of that apiVersion, kind, namespace and name is."""
        metadata = tree.get("metadata") or {}
        about = self._resource(tree["apiVersion"], tree["kind"])
        root = "/apis" if "/" in tree["apiVersion"] else "/api"
        steps = [root, tree["apiVersion"]]
        if about["namespaced"]:
            steps += ["namespaces", quote(metadata.get("namespace") or self.namespace)]
        return "/".join(
            [*steps, about["name"], *([quote(metadata["name"])] if name else []), *([part] if part else [])]
        )

    def _resource(self, api_version: str, kind: str) -> Tree:
        if (api_version, kind) not in self._resources:
            root = "/apis" if "/" in api_version else "/api"
            for about in self.ask("GET", f"{root}/{api_version}")["resources"]:
                if "/" not in about["name"]:
                    self._resources[api_version, about["kind"]] = about
        return self._resources[api_version, kind]

    def create(self, *trees: Tree) -> list[Tree]:
        """As they are stored."""
        return [self.ask("POST", self.path(tree, name=False), tree) for tree in trees]

    def replace(self, *trees: Tree) -> list[Tree]:
        """PUT, by whatever version; a tree without a status leaves the status as it is."""
        return [self.ask("PUT", self.path(tree), tree) for tree in trees]

    def apply(self, *trees: Tree, manager: str = "tests") -> list[Tree]:
        """Server-side, with force: created where they are not there yet."""
        kind = "application/apply-patch+yaml"
        return [
            self.ask("PATCH", self.path(tree), tree, kind=kind, fieldManager=manager, force="true") for tree in trees
        ]

    def patch(self, tree: Tree, change: Tree, part: str = "") -> Tree:
        """A merge patch. ``tree``: anything that names the object."""
        return self.ask("PATCH", self.path(tree, part=part), change, kind="application/merge-patch+json")

    def delete(self, *trees: Tree) -> None:
        for tree in trees:
            self.ask("DELETE", self.path(tree))

    def get(self, tree: Tree) -> Tree:
        """As it is now. Raises Refused 404."""
        return self.ask("GET", self.path(tree))

    def list(self, api_version: str, kind: str, namespace: str = "", **query: str) -> Trees:
        """Of one namespace, or of all."""
        about = self._resource(api_version, kind)
        within = f"/namespaces/{namespace}" if namespace else ""
        root = "/apis" if "/" in api_version else "/api"
        items: Trees = self.ask("GET", f"{root}/{api_version}{within}/{about['name']}", **query)["items"]
        return items

    def load(self, trees: Iterable[Tree], check: bool = True) -> int:
        """Many objects by one call, quickly: thousands a second. ``check``: against their schemas."""
        loaded: int = self.order("load", items=list(trees), check=check)["loaded"]
        return loaded

    def conditions(self, tree: Tree) -> dict[str, tuple[str, str]]:
        """The status conditions of an object by type: status and reason."""
        found = (self.get(tree).get("status") or {}).get("conditions") or []
        return {each["type"]: (each["status"], each["reason"]) for each in found}

    def set_ready(self, tree: Tree, ready: bool) -> Tree:
        """Makes a pod ready or not."""
        return self.patch(tree, {"status": {"conditions": _readiness(ready)}}, part="status")

    def terminate(self, tree: Tree) -> Tree:
        """A pod that is to go and is still there; `delete` then takes it away."""
        when = {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30}
        return self.patch(tree, {"metadata": when})

    # -- trouble

    def order(self, what: str, **given: Any) -> Tree:
        return self.ask("POST", f"/-/{what}", given)

    def fail(self, verb: str = "*", resource: str = "*", **fault: Any) -> None:
        """What the next requests get. Verbs are those of roles (a patch is a patch by whatever way); resources `pods`,
        `pods/status`, `leases.coordination.k8s.io`. Of ``fault``: status (int), retry_after (whole seconds), reason,
        message, count (1; -1 for all to come), delay (seconds), namespace, name, mode: "drop" closes without an answer,
        and for verb "watch" whatever `streams` takes, as the stream's start.
        """
        self.order("fail", verb=verb, resource=resource, **fault)

    def heal(self) -> None:
        """No failures to come."""
        self.order("heal")

    def streams(self, mode: str = "", resource: str = "*", **given: Any) -> Trees:
        """The watches open now (resource, namespace, name). With a ``mode`` they all get it: "close", "reset",
        "truncate", "stall", "resume", "garbage" (text=…), "huge" (bytes=…), "gone", "error" (status=…), "bookmark".
        """
        found: Trees = self.order("streams", mode=mode, resource=resource, **given)["watches"]
        return found

    def outage(self, down: bool = True) -> None:
        """Closes listener and connections, or opens the listener at the same port."""
        self.order("outage", down=down)

    def compact(self, status: bool = False) -> None:
        """Forgets history: watches from before get ERROR 410, or with ``status`` the HTTP status 410."""
        self.order("compact", status=status)

    def deny(self, *denials: str) -> None:
        """All that is denied from now on, as VERB:RESOURCE[:NAMESPACE]; none: nothing is."""
        self.order("rights", deny=denials)

    def allow(self, rules: Iterable[Tree] | None) -> None:
        """PolicyRules as of a Role (its `namespace` beside them) or ClusterRole; nothing else is allowed. None: all."""
        self.order("rights", rules=None if rules is None else list(rules))

    def accept_tokens(self, *tokens: str) -> None:
        self.order("rights", tokens=tokens)

    def requests(self, verb: str = "*", resource: str = "*", **like: Any) -> Trees:
        """What was asked, in order: verb, resource (`leases.coordination.k8s.io`), namespace, name, part, query, type,
        agent, body (decoded), code. Tests' own requests are not among them.
        """
        found = self.order("requests")["requests"]
        return [
            each
            for each in found
            if verb in ("*", each["verb"])
            and resource in ("*", each["resource"], each["resource"].partition(".")[0])
            and all(each[name] == value for name, value in like.items())
        ]

    def forget_requests(self) -> None:
        self.order("requests", forget=True)

    def watched(self, *resources: str, within_s: float = 10.0) -> bool:
        """Whether watches of all these resources come to be open."""

        def open_now() -> bool:
            names = {each["resource"] for each in self.streams()}
            return names.issuperset(resources) or {name.partition(".")[0] for name in names}.issuperset(resources)

        return eventually(open_now, within_s)

    def kubectl(
        self, *arguments: str, input: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """kubectl with this cluster's kubeconfig, run to its end. ``check``: it has to succeed."""
        command = ["kubectl", "--kubeconfig", str(self.kubeconfig), *arguments]
        environment = {**os.environ, "HOME": str(self.directory), "KUBECACHEDIR": str(self.directory / "cache")}
        done = subprocess.run(command, input=input, capture_output=True, text=True, timeout=60, env=environment)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done


# -- objects as people write them


def named(name: str, namespace: str = "default", **metadata: Any) -> Tree:
    return {"name": name, "namespace": namespace, **metadata}


def thing(
    api_version: str, kind: str, name: str, spec: Tree | None = None, namespace: str = "default", **rest: Any
) -> Tree:
    """Any object; without a spec enough to name one."""
    tree: Tree = {"apiVersion": api_version, "kind": kind, "metadata": named(name, namespace)}
    return tree | ({} if spec is None else {"spec": spec}) | rest


def _readiness(ready: bool) -> Trees:
    when = "2026-01-01T00:00:00Z"
    return [
        {"type": kind, "status": "True" if ready else "False", "lastTransitionTime": when}
        for kind in ("Ready", "ContainersReady")
    ]


def pod(
    name: str,
    ip: str,
    labels: Mapping[str, str],
    port: int = 8000,
    *,
    ready: bool = True,
    namespace: str = "default",
    annotations: Mapping[str, str] | None = None,
) -> Tree:
    """A pod as a kubelet reports it, running at an address of the test's choosing (127.0.0.0/8)."""
    metadata = named(name, namespace, labels=dict(labels))
    if annotations:
        metadata["annotations"] = dict(annotations)
    container = {"name": "engine", "image": "engine:1", "ports": [{"containerPort": port, "protocol": "TCP"}]}
    status: Tree = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": "127.0.0.1"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [container], "nodeName": "node-1", "restartPolicy": "Always"},
        "status": status | {"conditions": _readiness(ready), "startTime": "2026-01-01T00:00:00Z"},
    }


def secret(name: str, data: Mapping[str, str], namespace: str = "default") -> Tree:
    """``data``: as plain text."""
    return thing("v1", "Secret", name, namespace=namespace, stringData=dict(data), type="Opaque")


def config_map(name: str, data: Mapping[str, str], namespace: str = "default") -> Tree:
    return thing("v1", "ConfigMap", name, namespace=namespace, data=dict(data))


def service(name: str, port: int, selector: Mapping[str, str] | None = None, namespace: str = "default") -> Tree:
    spec: Tree = {
        "type": "ClusterIP",
        "clusterIP": "10.0.0.1",
        "clusterIPs": ["10.0.0.1"],
        "ports": [{"name": "http", "port": port}],
    }
    return thing("v1", "Service", name, spec | ({"selector": dict(selector)} if selector else {}), namespace)


def model_server(
    name: str,
    labels: Mapping[str, str],
    port: int = 8000,
    *,
    engine: str = "vLLM",
    model: str | None = None,
    namespace: str = "default",
    api_version: str = VOLCANO,
    **spec: Any,
) -> Tree:
    """A ModelServer of the pods with ``labels``; ``spec``: further fields of its spec."""
    made: Tree = {"inferenceEngine": engine, "workloadSelector": {"matchLabels": dict(labels)}}
    made |= {"workloadPort": {"port": port}} | ({} if model is None else {"model": model})
    return thing(api_version, "ModelServer", name, made | spec, namespace)


def model_route(
    name: str,
    model: str,
    *targets: str | tuple[str, int],
    lora: Iterable[str] = (),
    namespace: str = "default",
    api_version: str = VOLCANO,
    created: str = "",
    **spec: Any,
) -> Tree:
    """A ModelRoute with one rule: to ModelServers, or to (ModelServer, weight). ``created``: its creationTimestamp."""
    pairs = [target if isinstance(target, tuple) else (target, None) for target in targets]
    to = [{"modelServerName": server} | ({} if weight is None else {"weight": weight}) for server, weight in pairs]
    made: Tree = {"modelName": model} if model else {}
    if lora := list(lora):
        made["loraAdapters"] = lora
    tree = thing(
        api_version, "ModelRoute", name, made | {"rules": [{"name": "all", "targetModels": to}]} | spec, namespace
    )
    if created:
        tree["metadata"]["creationTimestamp"] = created
    return tree


def provider(
    name: str, url: str, *, secret: tuple[str, str] | None = None, namespace: str = "default", **spec: Any
) -> Tree:
    """An ExternalModelProvider. ``secret``: the name of a Secret and its key."""
    made: Tree = {"providerType": "OpenAI", "baseURL": url}
    if secret:
        made["auth"] = {"secretRef": {"name": secret[0], "key": secret[1]}}
    return thing(VOLCANO, "ExternalModelProvider", name, made | spec, namespace)


def inference_pool(
    name: str, labels: Mapping[str, str], *ports: int, picker: str | None = None, namespace: str = "default"
) -> Tree:
    """An InferencePool v1. ``picker``: the Service of its endpoint picker."""
    spec: Tree = {
        "selector": {"matchLabels": dict(labels)},
        "targetPorts": [{"number": port} for port in ports or (8000,)],
    }
    if picker:
        spec["endpointPickerRef"] = {"name": picker, "port": {"number": 9002}}
    return thing(POOLS, "InferencePool", name, spec, namespace)


def old_inference_pool(name: str, labels: Mapping[str, str], port: int = 8000, namespace: str = "default") -> Tree:
    """An InferencePool v1alpha2."""
    spec = {"selector": dict(labels), "targetPortNumber": port, "extensionRef": {"name": f"{name}-epp"}}
    return thing(OLD_POOLS, "InferencePool", name, spec, namespace)


def objective(name: str, pool: str, priority: int = 0, namespace: str = "default", api_version: str = LLM_D) -> Tree:
    return thing(api_version, "InferenceObjective", name, {"priority": priority, "poolRef": {"name": pool}}, namespace)


def rewrite(
    name: str,
    pool: str,
    model: str | None,
    *targets: tuple[str, int | None],
    namespace: str = "default",
    api_version: str = LLM_D,
) -> Tree:
    """An InferenceModelRewrite with one rule: of ``model`` (None: any) to (model, weight)."""
    rule: Tree = {
        "targets": [{"modelRewrite": to} | ({} if weight is None else {"weight": weight}) for to, weight in targets]
    }
    if model is not None:
        rule["matches"] = [{"model": {"type": "Exact", "value": model}}]
    return thing(api_version, "InferenceModelRewrite", name, {"poolRef": {"name": pool}, "rules": [rule]}, namespace)


def gateway_class(name: str, controller: str) -> Tree:
    tree = thing(GATEWAYS, "GatewayClass", name, {"controllerName": controller})
    del tree["metadata"]["namespace"]
    return tree


def gateway(name: str, gateway_class: str, namespace: str = "default", port: int = 80) -> Tree:
    listener = {"name": "http", "port": port, "protocol": "HTTP"}
    return thing(GATEWAYS, "Gateway", name, {"gatewayClassName": gateway_class, "listeners": [listener]}, namespace)


def http_route(name: str, gateway: str, *pools: str, path: str = "/", namespace: str = "default", **spec: Any) -> Tree:
    """An HTTPRoute with one rule: a path prefix to InferencePools."""
    group = POOLS.partition("/")[0]
    backends = [{"group": group, "kind": "InferencePool", "name": each} for each in pools]
    rule = {"matches": [{"path": {"type": "PathPrefix", "value": path}}], "backendRefs": backends}
    return thing(GATEWAYS, "HTTPRoute", name, {"parentRefs": [{"name": gateway}], "rules": [rule]} | spec, namespace)


def reference_grant(name: str, namespace: str, from_namespace: str) -> Tree:
    """HTTPRoutes of one namespace may name InferencePools of another, the grant's own."""
    spec = {
        "from": [{"group": GATEWAYS.partition("/")[0], "kind": "HTTPRoute", "namespace": from_namespace}],
        "to": [{"group": POOLS.partition("/")[0], "kind": "InferencePool"}],
    }
    return thing("gateway.networking.k8s.io/v1beta1", "ReferenceGrant", name, spec, namespace)
