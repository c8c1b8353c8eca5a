"""Simulated engines as pods, a gateway that follows the cluster they are in, and questions to it. (IO)"""

from __future__ import annotations

import http.client
import json
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tests.kube.cluster import Cluster, Tree, pod
from tests.process import InferGateway, eventually, serve, together

CHAT = "/v1/chat/completions"


def shared_port() -> int:
    """Free at every loopback address: pods of one server differ by address alone."""
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        return int(probe.getsockname()[1])


def engine(host: str, port: int, *arguments: str, model: str = "m") -> InferGateway:
    return InferGateway("simulate", "vllm", "--host", host, "--port", str(port), "--model", model, *arguments)


@contextmanager
def pods(cluster: Cluster, app: str, *hosts: str, port: int, arguments: tuple[str, ...] = ()) -> Iterator[list[Tree]]:
    """An engine at each of ``hosts``, and a ready pod ``app``-N for each, labelled app=``app``."""
    engines = [engine(host, port, *arguments) for host in hosts]
    trees = [pod(f"{app}-{n}", host, {"app": app}, port) for n, host in enumerate(hosts)]
    with together(*engines):
        cluster.create(*trees)
        yield trees


def following(cluster: Cluster, *arguments: str) -> InferGateway:
    return serve("--kubernetes", "--kubeconfig", str(cluster.kubeconfig), *arguments)


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.text = response.read().decode()

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])

    @property
    def endpoint(self) -> str:
        """Which endpoint answered."""
        return str(json.loads(self.headers["x-schedule-decision"])["tried"][-1])


def ask(
    gateway: InferGateway, model: str, headers: Mapping[str, str] | None = None, path: str = CHAT, **more: object
) -> Answer:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, **more}
    connection = http.client.HTTPConnection(*gateway.address, timeout=20)
    try:
        fields = {"content-type": "application/json", "x-debug-schedule": "1", **(headers or {})}
        connection.request("POST", path, json.dumps(body), fields)
        return Answer(connection.getresponse())
    finally:
        connection.close()


def serves(gateway: InferGateway, model: str, status: int = 200, within_s: float = 10.0) -> bool:
    """Whether requests for the model come to be answered like that."""
    return eventually(lambda: ask(gateway, model).status == status, within_s)


def served_by(gateway: InferGateway, model: str, count: int, **headers: str) -> Counter[str]:
    """Hosts of the endpoints that answered so many requests, all of which succeed."""
    answers = [ask(gateway, model, headers) for _ in range(count)]
    assert {answer.status for answer in answers} == {200}
    return Counter(answer.endpoint.rpartition(":")[0] for answer in answers)


def metric(gateway: InferGateway, name: str, **labels: str) -> float:
    """The sum of the samples with these labels."""
    host, _, port = gateway.ready["admin"].rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    try:
        connection.request("GET", "/metrics")
        page = connection.getresponse().read().decode()
    finally:
        connection.close()
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    lines = (line for line in page.splitlines() if line.startswith((f"{name}{{", f"{name} ")))
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(pair in line for pair in wanted))
