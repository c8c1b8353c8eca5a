"""What it costs to ask a fleet how busy it is: 256 endpoints every 200 ms, each with a page as vLLM gives it. (IO)

Invariant: pages differ from one reading to the next as those of a busy engine do; every endpoint has a connection of
its own. Run it as `python benchmarks/scrape.py`; `make bench` does, pinned to the gateway's core.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
import sys
import time
import timeit
from pathlib import Path
from typing import Any

import trio

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from processes import ENGINE_CORE, Program  # noqa: E402

from adapters import registry  # noqa: E402
from adapters.transport import HTTPTransport  # noqa: E402
from gateway.ports import Adapter  # noqa: E402
from gateway.scrape import Scrapes  # noqa: E402
from gateway.types import Endpoint, Load  # noqa: E402
from gateway.wire.exposition import Layout  # noqa: E402

PAGE = HERE.parent / "tests" / "recordings" / "vllm-0.32.0" / "metrics.prom"
_VARIANTS = 64
_SAMPLE = re.compile(rb"^(vllm:[^\n]*[} ])([0-9.e+]+)$", re.MULTILINE)


def pages(recorded: bytes, count: int = _VARIANTS) -> list[bytes]:
    """``count`` readings of a busy engine: gauges move, sums and counts grow."""
    rng = random.Random(1)
    grown = 0.0

    def moved(match: re.Match[bytes]) -> bytes:
        value = float(match[2])
        if b"_created" in match[1] or b"_info" in match[1]:
            return match[0]
        if b"_sum" in match[1]:
            value += grown * rng.random()
        elif b"_bucket" in match[1] or b"_count" in match[1] or b"_total" in match[1]:
            value += int(grown * rng.randint(1, 20))
        elif b"usage" in match[1]:
            value = rng.random()
        elif b"num_requests" in match[1]:
            value = float(rng.randint(0, 128))
        return match[1] + repr(value).encode()

    out = []
    for _ in range(count):
        out.append(_SAMPLE.sub(moved, recorded))
        grown += rng.random()
    return out


async def serve(recorded: bytes) -> None:
    """Answer every request on every connection with the next page."""
    head = b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n"
    answers = [head + b"content-length: %d\r\n\r\n%b" % (len(body), body) for body in pages(recorded)]

    async def answer(stream: trio.SocketStream) -> None:
        turn = itertools.count(random.randrange(_VARIANTS))
        try:
            while await stream.receive_some(65536):
                await stream.send_all(answers[next(turn) % len(answers)])
        except trio.BrokenResourceError:
            pass
        finally:
            await trio.aclose_forcefully(stream)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=4096)
    print(f"ready {listeners[0].socket.getsockname()[1]}", flush=True)
    await trio.serve_listeners(answer, listeners)


async def scrape(adapter: Adapter, port: int, endpoints: int, seconds: float) -> dict[str, float]:
    """The share of a core and the loads a second."""
    loads = 0
    waited = 0.0

    def loaded(endpoint: Endpoint, load: Load) -> None:
        nonlocal loads
        loads += 1

    def lost(endpoint: Endpoint) -> None:
        raise RuntimeError(f"{endpoint} did not answer")

    scrapes = Scrapes(HTTPTransport(), loaded=loaded, lost=lost)
    fleet = [Endpoint(adapter.name, "http", "127.0.0.1", port, base_path=f"/e{n}") for n in range(endpoints)]
    scrapes.watch(dict.fromkeys(fleet, adapter))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scrapes.run)
        await trio.sleep(2)
        loads, used, began = 0, time.process_time(), time.perf_counter()
        await trio.sleep(seconds)
        used, waited = time.process_time() - used, time.perf_counter() - began
        nursery.cancel_scope.cancel()
    return {"cores": used / waited, "loads_per_s": loads / waited, "us_each": used / max(1, loads) * 1e6}


def parsing(adapter: Adapter, recorded: bytes) -> dict[str, float]:
    """Microseconds a page, with a layout kept and without."""
    readings = pages(recorded)
    layout = Layout()
    kept = timeit.timeit(lambda: [adapter.parse_load(page, 0.0, layout) for page in readings], number=20)
    alone = timeit.timeit(lambda: [adapter.parse_load(page, 0.0) for page in readings], number=2)
    return {"parse_us": kept / 20 / len(readings) * 1e6, "parse_anew_us": alone / 2 / len(readings) * 1e6}


def measure(engine: str, page: Path, endpoints: int, seconds: float) -> dict[str, Any]:
    """All figures."""
    adapter = registry.load()[engine]
    recorded = page.read_bytes()
    with Program("engines", [sys.executable, __file__, "--serve", "--page", str(page)], ENGINE_CORE) as engines:
        figures = trio.run(scrape, adapter, int(engines.words[1]), endpoints, seconds)
    return {"endpoints": endpoints, "page_bytes": len(recorded)} | figures | parsing(adapter, recorded)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="benchmarks/scrape.py", description=__doc__.splitlines()[0])
    parser.add_argument("--endpoints", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--engine", default="vllm", help="whose page it is (default vllm)")
    parser.add_argument("--page", type=Path, default=PAGE, help="a recorded page")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        trio.run(serve, args.page.read_bytes())
        return
    figures = measure(args.engine, args.page, args.endpoints, args.seconds)
    if args.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:<16} {value:,.3f}".rstrip("0").rstrip("."))


if __name__ == "__main__":
    main()
