"""A real llama.cpp server for tests: the tiny model behind it is made once and kept in .cache. (IO)"""

from __future__ import annotations

import httpx

from tests.engines import make_tiny_model
from tests.process import READY_S, ROOT, Program, eventually

MODEL = ROOT / ".cache" / f"tiny-{make_tiny_model.SEED}.gguf"


class LlamaCpp(Program):
    """Running and healthy inside its block; ``url`` is its base URL without /v1."""

    def __init__(self, alias: str = "tiny", slots: int = 4) -> None:
        if not MODEL.exists():
            make_tiny_model.make(MODEL)
        super().__init__("-m", "tests.engines.llamacpp_process", str(MODEL), alias, str(slots))

    def wait_ready(self, within_s: float = READY_S) -> LlamaCpp:
        super().wait_ready(within_s)
        assert eventually(lambda: httpx.get(f"{self.url}/health").status_code == 200, within_s), self.stderr
        return self

    def busy_slots(self) -> int:
        """How many of its slots are generating now."""
        return sum(slot["is_processing"] for slot in httpx.get(f"{self.url}/slots").json())
