"""What happens to the engines and the configuration meanwhile, by a schedule that a seed makes. (IO)

Two engines are left alone at any time, so that there is somebody to ask.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from pathlib import Path

import trio

from tests.process import InferGateway
from tests.whole.fleet import pool, settings, written

ENGINE = ("vllm", "m", "--itl", "0.02", "--seed", "7", "--max-running", "64")
_WELL = 2


class Fleet:
    """``engines`` by port, each a process or, for a moment, none."""

    def __init__(self, count: int, directory: Path) -> None:
        self.directory = directory
        self.happened: Counter[str] = Counter()
        self.engines: list[InferGateway] = [_engine(0) for _ in range(count)]
        self.ports: list[int] = []
        self.troubled: set[int] = set()
        self._reloads = 0

    def start(self) -> None:
        for engine in self.engines:
            engine.start()
        for engine in self.engines:
            engine.wait_ready()
        self.ports = [engine.address[1] for engine in self.engines]
        self.configure()

    def stop(self) -> None:
        for engine in self.engines:
            engine.close()

    @property
    def file(self) -> str:
        return str(self.directory / "gateway.yaml")

    def configure(self) -> None:
        """Write the configuration anew; some of it is another one each time."""
        self._reloads += 1
        urls = [f"http://127.0.0.1:{port}" for port in self.ports]
        written(
            self.directory,
            pool("m", [], endpoints=urls),
            pool(f"unused-{self._reloads % 2}", [], endpoints=urls[:1]),
            settings(
                timeouts={"firstToken": "4s", "betweenTokens": "2s", "connect": "2s"},
                fairness={"enabled": True, "queueTimeout": "20s"},
                limits=[{"concurrentRequests": 5000 + self._reloads}],
                health={"hungAfter": "1s"},
            ),
        )

    async def trouble(self, seed: int, pause_s: float) -> None:
        """Until cancelled."""
        chance = random.Random(seed)
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(chance.uniform(0.2, 1.8) * pause_s)
                what = chance.choice(("kill", "kill", "stop", "stop", "reload"))
                index, length = chance.randrange(len(self.engines)), chance.uniform(0.1, 4.0)
                if what == "reload":
                    self.configure()
                elif index in self.troubled or len(self.engines) - len(self.troubled) <= _WELL:
                    continue
                else:
                    nursery.start_soon(self._killed if what == "kill" else self._stopped, index, length)
                self.happened[what] += 1

    async def _killed(self, index: int, length: float) -> None:
        """The engine dies at once, and another one starts in its place."""
        self.troubled.add(index)
        self.engines[index].kill()
        self.engines[index].close()
        await trio.sleep(length / 4)
        self.engines[index] = engine = _engine(self.ports[index])
        engine.start()
        await trio.to_thread.run_sync(engine.wait_ready)
        self.troubled.discard(index)

    async def _stopped(self, index: int, length: float) -> None:
        """The engine keeps still for a while."""
        self.troubled.add(index)
        engine = self.engines[index]
        engine.signal(signal.SIGSTOP)
        try:
            await trio.sleep(length)
        finally:
            if engine.process.poll() is None:
                os.kill(engine.process.pid, signal.SIGCONT)
        self.troubled.discard(index)


def _engine(port: int) -> InferGateway:
    name, model, *more = ENGINE
    return InferGateway("simulate", name, "--port", str(port), "--model", model, *more)
