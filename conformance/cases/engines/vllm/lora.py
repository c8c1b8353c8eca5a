"""LoRAs of vLLM: listed, asked for by name, told while they run, loaded and unloaded at run time. (T)"""

from __future__ import annotations

from conformance.cases.engines.shared import asked
from conformance.cases.engines.shared.held import held
from conformance.cases.engines.shared.page import Page, Sample
from conformance.cases.engines.shared.signals import quiet, until
from conformance.cases.engines.vllm.profile import API, PROFILE, SIGNALS
from conformance.suite import check
from conformance.suite.target import Target

PATHS = asked.LoraPaths("/v1/load_lora_adapter", "/v1/unload_lora_adapter")
_SEEN_S = 5.0


@PROFILE.case("lora.listed", "A LoRA is listed with its base model as parent", source=API, alone=True)
async def listed(target: Target) -> None:
    async with asked.lora(target, PATHS) as name:
        await asked.has_parent(target, name)


@PROFILE.case("lora.asked", "A LoRA is asked for by its name and answers under it", source=API, alone=True)
async def answers(target: Target) -> None:
    async with asked.lora(target, PATHS) as name:
        answer = await target.chatted(model=name)
        check.equal(answer.get("model"), name, "the answer's model")


@PROFILE.case("lora.told", "The newest lora_requests_info names the LoRA that runs", source="vLLM 0.33", alone=True)
async def told(target: Target) -> None:
    async with asked.lora(target, PATHS) as name:
        await quiet(target, SIGNALS)
        async with held(target, 2, model=name) as requests:
            page, there = await until(
                target, SIGNALS, lambda page: name in _running(newest(page)), _SEEN_S, lambda: requests.over
            )
            if not there and requests.over:
                target.skip("too fast to be observed: the LoRA's requests were over before the page told of them")
        sample = newest(page)
        check.true(sample is not None, "there is no vllm:lora_requests_info though a LoRA runs")
        check.true(there, "the newest lora_requests_info does not name the LoRA that runs", name, _running(sample))
        check.matches(page.label("vllm:lora_requests_info", "max_lora"), r"^\d+$", "the label max_lora")


def newest(page: Page) -> Sample | None:
    """Every change of the sets is a new series, whose value is the time of the change."""
    return max(page.series("vllm:lora_requests_info"), key=lambda sample: sample.value, default=None)


def _running(sample: Sample | None) -> list[str]:
    return [] if sample is None else sample.labels.get("running_lora_adapters", "").split(",")


@PROFILE.case(
    "lora.loading", "A LoRA comes and goes at run time", source="vLLM 0.33, VLLM_ALLOW_RUNTIME_LORA_UPDATING",
    needs=("lora_path",), alone=True,
)  # fmt: skip
async def loading(target: Target) -> None:
    await asked.loading(target, PATHS)
