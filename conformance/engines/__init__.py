"""Simulated inference engines: one engine model under the dialects of vLLM, SGLang, TGI, OpenAI and DeepSeek.

`build` makes one, `serve_engine` puts one behind a socket; both are importable without importing the other dialects.
"""

from conformance.engines.serve import ENGINES, Served, build, serve_engine
from conformance.engines.settings import Settings

__all__ = ["ENGINES", "Served", "Settings", "build", "serve_engine"]
