"""vLLM 0.9 and later: what its adapter, its scraper and its discovery take for granted. (T)

Sources: vLLM 0.9 to 0.33, and answers recorded from vLLM 0.32 on a CPU.
"""

from conformance.cases.engines.vllm import answers, api, lora, metrics
from conformance.cases.engines.vllm.profile import PROFILE, SIGNALS

__all__ = ["PROFILE", "SIGNALS", "answers", "api", "lora", "metrics"]
