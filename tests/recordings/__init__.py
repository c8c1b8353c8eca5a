"""Where recorded answers of real engines lie: one folder for each engine, release and kind of start. (IO)"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent

NEWEST = {"vllm": "0.32.0", "sglang": "0.5.23", "llamacpp": "2026.10"}
"""The release a test means that names none."""


def folder(name: str) -> Path:
    """``vllm`` is the newest vLLM, ``vllm-lora-tools`` the same with LoRAs and tools; a folder's own name is itself."""
    engine, _, kind = name.partition("-")
    if (ROOT / name).is_dir() or engine not in NEWEST:
        return ROOT / name
    return ROOT / "-".join(part for part in (engine, NEWEST[engine], kind) if part)


def folders() -> list[str]:
    return sorted(path.name for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.http")))
