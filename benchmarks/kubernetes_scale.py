"""The gateway in a cluster of a size: what it weighs, how soon a change serves, and whom changes hold up. (IO)

Invariant: the API server is the one that tests have, over real HTTP; every pod has an address of its own in 127/8, and
one program answers for all of them. Whoever makes events runs at a lower priority than whoever measures, as both share
a core. Run it as `python benchmarks/kubernetes_scale.py`; `make bench` does.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import trio

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from processes import ENGINE_CORE, FRONT_CORE, Program  # noqa: E402
from scrape import PAGE, pages  # noqa: E402
from upstream import MODELS_JSON, WHOLE_JSON  # noqa: E402

from tests.kube.cluster import Cluster, Tree, model_route, model_server, pod  # noqa: E402

_LOW = 15
"""Niceness of those that are not to disturb the measurement."""
_WITHIN_S = 10.0
_SETTLED_S = 20.0
_TOLD_S = 300.0
"""Conditions are written twenty a second: of thousands of objects that takes minutes, once."""
_ASKED_PER_S, _EVENTS_PER_S = 50, 100


# -- who answers for all pods ----------------------------------------------------------------------------------------


async def serve(recorded: bytes) -> None:
    """As engines do, at every address."""

    def message(body: bytes, kind: str = "application/json") -> bytes:
        return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (kind.encode(), len(body), body)

    metrics = [message(page, "text/plain; version=0.0.4; charset=utf-8") for page in pages(recorded, 8)]
    models, whole = message(MODELS_JSON.encode()), message(WHOLE_JSON.encode())

    async def answer(stream: trio.SocketStream) -> None:
        try:
            while asked := await stream.receive_some(65536):
                page = asked.startswith(b"GET /metrics")
                known = random.choice(metrics) if page else models if asked.startswith(b"GET") else whole
                await stream.send_all(known)
        except trio.BrokenResourceError:
            pass
        finally:
            await trio.aclose_forcefully(stream)

    listeners = await trio.open_tcp_listeners(0, host="0.0.0.0", backlog=4096)
    print(f"ready {listeners[0].socket.getsockname()[1]}", flush=True)
    await trio.serve_listeners(answer, listeners)


# -- the cluster -----------------------------------------------------------------------------------------------------


class Fleet:
    """Objects of so many routes, each to a pool of its own with so many pods."""

    def __init__(self, routes: int, pods: int, port: int) -> None:
        self.port = port
        self._made = 0
        self.pods = [self.pod(f"pod-{n}", f"app-{n // pods}") for n in range(routes * pods)]
        self.servers = [self.server(f"server-{n}", f"app-{n}") for n in range(routes)]
        self.routes = [model_route(f"route-{n}", f"model-{n}", f"server-{n}") for n in range(routes)]

    def server(self, name: str, app: str) -> Tree:
        return model_server(name, {"app": app}, self.port)

    def pod(self, name: str, app: str, *, ready: bool = True) -> Tree:
        self._made, number = self._made + 1, self._made
        ip = f"127.{1 + number // 62_500}.{number // 250 % 250}.{1 + number % 250}"
        return pod(name, ip, {"app": app}, self.port, ready=ready)

    def load(self, cluster: Cluster) -> None:
        """Objects of ours with what their schemas fill in: it would come with the first status, as another version."""
        cluster.load(self.pods, check=False)
        cluster.load([*self.servers, *self.routes])


class Asker:
    """One connection to the gateway."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=_WITHIN_S)

    def status(self, model: str) -> int:
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hello"}]})
        self._connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        with self._connection.getresponse() as response:
            response.read()
            return response.status

    def served_after(self, model: str, change: Callable[[], object]) -> float:
        """Seconds from just before the change until the first request for the model is served."""
        began = time.perf_counter()
        change()
        while self.status(model) != 200:
            if time.perf_counter() - began > _WITHIN_S:
                raise RuntimeError(f"{model} is not served after {_WITHIN_S:g} s")
            time.sleep(0.001)
        return time.perf_counter() - began

    def delays(self, models: int, seconds: float, engine: Asker) -> list[tuple[float, float]]:
        """What requests take, so many a second, and what they take straight to an engine: the machine's mood."""
        took = []
        due = time.perf_counter()
        for n in range(int(seconds * _ASKED_PER_S)):
            due += 1.0 / _ASKED_PER_S
            time.sleep(max(0.0, due - time.perf_counter()))
            took.append((self.took(f"model-{n % models}"), engine.took(f"model-{n % models}")))
        return took

    def took(self, model: str) -> float:
        began = time.perf_counter()
        status = self.status(model)
        if status != 200:
            raise RuntimeError(f"answered {status}")
        return time.perf_counter() - began


def changes(cluster: Cluster, fleet: Fleet, asker: Asker, events: int) -> Iterator[tuple[str, float]]:
    """(what changed, seconds until it served) for each of so many events of each kind."""
    for n in range(events):
        route = model_route(f"new-{n}", f"new-model-{n}", "server-0")
        yield "a route", asker.served_after(f"new-model-{n}", lambda tree=route: cluster.create(tree))
    late = [fleet.pod(f"late-{n}", f"late-{n}", ready=False) for n in range(events)]
    servers = [fleet.server(f"late-{n}", f"late-{n}") for n in range(events)]
    cluster.load([*late, *servers, *(model_route(f"late-{n}", f"late-model-{n}", f"late-{n}") for n in range(events))])
    time.sleep(1.0)
    for n, tree in enumerate(late):
        yield "a pod", asker.served_after(f"late-model-{n}", lambda tree=tree: cluster.set_ready(tree, True))


def disturb(control: str, first: int, pods: int, seconds: float) -> None:
    """Events: pods of pools that nobody asks come and go, so many a second."""
    os.nice(_LOW)
    api = http.client.HTTPConnection(urlsplit(control).netloc, timeout=30)
    due = time.perf_counter()
    for n in range(int(seconds * _EVENTS_PER_S)):
        due += 1.0 / _EVENTS_PER_S
        time.sleep(max(0.0, due - time.perf_counter()))
        status = "False" if n // (pods - first) % 2 == 0 else "True"
        change = {"status": {"conditions": [{"type": "Ready", "status": status}]}}
        path = f"/api/v1/namespaces/default/pods/pod-{first + n % (pods - first)}/status"
        api.request("PATCH", path, json.dumps(change), {"content-type": "application/merge-patch+json"})
        with api.getresponse() as response:
            response.read()
            if response.status != 200:
                raise RuntimeError(f"PATCH answered {response.status}")


# -- measuring -------------------------------------------------------------------------------------------------------


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures; times in milliseconds."""
    script = str(Path(sys.executable).with_name("infer-gateway"))
    with Program("engines", [sys.executable, __file__, "--serve"], ENGINE_CORE) as engines, Cluster() as cluster:
        assert cluster.process.process is not None
        os.setpriority(os.PRIO_PROCESS, cluster.process.process.pid, _LOW)
        fleet = Fleet(args.routes, args.pods, int(engines.words[1]))
        fleet.load(cluster)
        where = ["--http", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--grpc", "off"]
        serving = [script, "serve", "--kubernetes", "--kubeconfig", str(cluster.kubeconfig), *where]
        with Program("gateway", serving, FRONT_CORE) as gateway:
            return _figures(args, gateway, cluster, fleet)


def _figures(args: argparse.Namespace, gateway: Program, cluster: Cluster, fleet: Fleet) -> dict[str, Any]:
    figures: dict[str, Any] = {"routes": args.routes, "pods": len(fleet.pods), "start_s": gateway.started_in_s}
    asker = Asker(gateway.word("http"))
    _settle(cluster)
    before, began = gateway.cpu_s(), time.perf_counter()
    time.sleep(args.seconds)
    figures["idle_cores"] = (gateway.cpu_s() - before) / (time.perf_counter() - began)
    figures["resident_mib"] = gateway.resident_mib()
    took: dict[str, list[float]] = {}
    for what, seconds in changes(cluster, fleet, asker, args.events):
        took.setdefault(what, []).append(1000 * seconds)
    figures["serves"] = {what: _quantiles(times) for what, times in took.items()}
    quiet: list[tuple[float, float]] = []
    disturbed: list[tuple[float, float]] = []
    asked, engine = args.routes // 2, Asker(f"127.0.0.1:{fleet.port}")
    for _ in range(args.rounds):
        quiet += asker.delays(asked, args.seconds, engine)
        events = [str(asked * args.pods), str(len(fleet.pods)), str(args.seconds)]
        with subprocess.Popen([sys.executable, __file__, "--disturb", cluster.control, *events]) as disturbing:
            disturbed += asker.delays(asked, args.seconds, engine)
            if disturbing.wait(30):
                raise RuntimeError("the events could not be made")
    for place, whom in enumerate(("delay", "engine_delay")):
        taken = {"quiet": quiet, "events": disturbed}
        figures[whom] = {when: _quantiles([1000 * each[place] for each in pairs]) for when, pairs in taken.items()}
    figures["resident_after_mib"] = gateway.resident_mib()
    return figures


def _settle(cluster: Cluster) -> None:
    """Until all have been asked what they serve and how busy they are, and what is to be said of objects was said."""
    deadline = time.perf_counter() + _TOLD_S
    time.sleep(_SETTLED_S)
    while time.perf_counter() < deadline:
        cluster.forget_requests()
        time.sleep(2.0)
        if not cluster.requests("patch"):
            return


def _quantiles(values: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {"p50": cuts[49], "p99": cuts[98], "max": max(values)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks/kubernetes_scale.py", description=__doc__.splitlines()[0])
    parser.add_argument("--routes", type=int, default=1000, help="each with a pool of its own (default 1000)")
    parser.add_argument("--pods", type=int, default=5, help="of each pool (default 5)")
    parser.add_argument("--events", type=int, default=50, help="of each kind, timed one by one (default 50)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement of delays (default 5)")
    parser.add_argument("--rounds", type=int, default=3, help="of those, with and without events (default 3)")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--disturb", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        trio.run(serve, PAGE.read_bytes())
    elif args.disturb:
        control, first, pods, seconds = args.disturb
        disturb(control, int(first), int(pods), float(seconds))
    else:
        figures = measure(args)
        print(json.dumps(figures) if args.json else json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
