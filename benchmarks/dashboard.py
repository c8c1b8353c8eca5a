"""What watching costs: the gateway with 256 endpoints under light load, watched by nobody, by one and by two. (IO)

Invariant: turns of all alternate in one run, so that the machine's moods hit all alike. Run it as
`python benchmarks/dashboard.py`; `make bench` does.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import trio

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from processes import ENGINE_CORE, FRONT_CORE, Program  # noqa: E402

ENDPOINTS = 256
WATCHERS = (0, 1, 2)
_RATE = 20.0
_PAGE = """# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="m"} 3.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{model_name="m"} 1.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{model_name="m"} 0.5
"""
_CHOICE = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
_USAGE = {"prompt_tokens": 50, "completion_tokens": 8, "total_tokens": 58}
_CHAT = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [_CHOICE], "usage": _USAGE}
_MODELS = {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "vllm"}]}
_POOL = {
    "apiVersion": "networking.serving.volcano.sh/v1alpha1",
    "kind": "ModelServer",
    "metadata": {"name": "m"},
}


def configuration(engine: str, endpoints: int) -> str:
    """One pool of so many endpoints, which one simulated engine plays, and a route there. Engines are asked every 20 s:
    what that costs would hide the rest.
    """
    urls = [f"http://{engine}/e{number}" for number in range(endpoints)]
    server = {**_POOL, "spec": {"model": "m", "inferenceEngine": "vLLM", "endpoints": urls}}
    rules = [{"targetModels": [{"modelServerName": "m"}]}]
    route = {**_POOL, "kind": "ModelRoute", "spec": {"modelName": "m", "rules": rules}}
    head = {"apiVersion": "infer-gateway.dev/v1alpha1", "kind": "GatewayConfiguration"}
    return "\n---\n".join(map(json.dumps, ({**head, "scraping": {"interval": "20s"}}, server, route)))


async def serve() -> None:
    """One engine in place of all: whoever asks under whatever path is told the same."""

    async def answer(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            while head := await stream.receive_some(65536):
                path = head.split(b" ", 2)[1]
                await stream.send_all(next(said for end, said in _SAID.items() if path.endswith(end)))
        await trio.aclose_forcefully(stream)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=4096)
    print(f"ready http=127.0.0.1:{listeners[0].socket.getsockname()[1]}", flush=True)
    await trio.serve_listeners(answer, listeners)


def _answer(kind: str, body: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()


_SAID = {
    b"/metrics": _answer("text/plain", _PAGE),
    b"/v1/models": _answer("application/json", json.dumps(_MODELS)),
    b"": _answer("application/json", json.dumps(_CHAT)),
}


def ask(address: str, stop: threading.Event) -> None:
    """A request now and then."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi " * 50}], "max_tokens": 8})
    connection = http.client.HTTPConnection(address)
    while not stop.wait(1.0 / _RATE):
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        connection.getresponse().read()


def watch(address: str, stop: threading.Event) -> None:
    """Read all that is told."""
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.request("GET", "/api/live")
    answer = connection.getresponse()
    while not stop.is_set() and answer.readline():
        pass
    connection.close()


def cores(front: Program, seconds: float) -> float:
    """What a program uses of one core."""
    began, used = time.monotonic(), front.cpu_s()
    time.sleep(seconds)
    return (front.cpu_s() - used) / (time.monotonic() - began)


def measure(endpoints: int, seconds: float, rounds: int) -> dict[str, float]:
    """Shares of a core: of the gateway unwatched, and what one watcher and two add."""
    name = str(Path(sys.executable).with_name("infer-gateway"))
    address = ["--http", "127.0.0.1:0", "--grpc", "off", "--admin", "127.0.0.1:0"]
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        engine = stack.enter_context(Program("engine", [sys.executable, __file__, "--serve"], ENGINE_CORE))
        config = Path(folder) / "gateway.yaml"
        config.write_text(configuration(engine.word("http"), endpoints))
        front = stack.enter_context(Program("gateway", [name, "serve", "-c", str(config), *address], FRONT_CORE))
        done = threading.Event()
        asking = threading.Thread(target=ask, args=(front.word("http"), done))
        asking.start()
        taken: dict[int, list[float]] = {watchers: [] for watchers in WATCHERS}
        time.sleep(3)
        for _ in range(rounds):
            for watchers, found in taken.items():
                found.append(_watched(front, watchers, seconds))
        done.set()
        asking.join()
    # of each round, as the program's own use drifts
    added = ([more - less for more, less in zip(taken[number], taken[0], strict=True)] for number in WATCHERS[1:])
    first, second = map(statistics.median, added)
    return {"alone": statistics.median(taken[0]), "added": first, "added_by_two": second}


def _watched(front: Program, watchers: int, seconds: float) -> float:
    stop = threading.Event()
    watching = [threading.Thread(target=watch, args=(front.word("admin"), stop)) for _ in range(watchers)]
    for thread in watching:
        thread.start()
    time.sleep(2)
    used = cores(front, seconds)
    stop.set()
    for thread in watching:
        thread.join()
    return used


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks/dashboard.py", description=__doc__.splitlines()[0])
    parser.add_argument("--endpoints", type=int, default=ENDPOINTS)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each turn (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        trio.run(serve)
        return
    figures = measure(args.endpoints, args.seconds, args.rounds)
    if args.json:
        print(json.dumps(figures))
        return
    for name, share in figures.items():
        print(f"{name:<12} {100 * share:6.2f} % of a core")


if __name__ == "__main__":
    main()
