"""`make bench`: what the gateway costs, as ratios to nginx and to going direct, measured alternately in one run. (IO)

Invariant: the thing measured is pinned to core 0, engine and load to others (core 1, on a machine of two); every
process started is stopped. Rates are what is judged. Where the engine cannot saturate the thing measured they say
little, so they are also shown per second of processor time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clients import Clients, Load
from fronts import PEERS, Front, canned_engine, engine, fronts, gateway, has_nginx
from processes import ENGINE_CORE, FRONT_CORE, HERE, ROOT, Failed, Program, compiled, core_busy_s, pin
from rpc import Calls


@dataclass(frozen=True)
class Row:
    """One line of the result: medians over the rounds."""

    measure: str
    front: str
    value: float
    unit: str
    ratio: float | None = None  # of the values, to the yardstick
    cores: float | None = None  # processor seconds per second of the thing measured
    core_ratio: float | None = None  # of the values per processor second
    target: str = ""
    met: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class Sample:
    """One measurement of one front: what the client saw, and the share of core 0 that the front and others used."""

    load: Load
    cores: float
    others: float


@dataclass(frozen=True)
class Target:
    """A ratio to a yardstick, not below (rates) or not above (times) a bound."""

    yardstick: str
    bound: float
    rate: bool

    def __str__(self) -> str:
        return f"{'>=' if self.rate else '<='} {self.bound:.2f}x"

    def met(self, ratio: float) -> bool:
        """Whether the bound is kept."""
        return ratio >= self.bound if self.rate else ratio <= self.bound


@dataclass
class Bench:
    """What the measures share."""

    args: argparse.Namespace
    folder: Path
    clients: Clients
    engine: Path | None
    peers: Mapping[str, str]
    rows: list[Row] = field(default_factory=list)

    def alternate(self, running: list[Front], measure: Callable[[Front], Load]) -> dict[str, list[Sample]]:
        """Each front in turn, round after round, so that the machine's moods hit all alike."""
        taken: dict[str, list[Sample]] = {front.name: [] for front in running}
        for _ in range(self.args.rounds):
            for front in running:
                taken[front.name].append(sample(front, measure))
        return taken

    def add(
        self, measure: str, unit: str, taken: dict[str, list[Sample]], value: Callable[[Load], float], target: Target
    ) -> None:
        """Medians of one measure, and the ratios of each front to the yardstick if that was there."""
        medians = {name: statistics.median(value(each.load) for each in samples) for name, samples in taken.items()}
        cores = {name: statistics.median(each.cores for each in samples) for name, samples in taken.items()}
        base, base_cores = medians.get(target.yardstick), cores.get(target.yardstick)
        for name, samples in taken.items():
            ratio = medians[name] / base if base else None
            per_core = None
            if target.rate and ratio is not None and base_cores and cores[name]:
                per_core = ratio * base_cores / cores[name]
            quiet = others_of(samples) < 0.25 and others_of(taken[target.yardstick]) < 0.25 if base else False
            met = target.met(ratio) if name == "gateway" and ratio is not None and quiet else None
            wanted = str(target) if met is not None else ""
            used = cores[name] or None
            self.show(Row(measure, name, medians[name], unit, ratio, used, per_core, wanted, met, remarks(samples)))

    def show(self, row: Row) -> None:
        """Keep and print one line."""
        self.rows.append(row)
        value = f"{row.value:,.0f}" if row.value >= 1000 else f"{row.value:,.2f}"
        verdict = f"{row.target:<10} {'met' if row.met else 'NOT MET'}" if row.target else ""
        numbers = (
            f"{_times(row.ratio)} {row.cores if row.cores is not None else float('nan'):6.2f} {_times(row.core_ratio)}"
        )
        line = f"{row.measure:<28} {row.front:<11} {value:>10} {row.unit:<6} {numbers}  {verdict:<18} {row.note}"
        print(line.replace("   nan", "     -").rstrip(), flush=True)


def _times(ratio: float | None) -> str:
    return f"{ratio:7.2f}x" if ratio is not None else "       -"


def sample(front: Front, measure: Callable[[Front], Load]) -> Sample:
    """One measurement, with what it cost."""
    busy, began = core_busy_s(FRONT_CORE), time.perf_counter()
    before = front.program.cpu_s() if front.program else 0.0
    load = measure(front)
    elapsed = time.perf_counter() - began
    used = (front.program.cpu_s() if front.program else 0.0) - before
    others = core_busy_s(FRONT_CORE) - busy - used
    return Sample(load, used / elapsed, max(0.0, others / elapsed))


def others_of(samples: list[Sample]) -> float:
    """The share of core 0 that other programs took, unless the front is the engine itself and elsewhere."""
    return statistics.median(each.others if each.cores else 0.0 for each in samples)


def remarks(samples: list[Sample]) -> str:
    """What makes a line doubtful."""
    errors = sum(each.load.errors for each in samples)
    others = others_of(samples)
    said = [f"{errors} errors"] if errors else []
    if others > 0.1:
        said.append(f"others took {others:.0%} of the core")
    return ", ".join(said)


def nonstream(bench: Bench) -> None:
    """(a) Small chat completions on 32 connections: of the cheapest engine there is, and of one served by Python."""
    chosen = {"template": bench.args.gateway_cmd, "peers": bench.peers, "buffering": True, "direct": True}
    cheapest = canned_engine(bench.folder) if has_nginx() else engine(bench.engine)
    for title, made in (("plain, canned engine", cheapest), ("plain, engine in Python", engine(None))):
        with made as upstream, fronts(upstream, bench.folder, **chosen) as running:
            taken = bench.alternate(running, lambda front: bench.clients.plain(front.port, 32, bench.args.seconds))
        bench.add(title, "req/s", taken, lambda load: load.answers_per_s, Target("nginx", 0.35, rate=True))


def stream(bench: Bench) -> None:
    """(b) Streamed tokens as fast as they go: one to a write, as engines do, then several."""
    for per_write in bench.args.per_write:
        with engine(bench.engine, per_write=per_write) as upstream:
            chosen = {"template": bench.args.gateway_cmd, "peers": bench.peers, "buffering": False, "direct": True}
            with fronts(upstream, bench.folder, **chosen) as running:
                for connections in (32, 128):
                    _saturate(bench, running, connections, per_write)


def _saturate(bench: Bench, running: list[Front], connections: int, per_write: int) -> None:
    args = bench.args
    taken = bench.alternate(
        running, lambda front: bench.clients.stream(front.port, connections, args.seconds, tokens=args.tokens)
    )
    title = f"tokens, {connections} conns, {per_write} a write"
    bench.add(title, "tok/s", taken, lambda load: load.events_per_s, Target("nginx", 0.7, rate=True))


def grpc(bench: Bench) -> None:
    """(c) Unary calls beside the same over HTTP, and streamed messages."""
    calls = Calls(bench.folder)
    cheapest = canned_engine(bench.folder) if has_nginx() else engine(bench.engine)
    with cheapest as upstream, gateway(bench.args.gateway_cmd, upstream) as front:
        rpc = Front("gateway", _port(front, "grpc"), front.program)
        plain = Front("http", front.port, front.program)
        kinds = {"http": lambda: bench.clients.plain(plain.port, 32, bench.args.seconds)}
        kinds["gateway"] = lambda: calls.unary(rpc.port, bench.args.seconds)
        taken = bench.alternate([plain, rpc], lambda each: kinds[each.name]())
        bench.add("gRPC, unary", "call/s", taken, lambda load: load.answers_per_s, Target("http", 0.35, rate=True))
    for per_write in bench.args.per_write:
        with engine(bench.engine, per_write=per_write) as upstream, gateway(None, upstream) as front:
            taken = bench.alternate([front], lambda front: calls.stream(_port(front, "grpc"), bench.args.seconds))
        _floor(bench, f"gRPC messages, {per_write} a write", "msg/s", taken, lambda load: load.events_per_s, 20_000)


def picker(bench: Bench) -> None:
    """(d) Whole exchanges of the endpoint picker, and what a long prompt adds."""
    calls, seconds = Calls(bench.folder), bench.args.seconds
    cheapest = canned_engine(bench.folder) if has_nginx() else engine(bench.engine)
    with cheapest as upstream, gateway(None, upstream, "--ext-proc", "127.0.0.1:0") as front:
        taken = bench.alternate([front], lambda front: calls.exchange(_port(front, "ext_proc"), seconds))
        _floor(bench, "ext_proc, small chat", "exch/s", taken, lambda load: load.answers_per_s, 1500)
        long = bench.alternate(
            [front], lambda front: calls.exchange(_port(front, "ext_proc"), seconds, 220_000, calls=1)
        )
    took = statistics.median(1000 * each.cores / each.load.answers_per_s for each in long["gateway"])
    verdict = {"target": "<= 2.5 ms", "met": took <= 2.5, "note": remarks(long["gateway"])}
    bench.show(Row("ext_proc, 220 kB of prompt", "gateway", took, "ms", **verdict))


def _port(front: Front, listener: str) -> int:
    assert front.program is not None
    return int(front.program.word(listener).rpartition(":")[2])


def _floor(
    bench: Bench, measure: str, unit: str, taken: dict[str, list[Sample]], value: Callable[[Load], float], least: float
) -> None:
    """The gateway's median, and whether it is at least so much."""
    samples = taken["gateway"]
    median = statistics.median(value(each.load) for each in samples)
    cores = statistics.median(each.cores for each in samples)
    verdict = {"target": f">= {least:,.0f}", "met": median >= least, "note": remarks(samples)}
    bench.show(Row(measure, "gateway", median, unit, cores=cores, **verdict))


def pace(bench: Bench) -> None:
    """(e) The p99 gap of 256 streams of one token each 20 ms."""
    with engine(bench.engine, pace_us=20_000) as upstream:
        chosen = {"template": bench.args.gateway_cmd, "peers": {}, "buffering": False, "direct": True}
        seconds = max(3.0, bench.args.seconds)
        with fronts(upstream, bench.folder, **chosen) as running:
            taken = bench.alternate(
                running, lambda front: bench.clients.stream(front.port, 256, seconds, tokens=2000, warmup=1.0)
            )
    for title, value in (("p50", lambda load: load.gap_p50_s), ("p99", lambda load: load.gap_p99_s)):
        bench.add(
            f"gap {title}, 256 at 20 ms", "ms", taken, lambda load, value=value: value(load) * 1000,
            Target("direct", 1.3, rate=False),
        )  # fmt: skip


def memory(bench: Bench) -> None:
    """(f) Resident memory with 1,000 streams open at one token each 100 ms."""
    with engine(bench.engine, pace_us=100_000) as upstream, gateway(bench.args.gateway_cmd, upstream) as front:
        assert front.program is not None
        idle = front.program.resident_mib()
        before, began = front.program.cpu_s(), time.perf_counter()
        load = bench.clients.stream(front.port, 1000, max(3.0, bench.args.seconds), tokens=2000, warmup=2.0)
        cores = (front.program.cpu_s() - before) / (time.perf_counter() - began)
        # Read just after: the allocator keeps what the open streams needed.
        resident = front.program.resident_mib()
    note = f"{idle:.0f} MiB idle, {load.events_per_s:,.0f} tok/s" + (f", {load.errors} errors" if load.errors else "")
    verdict = {"target": "<= 100 MiB", "met": resident <= 100, "note": note}
    bench.show(Row("memory, 1,000 open streams", "gateway", resident, "MiB", cores=cores, **verdict))


def start(bench: Bench) -> None:
    """(g) From the command to its ready line."""
    times = []
    with engine(bench.engine) as upstream:
        for _ in range(max(3, bench.args.rounds)):
            with gateway(bench.args.gateway_cmd, upstream) as front:
                assert front.program is not None
                times.append(front.program.started_in_s)
    median = statistics.median(times)
    bench.show(Row("start to ready", "gateway", median, "s", target="<= 1 s", met=median <= 1))


def scrape(bench: Bench) -> None:
    """(h) The share of a core that asking 256 endpoints for their load takes, every 200 ms, a vLLM page each."""
    argv = pin(FRONT_CORE, [sys.executable, str(HERE / "scrape.py"), "--json", "--seconds", str(bench.args.seconds)])
    said = [
        json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout) for _ in range(bench.args.rounds)
    ]
    middle = {name: statistics.median(each[name] for each in said) for name in said[0]}
    cores, note = middle["cores"], f"{middle['loads_per_s']:,.0f} loads/s, {middle['us_each']:,.0f} µs each"
    verdict = {"target": "<= 30 %", "met": cores <= 0.3, "note": note}
    bench.show(Row("256 endpoints every 200 ms", "scraping", 100 * cores, "%", cores=cores, **verdict))
    note = f"{middle['parse_anew_us']:,.0f} µs where nothing is known of its layout"
    bench.show(Row("one page of 60 kB read", "scraping", middle["parse_us"], "µs", note=note))


def decisions(bench: Bench) -> None:
    """(i) What placing one request costs, its prompt of 8k tokens hashed once, and the memory of a million blocks."""
    argv = pin(FRONT_CORE, [sys.executable, str(HERE / "decisions.py")])
    lines = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    parted = (line.partition("  ") for line in lines)  # what, spaces, its value, its unit
    told = {what: float(rest.split()[0]) for what, _, rest in parted}
    for endpoints, most in ((8, 60), (512, 400)):
        took = sum(told[f"{part}: built-in, {endpoints} endpoints"] for part in ("rank", "place"))
        verdict = {"target": f"<= {most} µs", "met": took <= most}
        bench.show(Row(f"one decision, {endpoints} endpoints", "scheduler", took, "µs", **verdict))
    took = next(value for what, value in told.items() if what.startswith("hash: 32 KB, own"))
    bench.show(Row("a prompt of 32 KB hashed", "scheduler", took, "µs", target="<= 100 µs", met=took <= 100))
    held = max(value for what, value in told.items() if what.startswith("memory: "))
    bench.show(Row("index of 1,000,000 blocks", "scheduler", held, "MiB", target="<= 160 MiB", met=held <= 160))


def adapters(bench: Bench) -> None:
    """(j) What translation costs: a small chat, and a streamed chunk by itself; ratios to json.loads and dumps."""
    argv = pin(FRONT_CORE, [sys.executable, str(HERE / "translation.py"), "--json"])
    for name, took in json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout).items():
        for what, kind, most in (("a small chat", "encode", 15), ("a chunk", "chunk", 25 if took["translated"] else 3)):
            value = took[f"{kind}_us"]
            verdict = {"target": f"<= {most} µs", "met": value <= most}
            bench.show(Row(f"{what}, {name}", "adapters", value, "µs", took[f"{kind}_of_json"], **verdict))


def scheduling(bench: Bench) -> None:
    """(k) How well requests are placed: the suite of `bench replay`, in virtual time (minutes)."""
    argv = [sys.executable, "-m", "conformance.replay", bench.args.trace, "--suite", "--json", "-"]
    said = json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE, cwd=ROOT).stdout)
    for each in said["verdicts"]:
        bench.show(Row(each["measure"], "ours", each["figure"], "", target=each["target"], met=each["met"]))


def install(bench: Bench) -> None:
    """(l) What a default installation adds to a fresh environment (slow: it installs from the package index)."""
    home = bench.folder / "venv"
    venv.create(home, with_pip=True)
    site = next(home.glob("lib/python*/site-packages"))
    before = _bytes_under(site)
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", str(ROOT)]
    subprocess.run(pip, check=True)
    mib = (_bytes_under(site) - before) / 2**20
    bench.show(Row("default installation", "gateway", mib, "MiB", target="<= 100 MiB", met=mib <= 100))


def kubernetes(bench: Bench) -> None:
    """(m) 1,000 routes to 5,000 pods: how soon a change serves, what that weighs, and whom changes hold up (slow)."""
    argv = [sys.executable, str(HERE / "kubernetes_scale.py"), "--json", "--rounds", str(bench.args.rounds)]
    said = json.loads(subprocess.run(pin(ENGINE_CORE, argv), check=True, stdout=subprocess.PIPE).stdout)
    for what, took in said["serves"].items():
        verdict = {"target": "<= 50 ms", "met": took["p99"] <= 50, "note": f"p99 {took['p99']:.0f} ms"}
        bench.show(Row(f"{what} serves after", "gateway", took["p50"], "ms", **verdict))
    resident = max(said["resident_mib"], said["resident_after_mib"])
    verdict = {"target": "<= 150 MiB", "met": resident <= 150, "note": f"{said['resident_mib']:.0f} before any change"}
    bench.show(Row("memory, 1,000 routes, 5,000 pods", "gateway", resident, "MiB", **verdict))
    quiet, events = said["delay"]["quiet"], said["delay"]["events"]
    own = {which: said["engine_delay"]["events"][which] - said["engine_delay"]["quiet"][which] for which in quiet}
    for which in ("p99", "max"):
        more = events[which] - quiet[which]
        note = f"{quiet[which]:.1f} ms without; asked directly, engines take {own[which]:.1f} ms more"
        verdict = {"target": "<= 5 ms", "met": more <= 5, "note": note}
        ratio = events[which] / quiet[which]
        bench.show(Row(f"{which} by 100 events/s", "gateway", more, "ms", ratio, **verdict))
    cores, note = said["idle_cores"], f"ready after {said['start_s']:.1f} s"
    verdict = {"target": "<= 25 %", "met": cores <= 0.25, "note": note}
    bench.show(Row("5,000 pods asked, no request", "gateway", 100 * cores, "%", cores=cores, **verdict))


def observing(bench: Bench) -> None:
    """(n) What counting, logging and tracing a request costs: each by itself, then gateways that do more and more."""
    argv = pin(FRONT_CORE, [sys.executable, str(HERE / "observing.py"), "--json"])
    most = {"metrics, access log, sampled out": 20, "trace, sampled out": 5}
    for what, value in json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout).items():
        bound = most.get(what)
        verdict = {"target": f"<= {bound} µs", "met": value <= bound} if bound else {}
        bench.show(Row(what, "by itself", value, "µs", **verdict))
    cheapest = canned_engine(bench.folder) if has_nginx() else engine(bench.engine)
    with cheapest as upstream, _observed(bench, upstream) as running:
        taken = bench.alternate(running, lambda front: bench.clients.plain(front.port, 32, bench.args.seconds))
    cost = {
        name: statistics.median(1e6 * each.cores / each.load.answers_per_s for each in samples)
        for name, samples in taken.items()
    }
    for name, samples in taken.items():
        rate = statistics.median(each.load.answers_per_s for each in samples)
        note = ", ".join([f"{rate:,.0f} req/s", *filter(None, [remarks(samples)])])
        bench.show(Row("CPU of a plain request", name, cost[name], "µs", cost[name] / cost["nothing"], note=note))


@contextlib.contextmanager
def _observed(bench: Bench, upstream: int) -> Iterator[list[Front]]:
    """Gateways that are told to log and to trace, the first one neither."""
    quiet = {"requests": "off"}
    with Program("sink", [sys.executable, str(HERE / "observing.py"), "--sink"], ENGINE_CORE) as sink:
        traced = {"endpoint": f"http://{sink.word('http')}"}
        variants: dict[str, dict[str, object]] = {
            "nothing": {"accessLog": quiet},
            "log": {"accessLog": {"requests": "all", "file": "/dev/null"}},
            "no sample": {"accessLog": quiet, "tracing": {**traced, "sampleRatio": 0}},
            "1 in 100": {"accessLog": quiet, "tracing": {**traced, "sampleRatio": 0.01}},
            "every one": {"accessLog": quiet, "tracing": {**traced, "sampleRatio": 1}},
        }
        with contextlib.ExitStack() as stack:
            running = []
            for name, sections in variants.items():
                config = bench.folder / f"{name}.yaml"
                head = {"apiVersion": "infer-gateway.dev/v1alpha1", "kind": "GatewayConfiguration"}
                config.write_text(json.dumps({**head, **sections}))
                front = stack.enter_context(gateway(None, upstream, "-c", str(config)))
                running.append(Front(name, front.port, front.program))
            yield running


def _bytes_under(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def dashboard(bench: Bench) -> None:
    """(o) What a watcher of the live feed adds, with 256 endpoints; the work is done once, however many watch."""
    argv = [sys.executable, str(HERE / "dashboard.py"), "--json", "--seconds", str(bench.args.seconds)]
    said = json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout)
    note = f"{100 * said['added_by_two']:.1f} % by two, {100 * said['alone']:.1f} % unwatched"
    verdict = {"target": "<= 3 %", "met": said["added"] <= 0.03, "note": note}
    bench.show(Row("dashboard, 256 endpoints", "gateway", 100 * said["added"], "%", cores=said["added"], **verdict))


def overload(bench: Bench) -> None:
    """(p) Goodput and refusals at 1 to 10 times what engines' slots, or the gateway's core, can serve (slow)."""
    argv = [sys.executable, str(HERE / "overload.py"), "--json", "--seconds", str(max(4.0, bench.args.seconds))]
    said = json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout)
    for what, steps in said.items():
        peak = max(step["served_per_s"] for step in steps)
        for step in steps:
            title, cores, late = f"{what}, {step['times']}x", step["cores"], step["late_p99_ms"]
            behind = f", the load was {late:.0f} ms late at p99" if late > 25 else ""
            note = f"{step['refused_per_s']:.0f} refused/s{behind}"
            share = step["served_per_s"] / peak if peak else 0.0
            verdict = {} if behind else {"target": ">= 0.9 of peak", "met": share >= 0.9}
            bench.show(Row(title, "gateway", step["served_per_s"], "req/s", share, cores, note=note, **verdict))
            if step["refused_per_s"]:
                verdict = {} if behind else {"target": "<= 50 ms", "met": step["refused_p99_ms"] <= 50}
                bench.show(Row(f"{title}, refused p99", "gateway", step["refused_p99_ms"], "ms", note=note, **verdict))


MEASURES: Mapping[str, Callable[[Bench], None]] = {
    "nonstream": nonstream,
    "stream": stream,
    "grpc": grpc,
    "picker": picker,
    "pace": pace,
    "memory": memory,
    "start": start,
    "scrape": scrape,
    "decisions": decisions,
    "adapters": adapters,
    "scheduling": scheduling,
    "install": install,
    "kubernetes": kubernetes,
    "observing": observing,
    "dashboard": dashboard,
    "overload": overload,
}


def arguments() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="benchmarks/run.py", description=__doc__.splitlines()[0])
    slow = ("scheduling", "install", "kubernetes", "overload")
    default = ",".join(name for name in MEASURES if name not in slow)
    parser.add_argument("--only", default=default, help=f"of {','.join(MEASURES)} (default: {default})")
    parser.add_argument("--trace", default="synthetic", metavar="FILE", help="for scheduling (default: a made-up one)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement (default 3)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each front, alternating (default 3)")
    parser.add_argument("--tokens", type=int, default=128, help="of each saturating stream (default 128)")
    parser.add_argument("--per-write", default="1,8", help="tokens the engine puts into one write (default 1,8)")
    parser.add_argument("--gateway-cmd", metavar="CMD", help="measure this instead; {upstream} is the engine's URL")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=CMD", help="{upstream} and {port}")
    parser.add_argument("--no-peers", action="store_true", help="do not look for other routers on PATH")
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON")
    args = parser.parse_args()
    args.only = args.only.split(",")
    args.per_write = [int(count) for count in args.per_write.split(",")]
    if unknown := set(args.only) - set(MEASURES):
        parser.error(f"--only: {', '.join(sorted(unknown))} is not one of {', '.join(MEASURES)}")
    return args


def peers_of(args: argparse.Namespace) -> dict[str, str]:
    """Routers named or found."""
    found = {} if args.no_peers else {name: command for name, command in PEERS.items() if shutil.which(name)}
    return found | dict(each.split("=", 1) for each in args.peer)


def notes(bench: Bench) -> None:
    """Say what is missing on this machine and what that means."""
    if not has_nginx():
        print("nginx is not installed: absolute numbers only (Debian: apt install nginx-light)")
    if bench.engine is None:
        print("no C compiler: engine and load are the Python ones, which may be the bottleneck")
    if shutil.which("taskset") is None:
        print("taskset is not there: nothing is pinned, ratios will wander")
    print(f"{'':<28} {'':<11} {'median':>10} {'':<6} {'ratio':>8} {'cores':>6} {'per core':>8}  target")


def main() -> int:
    """Run the measures asked for; 1 if a program failed or a request did, whatever the ratios."""
    args = arguments()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        clients = Clients(compiled("load", folder), folder)
        bench = Bench(args, folder, clients, compiled("upstream", folder), peers_of(args))
        notes(bench)
        failed = False
        for measure in args.only:
            try:
                MEASURES[measure](bench)
            except (Failed, subprocess.CalledProcessError) as error:
                print(f"{measure}: {error}", file=sys.stderr)
                failed = True
    if args.json:
        result: dict[str, Any] = {
            "seconds": args.seconds,
            "rounds": args.rounds,
            "rows": [asdict(r) for r in bench.rows],
        }
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n")
    return 1 if failed or any("errors" in row.note for row in bench.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
