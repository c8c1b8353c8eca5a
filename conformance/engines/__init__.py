"""Simulated inference engines: one engine model under the dialects of vLLM, SGLang, TGI, OpenAI and DeepSeek.

`build` makes one, `serve_engine` puts one behind a socket; both are importable without importing the other dialects.
`serve_engine(kind, settings, mutate=f)` breaks it on purpose: ``f(Seen) -> Mutation | None`` says of each request what
is changed in its answer (see `mutation`).
"""

from conformance.engines.mutation import Mutate, Mutation, Seen
from conformance.engines.serve import ENGINES, Served, build, serve_engine
from conformance.engines.settings import Settings

__all__ = ["ENGINES", "Mutate", "Mutation", "Seen", "Served", "Settings", "build", "serve_engine"]
