"""What engines call the numbers of their metrics pages, and how these add up to one `Load`. (P)

Invariant: a number that is missing, or cannot be read, leaves the others as they are. Several data-parallel ranks on
one page count as one engine: requests, blocks and counters are added; KV usage is the mean, weighted by each rank's
blocks where all tell them, for the engine places a request wherever there is room. Sources: vLLM 0.6 to 0.33, SGLang
0.4.6 to 0.5.23, TGI 3.3.7, TensorRT-LLM's metrics collector, llama-server of autumn 2026, llm-d-inference-sim 0.10.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

from gateway.types import Load
from gateway.wire.exposition import Found, Labels, Layout, Wanted, read

_HISTOGRAMS = {"ttft": ("ttft_sum", "ttft_count"), "tpot": ("tpot_sum", "tpot_count")}
_STARTED = "process_start_time_seconds"


class Vocabulary:
    """One engine kind's. ``names`` says by which samples a field is known, the newest name first; see `Load`."""

    path = b"/metrics"
    names: ClassVar[Mapping[str, Sequence[str]]]
    histograms: ClassVar[Mapping[str, Sequence[str]]] = {}
    mark: ClassVar[bytes]
    """What a page of this engine holds even while no sample is set."""
    repeats: ClassVar[frozenset[str]] = frozenset()
    """Labels by which series of one rank differ; the greatest of them counts."""
    rank: ClassVar[str] = ""
    """The label that numbers data-parallel ranks."""
    waits: ClassVar[Sequence[str]] = ("waiting",)
    """The fields that add up to the requests that wait."""

    def __init__(self) -> None:
        fields = {"started": (_STARTED,), **self.names}
        for kind, names in self.histograms.items():
            for field, suffix in zip(_HISTOGRAMS[kind], ("_sum", "_count"), strict=True):
                fields[field] = tuple(name + suffix for name in names)
        self._wanted = Wanted(fields)

    def parse(self, page: bytes, now: float, layout: Layout | None = None) -> Load:
        """Raises ValueError for a page that is not this engine's."""
        found = read(page, self._wanted, layout)
        if found.values.keys() <= {"started"} and not self.recognises(page):
            raise ValueError(f"its metrics page has no sample that begins with {self.mark.decode()}")
        return self.load(found, now)

    def recognises(self, page: bytes) -> bool:
        """Whether a page without a wanted sample is this engine's all the same: some appear with the first request."""
        return self.mark in page or self.mark.replace(b":", b"_") in page

    def load(self, found: Found, now: float) -> Load:
        total = found.total
        size, blocks = self.blocks(found)
        running, waiting, most = self.loras(found)
        return Load(
            at=now,
            waiting=sum([self.gauge(found, field) for field in self.waits]),
            running=self.gauge(found, "running"),
            kv_usage=self.kv_usage(found, blocks),
            block_size=size,
            blocks=int(sum(blocks.values())),
            asleep=self.asleep(found),
            loras=running,
            waiting_loras=waiting,
            max_loras=most,
            ttft_sum=total("ttft_sum"),
            ttft_count=total("ttft_count"),
            tpot_sum=total("tpot_sum"),
            tpot_count=total("tpot_count"),
            prompt_tokens=self.prompt_tokens(found),
            generated_tokens=total("generated_tokens"),
            queried_tokens=self.queried_tokens(found),
            hit_tokens=total("hit_tokens"),
            finished=total("finished"),
            started=total("started"),
        )

    def gauge(self, found: Found, field: str) -> float:
        """Over all ranks."""
        values = found.values.get(field)
        if values is None or not self.repeats or len(values) == 1:
            return found.total(field)
        greatest: dict[object, float] = {}
        for value, labels in zip(values, found.labels[field], strict=True):
            series = frozenset((name, text) for name, text in labels.items() if name not in self.repeats)
            if math.isfinite(value):
                greatest[series] = max(value, greatest.get(series, 0.0))
        return sum(greatest.values())

    def kv_usage(self, found: Found, blocks: Mapping[str, float]) -> float | None:
        """A fraction in [0, 1]; ``blocks`` are those of each rank."""
        usages = self.by_rank(found, "kv_usage")
        if not usages:
            return None
        weights = blocks if len(usages) > 1 and all(map(blocks.get, usages)) else dict.fromkeys(usages, 1.0)
        mean = sum(usage * weights[rank] for rank, usage in usages.items()) / sum(map(weights.__getitem__, usages))
        return min(1.0, max(0.0, mean))

    def by_rank(self, found: Found, field: str) -> dict[str, float]:
        """A field's greatest finite number in each data-parallel rank."""
        ranks: dict[str, float] = {}
        for value, labels in zip(found.values.get(field, ()), found.labels.get(field, ()), strict=True):
            rank = labels.get(self.rank, "")
            if math.isfinite(value):
                ranks[rank] = max(value, ranks.get(rank, value))
        return ranks

    # -- what differs between engines ------------------------------------------------------------------------------

    def blocks(self, found: Found) -> tuple[int, dict[str, float]]:
        """Tokens in a KV block (0 if not told) and the number of blocks of each rank."""
        return int(max(self.by_rank(found, "block_size").values(), default=0)), self.by_rank(found, "blocks")

    def loras(self, found: Found) -> tuple[frozenset[str] | None, frozenset[str], int]:
        """Those that run, those that wait, and how many fit."""
        return None, frozenset(), 0

    def asleep(self, found: Found) -> bool:
        return False

    def prompt_tokens(self, found: Found) -> float:
        return found.total("prompt_tokens")

    def queried_tokens(self, found: Found) -> float:
        return found.total("queried_tokens")


class VLLM(Vocabulary):
    """Releases up to 0.8 swapped requests out, which then wait again."""

    mark = b"vllm:"
    rank = "engine"
    waits = ("waiting", "swapped")
    names: ClassVar[Mapping[str, Sequence[str]]] = {
        "waiting": ("vllm:num_requests_waiting",),
        "swapped": ("vllm:num_requests_swapped",),
        "running": ("vllm:num_requests_running",),
        "kv_usage": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
        "cache": ("vllm:cache_config_info",),
        "sleep": ("vllm:engine_sleep_state",),
        "loras": ("vllm:lora_requests_info",),
        "prompt_tokens": ("vllm:prompt_tokens_total",),
        "generated_tokens": ("vllm:generation_tokens_total",),
        "queried_tokens": ("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"),
        "hit_tokens": ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
        "finished": ("vllm:request_success_total",),
    }
    histograms: ClassVar[Mapping[str, Sequence[str]]] = {
        "ttft": ("vllm:time_to_first_token_seconds",),
        "tpot": (
            "vllm:inter_token_latency_seconds",
            "vllm:time_per_output_token_seconds",
            "vllm:request_time_per_output_token_seconds",
        ),
    }

    def blocks(self, found: Found) -> tuple[int, dict[str, float]]:
        """Hybrid models tell the attention layers' block size apart; tokens are what the blocks then hold in all."""
        configs = found.labels.get("cache", ())
        size = 0
        blocks: dict[str, float] = {}
        for config in configs:
            own, attention = whole(config, "block_size"), whole(config, "effective_attention_block_size")
            size = attention or own or size
            tokens, count = whole(config, "kv_cache_size_tokens"), whole(config, "num_gpu_blocks")
            if size:
                blocks[config.get("engine", "")] = count if count and size == own else tokens // size or count
        return size, blocks

    def loras(self, found: Found) -> tuple[frozenset[str] | None, frozenset[str], int]:
        """Every change of the sets is a new series, whose value is the time of the change: the newest holds."""
        newest = max(
            (pair for pair in zip(found.values.get("loras", ()), found.labels.get("loras", ()), strict=True)
             if pair[0] == pair[0]), key=lambda pair: pair[0], default=None,
        )  # fmt: skip
        if newest is None:
            return None, frozenset(), 0
        labels = newest[1]
        running, waiting = (listed(labels, f"{which}_lora_adapters") for which in ("running", "waiting"))
        return running, waiting, whole(labels, "max_lora")

    def asleep(self, found: Found) -> bool:
        """When no rank is awake."""
        awake = [
            value
            for value, labels in zip(found.values.get("sleep", ()), found.labels.get("sleep", ()), strict=True)
            if labels.get("sleep_state") == "awake"
        ]
        return bool(awake) and not any(awake)


class SGLang(Vocabulary):
    """Pages are its blocks. Each scheduler process of a rank may export the rank's numbers under labels of its own.
    Requests whose grammar is being compiled wait in a queue of their own.
    """

    mark = b"sglang:"
    rank = "dp_rank"
    waits = ("waiting", "compiling")
    repeats = frozenset({"tp_rank", "pp_rank", "moe_ep_rank", "priority"})
    names: ClassVar[Mapping[str, Sequence[str]]] = {
        "waiting": ("sglang:num_queue_reqs",),
        "compiling": ("sglang:num_grammar_queue_reqs",),
        "running": ("sglang:num_running_reqs",),
        "kv_usage": ("sglang:token_usage",),
        "cache": ("sglang:cache_config_info",),
        "block_size": ("sglang:page_size",),
        "blocks": ("sglang:num_pages",),
        "capacity": ("sglang:max_total_num_tokens",),
        "prompt_tokens": ("sglang:prompt_tokens_total",),
        "generated_tokens": ("sglang:generation_tokens_total",),
        "hit_tokens": ("sglang:cached_tokens_total",),
        "finished": ("sglang:num_requests_total",),
    }
    histograms: ClassVar[Mapping[str, Sequence[str]]] = {
        "ttft": ("sglang:time_to_first_token_seconds",),
        "tpot": (
            "sglang:inter_token_latency_seconds",
            "sglang:time_per_output_token_seconds",
            "sglang:request_time_per_output_token_seconds",
        ),
    }

    def blocks(self, found: Found) -> tuple[int, dict[str, float]]:
        size, blocks = super().blocks(found)
        configs = found.labels.get("cache", ())
        size = size or max((whole(config, "page_size") for config in configs), default=0)
        if not blocks:
            blocks = {config.get(self.rank, ""): float(whole(config, "num_pages")) for config in configs}
        if not any(blocks.values()):
            size = size or 1
            blocks = {rank: tokens // size for rank, tokens in self.by_rank(found, "capacity").items()}
        return (size, blocks) if blocks else (0, {})

    def queried_tokens(self, found: Found) -> float:
        """Every prompt is looked up."""
        return found.total("prompt_tokens") if "hit_tokens" in found.values else 0.0


class TGI(Vocabulary):
    """KV usage is what the running batch may grow to, of what fits. A gauge is missing until it is set for the first
    time, on an idle server all of them; there is no TTFT, and the mean time per token is each request's.
    """

    mark = b"tgi_"
    names: ClassVar[Mapping[str, Sequence[str]]] = {
        "waiting": ("tgi_queue_size",),
        "running": ("tgi_batch_current_size",),
        "used": ("tgi_batch_current_max_tokens",),
        "capacity": ("tgi_batch_max_total_tokens",),
        "prompt_tokens": ("tgi_request_input_length_sum",),
        "generated_tokens": ("tgi_request_generated_tokens_sum",),
    }
    histograms: ClassVar[Mapping[str, Sequence[str]]] = {"tpot": ("tgi_request_mean_time_per_token_duration",)}

    def recognises(self, page: bytes) -> bool:
        return not page.strip() or super().recognises(page)

    def kv_usage(self, found: Found, blocks: Mapping[str, float]) -> float | None:
        capacity = found.total("capacity")
        return min(1.0, found.total("used") / capacity) if capacity > 0 else None


class LlamaCpp(Vocabulary):
    """TPOT is the time of generating over the tokens generated. Prompt tokens are counted without the cached ones."""

    mark = b"llamacpp:"
    names: ClassVar[Mapping[str, Sequence[str]]] = {
        "waiting": ("llamacpp:requests_deferred",),
        "running": ("llamacpp:requests_processing",),
        "kv_usage": ("llamacpp:kv_cache_usage_ratio",),
        "prompt_tokens": ("llamacpp:prompt_tokens_total",),
        "hit_tokens": ("llamacpp:prompt_tokens_cached_total",),
        "generated_tokens": ("llamacpp:tokens_predicted_total",),
        "tpot_sum": ("llamacpp:tokens_predicted_seconds_total",),
    }

    def load(self, found: Found, now: float) -> Load:
        if "generated_tokens" in found.values:
            found.values["tpot_count"] = found.values["generated_tokens"]
        return super().load(found, now)

    def prompt_tokens(self, found: Found) -> float:
        return found.total("prompt_tokens") + found.total("hit_tokens")

    def queried_tokens(self, found: Found) -> float:
        return self.prompt_tokens(found) if "hit_tokens" in found.values else 0.0


class TensorRT(Vocabulary):
    """trtllm-serve; its /metrics is JSON that each reading empties, and somebody else's to read."""

    path = b"/prometheus/metrics"
    mark = b"trtllm_"
    names: ClassVar[Mapping[str, Sequence[str]]] = {
        "waiting": ("trtllm_num_requests_waiting",),
        "running": ("trtllm_num_requests_running",),
        "kv_usage": ("trtllm_kv_cache_utilization",),
        "block_size": ("trtllm_kv_cache_tokens_per_block",),
        "blocks": ("trtllm_kv_cache_max_blocks",),
        "prompt_tokens": ("trtllm_prompt_tokens_total",),
        "generated_tokens": ("trtllm_generation_tokens_total",),
        "finished": ("trtllm_request_success_total",),
        "hit_tokens": ("trtllm_prompt_cached_tokens_total",),
    }
    histograms: ClassVar[Mapping[str, Sequence[str]]] = {
        "ttft": ("trtllm_time_to_first_token_seconds",),
        "tpot": ("trtllm_time_per_output_token_seconds",),
    }

    def queried_tokens(self, found: Found) -> float:
        return found.total("prompt_tokens") if "hit_tokens" in found.values else 0.0


def whole(labels: Labels, name: str) -> int:
    """A label that holds a whole number; 0 for "None" and whatever else is none."""
    text = labels.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0


def listed(labels: Labels, name: str) -> frozenset[str]:
    """A label that holds names, comma-separated."""
    return frozenset(filter(None, map(str.strip, labels.get(name, "").split(","))))
