"""SGLang's metrics page, names and labels of 0.5.23. (P)"""

from __future__ import annotations

from conformance.engines.exposition import Page
from conformance.engines.model import Model

_GAUGES = ["num_grammar_queue_reqs", "num_paused_reqs", "num_retracted_reqs", "num_prefill_bootstrap_queue_reqs"]
_QUEUES = ["num_prefill_inflight_queue_reqs", "num_decode_prealloc_queue_reqs", "num_decode_transfer_queue_reqs"]


def page(model: Model, name: str, context: int, loras: int, max_loras: int) -> bytes:
    out = Page()
    base = {"engine_type": "unified", "model_name": name}
    rank = {**base, "moe_ep_rank": "0", "pp_rank": "0", "tp_rank": "0"}
    _gauges(out, model, rank, context)
    if loras:
        out.one("sglang:lora_pool_slots_used", "gauge", "LoRA slots in use.", min(loras, max_loras), rank)
        out.one("sglang:lora_pool_slots_total", "gauge", "LoRA slots.", max_loras, rank)
        out.one("sglang:lora_pool_utilization", "gauge", "LoRA slots in use.", min(1, loras / max_loras), rank)
    _counters(out, model, base, rank)
    _histograms(out, model, base)
    return out.encode()


def _gauges(out: Page, model: Model, rank: dict[str, str], context: int) -> None:
    batch, pool = model.batch, model.batch.pool
    size = batch.block_size
    values = {
        "num_running_reqs": ("The number of running requests.", len(batch.running)),
        "num_queue_reqs": ("The number of requests in the waiting queue.", len(batch.waiting)),
        "num_used_tokens": ("The number of used tokens.", pool.used * size),
        "token_usage": ("The token usage.", round(pool.used / pool.capacity, 2)),
        "full_token_usage": ("The token usage for full attention layers.", pool.used / pool.capacity),
        "max_total_num_tokens": ("Maximum total number of tokens in the KV cache pool.", pool.capacity * size),
        "kv_available_tokens": ("Free tokens.", pool.free * size),
        "kv_evictable_tokens": ("Evictable tokens.", pool.kept * size),
        "kv_used_tokens": ("Used tokens.", pool.used * size),
        "page_size": ("KV cache page size in tokens.", size),
        "num_pages": ("Number of KV cache pages.", pool.capacity),
        "context_len": ("Maximum context length.", context),
        "cache_hit_rate": ("The prefix cache hit rate.", model.statistics.last_hit_rate),
        "gen_throughput": ("The generation throughput (token/s).", 0),
        "utilization": ("The utilization.", 0),
    }
    for name, (about, value) in values.items():
        out.one(f"sglang:{name}", "gauge", about, value, rank)
    for name in (*_GAUGES, *_QUEUES):
        out.one(f"sglang:{name}", "gauge", "", 0, rank)


def _counters(out: Page, model: Model, base: dict[str, str], rank: dict[str, str]) -> None:
    made = model.statistics
    streams = {"false": False, "true": True}
    for name, counter in (
        ("prompt_tokens", made.prompt),
        ("generation_tokens", made.generated),
        ("num_requests", made.finished),
    ):
        samples = [({**base, "is_streaming": word}, counter[kind]) for word, kind in streams.items() if counter[kind]]
        out.family(f"sglang:{name}_total", "counter", "", samples)
    out.one("sglang:num_aborted_requests_total", "counter", "Number of requests aborted.", made.aborted, base)
    cached = {**base, "cache_source": "device"}
    out.one("sglang:cached_tokens_total", "counter", "Number of cached prompt tokens.", made.cached, cached)
    modes = {
        "prefill_compute": made.queried - made.cached,
        "prefill_cache": made.cached,
        "decode": made.generated.total(),
    }
    samples = [({**rank, "mode": mode}, value) for mode, value in modes.items()]
    out.family("sglang:realtime_tokens_total", "counter", "Tokens processed.", samples)


def _histograms(out: Page, model: Model, base: dict[str, str]) -> None:
    made = model.statistics
    for name, histograms in (("time_to_first_token_seconds", made.first), ("e2e_request_latency_seconds", made.whole)):
        samples = [
            ({**base, "is_streaming": str(kind).lower()}, each) for kind, each in histograms.items() if each.count
        ]
        out.histogram(f"sglang:{name}", "", samples)
    out.histogram("sglang:inter_token_latency_seconds", "", [(base, made.step)])
    out.histogram("sglang:queue_time_seconds", "", [(base, made.queued)])
