"""vLLM's profile and what its metrics page calls things. (P)"""

from __future__ import annotations

from conformance.cases.engines.deviations import DEVIATIONS
from conformance.cases.engines.shared.aborts import ABORTS
from conformance.cases.engines.shared.metrics import METRICS
from conformance.cases.engines.shared.signals import Signals, release
from conformance.suite.case import Profile
from conformance.suite.target import Target

API = "vLLM 0.33, entrypoints/openai"
PROFILE = Profile("engine/vllm", "vLLM 0.9 and later", deviations=DEVIATIONS.get("vllm", {}))

SIGNALS = Signals(
    mark="vllm:",
    running=["vllm:num_requests_running"],
    waiting=["vllm:num_requests_waiting"],
    usage=["vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"],
    prompt=["vllm:prompt_tokens_total"],
    generated=["vllm:generation_tokens_total"],
    finished=["vllm:request_success_total"],
    queried=["vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"],
    hits=["vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"],
    ttft=["vllm:time_to_first_token_seconds"],
    tpot=[
        "vllm:inter_token_latency_seconds",
        "vllm:time_per_output_token_seconds",
        "vllm:request_time_per_output_token_seconds",
    ],
)
METRICS.add(PROFILE, SIGNALS, "vLLM 0.9 to 0.33, v1/metrics/loggers.py")
ABORTS.add(PROFILE, SIGNALS, "vLLM 0.33, with_cancellation and AsyncLLM.generate")


def known_release(target: Target) -> tuple[int, ...]:
    """The release as numbers. Skips where the server does not tell."""
    version = release(target)
    if not version:
        target.skip("the server does not tell its version")
    return version
