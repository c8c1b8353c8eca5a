"""vLLM's metrics page: names and labels of 0.33, and of the releases before, back to 0.6, that named things
differently. (P)
"""

from __future__ import annotations

from collections.abc import Mapping

from conformance.engines.exposition import Page, merged
from conformance.engines.model import Model

_REASONS = ("stop", "length", "abort", "error", "repetition")
_CACHES = ("device", "host", "p2p", "disk", "external_unspecified")
_SOURCES = ("local_compute", "local_cache_hit", "external_kv_transfer")


def page(
    model: Model,
    name: str,
    version: tuple[int, ...],
    loras: Mapping[tuple[str, str], float] | None,
    max_loras: int,
) -> bytes:
    """``loras`` maps (running, waiting) adapter lists to the time they were last the case; None without LoRA."""
    out = Page()
    base = {"engine": "0", "model_name": name} if version >= (0, 9) else {"model_name": name}
    _scheduler(out, model, base, version)
    _counters(out, model, base, version)
    _histograms(out, model, base, version)
    if loras is not None:
        samples = [
            ({"max_lora": str(max_loras), "running_lora_adapters": running, "waiting_lora_adapters": waiting}, at)
            for (running, waiting), at in loras.items()
        ]
        out.family("vllm:lora_requests_info", "gauge", "Running stats on lora requests.", samples)
    _cache_config(out, model, version)
    return out.encode()


def _scheduler(out: Page, model: Model, base: dict[str, str], version: tuple[int, ...]) -> None:
    batch = model.batch
    running, waiting = len(batch.running), len(batch.waiting)
    out.one("vllm:num_requests_running", "gauge", "Number of requests in model execution batches.", running, base)
    out.one("vllm:num_requests_waiting", "gauge", "Number of requests waiting to be processed.", waiting, base)
    if version >= (0, 20):
        by_reason = [({**base, "reason": "capacity"}, waiting), ({**base, "reason": "deferred"}, 0)]
        out.family("vllm:num_requests_waiting_by_reason", "gauge", "Waiting requests by reason.", by_reason)
    if version >= (0, 11, 2):
        states = {"awake": 1, "weights_offloaded": 0, "discard_all": 0}
        samples = [({**base, "sleep_state": state}, value) for state, value in states.items()]
        out.family("vllm:engine_sleep_state", "gauge", "Engine sleep state.", samples)
    usage = batch.pool.used / batch.pool.capacity
    if version >= (0, 9, 2):
        out.one("vllm:kv_cache_usage_perc", "gauge", "KV-cache usage. 1 means 100 percent usage.", usage, base)
    if version < (0, 11):
        out.one("vllm:gpu_cache_usage_perc", "gauge", "GPU KV-cache usage. 1 means 100 percent usage.", usage, base)
    if version < (0, 9):
        _first_engine(out, model, base)


def _first_engine(out: Page, model: Model, base: dict[str, str]) -> None:
    """What only the engine of the first releases had. A hit rate of -1 is one of a cache that is off."""
    made = model.statistics
    rate = made.cached / made.queried if made.queried else 0.0
    out.one("vllm:num_requests_swapped", "gauge", "Number of requests swapped to CPU.", 0, base)
    out.one("vllm:cpu_cache_usage_perc", "gauge", "CPU KV-cache usage. 1 means 100 percent usage.", 0, base)
    out.one("vllm:gpu_prefix_cache_hit_rate", "gauge", "GPU prefix cache block hit rate.", rate, base)
    out.one("vllm:cpu_prefix_cache_hit_rate", "gauge", "CPU prefix cache block hit rate.", -1, base)


def _counters(out: Page, model: Model, base: dict[str, str], version: tuple[int, ...]) -> None:
    made = model.statistics
    _caches(out, model, base, version)
    preemptions = model.batch.preemptions
    out.one("vllm:num_preemptions_total", "counter", "Cumulative number of preemptions.", preemptions, base)
    prompt, generated = made.prompt.total(), made.generated.total()
    out.one("vllm:prompt_tokens_total", "counter", "Number of prefill tokens processed.", prompt, base)
    if version >= (0, 16):
        by_source = zip(_SOURCES, (prompt - made.cached, made.cached, 0), strict=True)
        samples = [({**base, "source": source}, value) for source, value in by_source]
        out.family("vllm:prompt_tokens_by_source_total", "counter", "Prompt tokens by source.", samples)
        out.one("vllm:prompt_tokens_cached_total", "counter", "Cached prompt tokens.", made.cached, base)
    if version >= (0, 32):
        by_cache = [({**base, "source": source}, made.cached if source == "device" else 0) for source in _CACHES]
        out.family("vllm:prompt_tokens_cached_by_source_total", "counter", "Cached tokens by source.", by_cache)
    out.one("vllm:generation_tokens_total", "counter", "Number of generation tokens processed.", generated, base)
    finished = [({**base, "finished_reason": reason}, made.reasons[reason]) for reason in _reasons(version)]
    out.family("vllm:request_success_total", "counter", "Count of successfully processed requests.", finished)
    if version >= (0, 32):
        name = {"model_name": base["model_name"]}
        counts = {"max_num_queued_reqs": made.refused, "max_num_queued_tokens": 0}
        rejected = [({**name, "reason": reason}, value) for reason, value in counts.items()]
        out.family("vllm:admission_rejections_total", "counter", "Requests rejected at admission.", rejected)


def _reasons(version: tuple[int, ...]) -> tuple[str, ...]:
    return _REASONS if version >= (0, 12) else _REASONS[:3]


def _caches(out: Page, model: Model, base: dict[str, str], version: tuple[int, ...]) -> None:
    made = model.statistics
    prefixes = ["vllm:prefix_cache"] if version >= (0, 9, 2) else []
    prefixes += ["vllm:gpu_prefix_cache"] if (0, 9) <= version < (0, 11) else []
    for prefix in prefixes:
        out.one(f"{prefix}_queries_total", "counter", "Prefix cache queries, in tokens.", made.queried, base)
        out.one(f"{prefix}_hits_total", "counter", "Prefix cache hits, in tokens.", made.cached, base)
    if version >= (0, 11, 2):
        for prefix, about in (("external_prefix_cache", "External prefix cache"), ("mm_cache", "Multi-modal cache")):
            out.one(f"vllm:{prefix}_queries_total", "counter", f"{about} queries.", 0, base)
            out.one(f"vllm:{prefix}_hits_total", "counter", f"{about} hits.", 0, base)


def _histograms(out: Page, model: Model, base: dict[str, str], version: tuple[int, ...]) -> None:
    made = model.statistics
    first, whole = merged(made.first.values()), merged(made.whole.values())
    out.histogram("vllm:request_prompt_tokens", "Number of prefill tokens processed.", [(base, made.prompt_sizes)])
    out.histogram("vllm:request_generation_tokens", "Number of generation tokens.", [(base, made.output_sizes)])
    out.histogram("vllm:time_to_first_token_seconds", "Time to first token in seconds.", [(base, first)])
    steps = ["inter_token_latency"] if version >= (0, 10, 2) else []
    steps += ["time_per_output_token"] if version < (0, 12) else []
    for step in steps:
        out.histogram(f"vllm:{step}_seconds", "Time between output tokens in seconds.", [(base, made.step)])
    out.histogram("vllm:e2e_request_latency_seconds", "E2E request latency in seconds.", [(base, whole)])
    out.histogram("vllm:request_queue_time_seconds", "Time spent in WAITING phase.", [(base, made.queued)])


def _cache_config(out: Page, model: Model, version: tuple[int, ...]) -> None:
    batch = model.batch
    values = {
        "block_size": str(batch.block_size),
        "cache_dtype": "auto",
        "enable_prefix_caching": "True",
        "gpu_memory_utilization": "0.92",
        "num_cpu_blocks": "None",
        "num_gpu_blocks": str(batch.pool.capacity),
        "num_gpu_blocks_override": "None",
    }
    if version >= (0, 9):
        values["engine"] = "0"
    if version >= (0, 31):
        values |= {
            "effective_attention_block_size": str(batch.block_size),
            "hash_block_size": "None",
            "kv_cache_size_tokens": str(batch.block_size * batch.pool.capacity),
        }
    out.one("vllm:cache_config_info", "gauge", "Information of the LLMEngine CacheConfig", 1, values)
