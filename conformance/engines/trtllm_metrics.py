"""trtllm-serve's two metrics pages: Prometheus text, and iteration statistics that are handed out once. (P)"""

from __future__ import annotations

from typing import Any

from conformance.engines.exposition import Page, merged
from conformance.engines.model import Model

_REASONS = ("stop", "length")


def page(model: Model, name: str) -> bytes:
    out, batch, made = Page(), model.batch, model.statistics
    base = {"model_name": name, "engine_type": "pytorch"}
    pool, block = batch.pool, batch.block_size
    reused, missed = made.cached // block, max(0, made.queried - made.cached) // block
    gauges = {
        "num_requests_running": ("Number of requests being served", len(batch.running)),
        "num_requests_waiting": ("Number of requests waiting", len(batch.waiting)),
        "kv_cache_utilization": ("KV cache utilization, 0 to 1", pool.used / pool.capacity),
        "kv_cache_hit_rate": ("KV cache hit rate, 0 to 1", reused / max(1, reused + missed)),
        "kv_cache_max_blocks": ("Blocks of the KV cache", pool.capacity),
        "kv_cache_free_blocks": ("Blocks that are free", pool.capacity - pool.used),
        "kv_cache_used_blocks": ("Blocks that are used", pool.used),
        "kv_cache_tokens_per_block": ("Tokens in a block", block),
    }
    counters = {
        "kv_cache_reused_blocks_total": ("Blocks reused", reused),
        "kv_cache_missed_blocks_total": ("Blocks missed", missed),
        "prompt_tokens_total": ("Prompt tokens", made.prompt.total()),
        "generation_tokens_total": ("Generated tokens", made.generated.total()),
        "prompt_cached_tokens_total": ("Prompt tokens from the cache", made.cached),
        "request_error_total": ("Requests that failed", made.refused),
    }
    for kind, family in (("gauge", gauges), ("counter", counters)):
        for metric, (about, value) in family.items():
            out.one(f"trtllm_{metric}", kind, about, value, base)
    finished = [({**base, "finished_reason": reason}, made.reasons[reason]) for reason in _REASONS]
    out.family("trtllm_request_success_total", "counter", "Count of successfully processed requests.", finished)
    histograms = {
        "time_to_first_token": merged(made.first.values()),
        "time_per_output_token": made.step,
        "e2e_request_latency": merged(made.whole.values()),
        "request_queue_time": made.queued,
    }
    for metric, histogram in histograms.items():
        out.histogram(f"trtllm_{metric}_seconds", f"Histogram of {metric} in seconds.", [(base, histogram)])
    return out.encode()


def iteration(model: Model) -> dict[str, Any]:
    """The state of the engine as one entry of the list at ``/metrics``."""
    batch, made = model.batch, model.statistics
    used, capacity = batch.pool.used, batch.pool.capacity
    cache = {"maxNumBlocks": capacity, "freeNumBlocks": capacity - used, "usedNumBlocks": used}
    return {
        "iter": made.steps,
        "iterLatencyMS": 0.0,
        "numActiveRequests": len(batch.running),
        "numQueuedRequests": len(batch.waiting),
        "maxNumActiveRequests": batch.max_running,
        "kvCacheStats": {**cache, "tokensPerBlock": batch.block_size, "cacheHitRate": made.last_hit_rate},
    }
