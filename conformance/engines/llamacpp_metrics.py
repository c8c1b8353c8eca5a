"""llama-server's metrics page of autumn 2026: no labels, whole numbers without a fraction. (P)"""

from __future__ import annotations

from conformance.engines.exposition import Page
from conformance.engines.model import Model


def page(model: Model, longest: int) -> bytes:
    """``longest``: tokens of the longest sequence there ever was, prompt and answer."""
    out, batch, made = Page(whole=True), model.batch, model.statistics
    generated, steps = made.generated.total(), made.steps
    prefilling = sum(histogram.total for histogram in made.first.values())
    decoding = made.step.total
    counters = {
        "prompt_tokens_total": ("Number of prompt tokens processed, excluding cached", made.queried - made.cached),
        "prompt_tokens_cached_total": ("Number of prompt tokens reused from the cache", made.cached),
        "prompt_seconds_total": ("Total time spent processing prompts", prefilling),
        "tokens_predicted_total": ("Number of generation tokens processed", generated),
        "tokens_predicted_seconds_total": ("Total time spent generating tokens", decoding),
        "n_decode_total": ("Total number of llama_decode() calls", steps),
        "n_tokens_max": ("Largest observed sequence length (prompt + generation)", longest),
        "spec_decode_num_draft_tokens_total": ("Speculative: Total draft tokens generated", 0),
        "spec_decode_num_accepted_tokens_total": ("Speculative: Total draft tokens accepted by the target model", 0),
        "spec_decode_num_drafts_total": ("Speculative: Total speculative decoding verification steps", 0),
    }
    gauges = {
        "prompt_tokens_seconds": ("Average prompt throughput in tokens/s", _rate(made.queried, prefilling)),
        "predicted_tokens_seconds": ("Average generation throughput in tokens/s", _rate(generated, decoding)),
        "requests_processing": ("Number of requests processing", len(batch.running)),
        "requests_deferred": ("Number of requests deferred", len(batch.waiting)),
        "n_busy_slots_per_decode": ("Average number of busy slots per llama_decode() call", _rate(generated, steps)),
    }
    for kind, family in (("counter", counters), ("gauge", gauges)):
        for name, (about, value) in family.items():
            out.one(f"llamacpp:{name}", kind, about, value)
    return out.encode()


def _rate(count: float, by: float) -> float:
    return count / by if by else 0.0
