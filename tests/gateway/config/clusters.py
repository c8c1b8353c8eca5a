"""Objects as an API server has them, for tests of what becomes of them."""

from __future__ import annotations

import base64
import json
from typing import Any

from gateway.config.cluster import Cluster
from gateway.config.pods import Pod, pod_of
from gateway.config.verdict import Condition, Verdict

VOLCANO = "networking.serving.volcano.sh/v1alpha1"
MATRIX = "networking.matrixinfer.ai/v1alpha1"
POOLS = "inference.networking.k8s.io/v1"
EARLIER = "inference.networking.x-k8s.io/v1alpha2"


def thing(kind: str, name: str, spec: Any, *, generation: int = 1, version: str = VOLCANO, **metadata: Any) -> Any:
    metadata = {"uid": f"{kind}-{name}", "creationTimestamp": "2026-01-01T00:00:00Z", **metadata}
    head = {"name": name, "namespace": "x", "generation": generation, **metadata}
    return {"apiVersion": version, "kind": kind, "metadata": head, "spec": spec}


def server(name: str, app: str = "", *, spec: Any = None, **more: Any) -> Any:
    made = {
        "inferenceEngine": "vLLM",
        "workloadSelector": {"matchLabels": {"app": app or name}},
        "workloadPort": {"port": 8000},
    }
    return thing("ModelServer", name, {**made, **(spec or {})}, **more)


def provider(name: str, secret: str = "", *, spec: Any = None, **more: Any) -> Any:
    made: dict[str, Any] = {"baseURL": "https://api.example.com"}
    if secret:
        made["auth"] = {"secretRef": {"name": secret, "key": "key"}}
    return thing("ExternalModelProvider", name, {**made, **(spec or {})}, **more)


def route(name: str, *targets: str, model: str = "m", spec: Any = None, **more: Any) -> Any:
    """``targets``: names of ModelServers, each "a" or "a=70" with a weight; "!p" is a provider."""
    rule = {"targetModels": [_target(target) for target in targets]}
    return thing("ModelRoute", name, {"modelName": model, "rules": [rule], **(spec or {})}, **more)


def _target(text: str) -> dict[str, Any]:
    name, _, weight = text.partition("=")
    member = "externalModelProviderName" if name.startswith("!") else "modelServerName"
    return {member: name.lstrip("!"), **({"weight": int(weight)} if weight else {})}


def secret(name: str, **data: str) -> Any:
    content = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "x"}, "data": content}


def pod_tree(name: str, app: str, *, ip: str = "10.0.0.1", ready: bool = True, **labels: str) -> Any:
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    return {
        "metadata": {"name": name, "namespace": "x", "uid": f"pod-{name}", "labels": {"app": app, **labels}},
        "status": {"phase": "Running", "podIP": ip, "conditions": [condition]},
    }


def pod(name: str, app: str, *, ip: str = "10.0.0.1", ready: bool = True, **labels: str) -> Pod:
    return pod_from(pod_tree(name, app, ip=ip, ready=ready, **labels))


def pod_from(tree: Any) -> Pod:
    return pod_of(json.dumps(tree).encode())


class Told:
    """A cluster, and what it has said so far."""

    def __init__(self, cluster: Cluster | None = None) -> None:
        self.cluster = cluster or Cluster()
        self.verdicts: dict[tuple[str, str, str], Verdict] = {}

    def put(self, *trees: Any) -> None:
        for tree in trees:
            self.cluster.put(tree)
        self.build()

    def put_pods(self, *pods: Pod) -> None:
        for each in pods:
            self.cluster.put_pod(each)
        self.build()

    def remove(self, kind: str, name: str, version: str = VOLCANO) -> None:
        self.cluster.remove(version, kind, "x", name)
        self.build()

    def build(self) -> list[Verdict]:
        self.cluster.build()
        news = self.cluster.verdicts()
        for verdict in news:
            self.verdicts[verdict.kind, verdict.name, verdict.api_version] = verdict
        return news

    def said(self, kind: str, name: str, condition: str, version: str = VOLCANO) -> Condition:
        found = self.verdicts[kind, name, version].conditions
        return next(each for each in found if each.type == condition)

    def of_route(self, name: str, condition: str) -> Condition:
        return self.said("ModelRoute", name, condition)

    def of_server(self, name: str, condition: str) -> Condition:
        return self.said("ModelServer", name, condition)

    def pool(self, name: str) -> Any:
        return next(pool for pool in self.cluster.part.pools if pool.name == f"x/{name}")

    def route(self, name: str) -> Any:
        return next(route for route in self.cluster.part.routes if route.name == f"x/{name}")

    def leads(self, name: str) -> list[tuple[str, int]]:
        """Of the route's first rule."""
        return [(share.pool, share.weight) for share in self.route(name).rules[0].shares]
