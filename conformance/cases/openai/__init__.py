"""What clients of OpenAI's API rely on, case by case; nothing here knows an engine. (P)"""

from __future__ import annotations

from conformance.cases.openai import (  # noqa: F401  importing registers
    bodies,
    chat,
    completions,
    connections,
    crowds,
    embeddings,
    errors,
    formats,
    limits,
    models,
    others,
    parameters,
    prompts,
    refusals,
    responses,
    stream,
    stream_usage,
    tools,
)
from conformance.cases.openai.profile import PROFILE

__all__ = ["PROFILE"]
