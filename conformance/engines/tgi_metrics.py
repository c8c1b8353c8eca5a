"""TGI's metrics page, 3.3: mostly without labels, whole numbers without a fraction, counters without ``_total``. (P)"""

from __future__ import annotations

from conformance.engines.exposition import Page, merged
from conformance.engines.model import Model


def page(model: Model, failures: dict[str, int]) -> bytes:
    """A gauge appears once it was first set: the page of an engine that never worked has none."""
    out = Page(whole=True)
    batch, made = model.batch, model.statistics
    if made.steps or batch.held:
        tokens = sum(each.prompt + each.target for each in batch.running)
        out.one("tgi_queue_size", "gauge", "", len(batch.waiting))
        out.one("tgi_batch_current_size", "gauge", "", len(batch.running))
        out.one("tgi_batch_current_max_tokens", "gauge", "", tokens)
    out.one("tgi_batch_max_total_tokens", "gauge", "", batch.pool.capacity * batch.block_size)
    begun = made.finished.total() + made.aborted
    out.one("tgi_request_count", "counter", "", begun + sum(failures.values()) + batch.held)
    out.one("tgi_request_success", "counter", "", made.finished.total())
    failed = [({"err": name}, count) for name, count in failures.items()]
    out.family("tgi_request_failure", "counter", "", failed)
    methods = {"prefill": begun + len(batch.running), "decode": made.steps}
    steps = [({"method": method}, count) for method, count in methods.items()]
    out.family("tgi_batch_inference_count", "counter", "", steps)
    out.histogram("tgi_request_duration", "", [({}, merged(made.whole.values()))])
    out.histogram("tgi_request_queue_duration", "", [({}, made.queued)])
    out.histogram("tgi_request_mean_time_per_token_duration", "", [({}, made.step)])
    out.histogram("tgi_request_generated_tokens", "", [({}, made.output_sizes)])
    out.histogram("tgi_request_input_length", "", [({}, made.prompt_sizes)])
    return out.encode()
