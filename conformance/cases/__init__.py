"""The suite's cases, profile by profile. (P)

Invariant: importing a profile's module registers its cases; nothing else does.
"""

from __future__ import annotations

from importlib import import_module

from conformance.suite.case import Profile

MODULES = {
    "openai": "openai",
    "gateway": "gateway",
    "grpc": "grpc",
    "epp": "epp",
    "engine/vllm": "engines.vllm",
    "engine/sglang": "engines.sglang",
    "engine/tgi": "engines.tgi",
    "engine/llamacpp": "engines.llamacpp",
    "engine/ollama": "engines.ollama",
    "engine/trtllm": "engines.trtllm",
    "engine/openai": "engines.openai",
    "engine/deepseek": "engines.deepseek",
    "engine/gemini": "engines.gemini",
    "engine/huggingface": "engines.huggingface",
    "engine/anthropic": "engines.anthropic",
}
"""Profile → its package or module below this one, which holds it under the name ``PROFILE``."""

ENGINES = tuple(name.partition("/")[2] for name in MODULES if name.startswith("engine/"))


def profile(name: str) -> Profile:
    """Raises KeyError for a name there is none of."""
    found: Profile = import_module(f"conformance.cases.{MODULES[name]}").PROFILE
    return found
