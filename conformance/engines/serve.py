"""Simulated engines by name, and one of them behind a listening socket. (IO)"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from conformance.engines.mutation import Mutate, mutated
from conformance.engines.settings import Settings

if TYPE_CHECKING:
    from conformance.engines.engine import Engine

ENGINES: Final = {
    "vllm": "conformance.engines.vllm:Vllm",
    "sglang": "conformance.engines.sglang:Sglang",
    "tgi": "conformance.engines.tgi:Tgi",
    "openai": "conformance.engines.openai:OpenAI",
    "deepseek": "conformance.engines.openai:DeepSeek",
    "anthropic": "conformance.engines.anthropic:Anthropic",
    "llamacpp": "conformance.engines.llamacpp:LlamaCpp",
    "gemini": "conformance.engines.gemini:Gemini",
    "huggingface": "conformance.engines.huggingface:HuggingFace",
    "ollama": "conformance.engines.ollama:Ollama",
    "trtllm": "conformance.engines.trtllm:TensorRT",
}


class Served(msgspec.Struct, frozen=True):
    """An engine that listens; ``engine`` is there for tests to look into."""

    engine: Engine
    host: str
    port: int

    def __str__(self) -> str:
        """host:port, as it stands in a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self}"


def build(kind: str, settings: Settings | None = None) -> Engine:
    """An engine that does not run yet: start `Engine.run` and give `Engine.handle` its exchanges.

    Raises ValueError for a kind there is none of, and for a fault spec or size that makes no sense.
    """
    if kind not in ENGINES:
        raise ValueError(f"no simulated engine is called {kind!r}; one of {', '.join(ENGINES)}")
    module, _, name = ENGINES[kind].partition(":")
    made: Engine = getattr(importlib.import_module(module), name)(settings or Settings())
    return made


async def serve_engine(
    kind: str,
    settings: Settings | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    mutate: Mutate | None = None,
    task_status: trio.TaskStatus[Served] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve one engine until cancelled, answering as ``mutate`` has it (see `mutation`).

    Raises OSError if the address is taken, ValueError as `build`.
    """
    from gateway.listen import open_listeners  # a command line that serves no engine needs none
    from protocols.http.listener import Limits, serve

    engine = build(kind, settings)
    limits = Limits(idle_timeout=engine.keep_alive_s, max_body=engine.max_body)
    listeners = await open_listeners(host, port)
    address = listeners[0].socket.getsockname()
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        handle = engine.handle if mutate is None else mutated(engine.handle, mutate)
        await nursery.start(serve, handle, listeners, limits)
        task_status.started(Served(engine, host, address[1]))
