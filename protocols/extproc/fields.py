"""Header fields of a forwarded request: which of them steer the picker, and which never reach a backend. (P)

Invariant: of two vocabularies for one purpose the first name wins; a header that belongs to the picker is removed,
whoever sent it. Names are those of the endpoint picker protocol (Gateway API Inference Extension) and of llm-d.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gateway.types import Headers

DESTINATION: Final = "x-gateway-destination-endpoint"
SERVED: Final = "x-gateway-destination-endpoint-served"
SCORES: Final = "x-gateway-destination-endpoint-scores"
SUBSET: Final = "x-gateway-destination-endpoint-subset"
SUBSET_HINT: Final = "envoy.lb.subset_hint"
DROPPED: Final = "x-llm-d-request-dropped-reason"
STEERING: Final = "test-epp-endpoint-selection"
MODEL: Final = ("x-llm-d-model-name-rewrite", "x-gateway-model-name-rewrite")
FAIRNESS: Final = ("x-llm-d-inference-fairness-id", "x-gateway-inference-fairness-id")
OBJECTIVE: Final = ("x-llm-d-inference-objective", "x-gateway-inference-objective")
ROUTED_MODEL: Final = "x-gateway-model-name"
"""What a body based router in front of the picker has read the model to be; it is not ours to remove."""

CONTROL: Final = frozenset(
    {
        *MODEL,
        *FAIRNESS,
        *OBJECTIVE,
        "x-llm-d-slo-ttft-ms",
        "x-slo-ttft-ms",
        "x-llm-d-slo-tpot-ms",
        "x-slo-tpot-ms",
        "x-llm-d-video-fps",
        "x-llm-d-video-duration-seconds",
        "x-llm-d-video-resolution",
        DESTINATION,
        SERVED,
        SCORES,
        SUBSET,
        DROPPED,
        STEERING,
    }
)
_READ: Final = CONTROL | {":path", ":status", "status", "x-request-id", ROUTED_MODEL, "content-encoding"}


class Head(msgspec.Struct, frozen=True, gc=False):
    """``fields``: all regular ones, in wire order, names in lower case. ``named``: those the picker reads, first value
    of each. ``control``: the names present that no backend may see.
    """

    fields: Headers = ()
    named: dict[str, bytes] = {}
    control: tuple[str, ...] = ()

    def text(self, *names: str) -> str:
        """The value of the first of ``names`` that has one."""
        for name in names:
            value = self.named.get(name)
            if value:
                return value.decode("utf-8", "replace").strip()
        return ""


def read(header_map: Any) -> Head:
    """The fields of a `HeaderMap`."""
    fields: list[tuple[bytes, bytes]] = []
    named: dict[str, bytes] = {}
    for field in header_map.headers:
        name = field.key.lower()
        value = field.raw_value or field.value.encode()
        if name in _READ:
            named.setdefault(name, value)
        if name[:1] != ":":
            fields.append((name.encode(), value))
    return Head(tuple(fields), named, tuple(named.keys() & CONTROL))
