"""LoRAs of vLLM: listed, asked for by name, loaded and unloaded at run time. (T)"""

from __future__ import annotations

from conformance.cases.engines.shared import asked
from conformance.cases.engines.vllm.profile import API, PROFILE
from conformance.suite import check
from conformance.suite.target import Target


@PROFILE.case("lora.listed", "A LoRA is listed with its base model as parent", source=API, needs=("lora",))
async def lora_listed(target: Target) -> None:
    await asked.has_parent(target, target.setup.lora)


@PROFILE.case("lora.asked", "A LoRA is asked for by its name and answers under it", source=API, needs=("lora",))
async def lora_asked(target: Target) -> None:
    answer = await target.chatted(model=target.setup.lora)
    check.equal(answer.get("model"), target.setup.lora, "the answer's model")


@PROFILE.case(
    "lora.loading", "A LoRA comes and goes at run time", source="vLLM 0.33, VLLM_ALLOW_RUNTIME_LORA_UPDATING",
    needs=("lora_path",), alone=True,
)  # fmt: skip
async def lora_loading(target: Target) -> None:
    await asked.loading(target, "/v1/load_lora_adapter", "/v1/unload_lora_adapter")
