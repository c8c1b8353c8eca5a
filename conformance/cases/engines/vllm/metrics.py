"""vLLM's metrics page, where it is told apart from other engines'. (T)"""

from __future__ import annotations

from conformance.cases.engines.shared.signals import read
from conformance.cases.engines.vllm.profile import API, PROFILE, SIGNALS, known_release
from conformance.suite import check
from conformance.suite.case import Level
from conformance.suite.target import Target

_RENAMED = (
    ((0, 9, 2), "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    ((0, 9, 2), "vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
    ((0, 10, 2), "vllm:inter_token_latency_seconds_count", "vllm:time_per_output_token_seconds_count"),
)
"""From this release on, the newer name; before, the older one."""


@PROFILE.case("metrics.release", "Metrics have the names of the release", source="vLLM's changelog", level=Level.SHOULD)
async def names_of_release(target: Target) -> None:
    version = known_release(target)
    await target.streamed(max_tokens=4)
    page = await read(target, SIGNALS)
    for since, newer, older in _RENAMED:
        name = newer if version >= since else older
        check.true(page.series(name), f"vLLM {target.setup.version} has no {name} on its metrics page", name)


@PROFILE.case("metrics.block-size", "cache_config_info tells the block size", source="vLLM 0.9, cache_config_info")
async def block_size(target: Target) -> None:
    page = await read(target, SIGNALS)
    check.true(page.series("vllm:cache_config_info"), "there is no vllm:cache_config_info on the metrics page")
    size = page.label("vllm:cache_config_info", "block_size")
    check.matches(size, r"^[1-9]\d{0,5}$", "the label block_size of vllm:cache_config_info")
    blocks = page.label("vllm:cache_config_info", "num_gpu_blocks")
    target.note(f"{blocks} blocks of {size} tokens")


@PROFILE.case("metrics.labels", "Requests are counted by model and rank", source=API, level=Level.SHOULD)
async def labels(target: Target) -> None:
    for sample in (await read(target, SIGNALS)).series(*SIGNALS.running):
        check.contains(sample.labels, "model_name", f"the labels of {sample.name}")
        check.matches(sample.labels.get("engine", "0"), r"^\d+$", "the label engine, a data-parallel rank")
