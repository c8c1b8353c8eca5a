"""Policies by name: the baselines, the published defaults, the gateway's own. (P)

Invariant: whatever is named here makes a new mind for every gateway of every replay; nothing is learned across runs.
The published ones are configured as they are published, and read as any configuration is; beside them stand the
products as they are (`…-published`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from conformance.replay.choosers import BASELINES
from conformance.replay.production import configured, production
from conformance.replay.published import PUBLISHED
from conformance.replay.virtual import Make

ORACLE = "oracle"

_SCORE = b"""
apiVersion: infer-gateway.dev/v1alpha1
kind: GatewayConfiguration
scheduler:
  plugins:
    Filter: {disabled: ["*"]}
    Score: {enabled: [%s]}
"""

PROFILES: Mapping[str, bytes] = {
    "least-request": _SCORE % b"least-request",
    "prefix": _SCORE % b"prefix-cache",
    "kthena": b"""
apiVersion: infer-gateway.dev/v1alpha1
kind: GatewayConfiguration
scheduler:
  pluginConfig:
  - {name: least-request, args: {maxWaitingRequests: 10}}
  - {name: least-latency, args: {TTFTTPOTWeightFactor: 0.5}}
  - {name: prefix-cache, args: {blockSizeToHash: 64, maxBlocksToMatch: 128, maxHashCacheSize: 50000}}
  plugins:
    Filter:
      enabled: [least-request]
      disabled: [lora-affinity]
    Score:
      enabled:
      - {name: least-request, weight: 1}
      - {name: kv-cache, weight: 1}
      - {name: least-latency, weight: 1}
      - {name: prefix-cache, weight: 1}
""",
    "epp": b"""
apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: kv-cache-utilization-scorer
- type: prefix-cache-scorer
- type: max-score-picker
- type: single-profile-handler
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: prefix-cache-scorer, weight: 3}
  - {pluginRef: max-score-picker}
""",
    "ours": b"",
}
"""Configurations; nothing configured is what the gateway does by itself."""

NAMES: tuple[str, ...] = ("random", "round-robin", "least-inflight", *PUBLISHED, *PROFILES, ORACLE)


def policy(name: str, profile: bytes | None = None) -> Make:
    """The policy of that name, or by a configuration of its own. Raises ValueError for a name that is not known, and
    ConfigError."""
    if profile is not None:
        return partial(production, configured(profile, name))
    if name in BASELINES:
        return BASELINES[name]
    if name in PUBLISHED:
        return PUBLISHED[name]
    if name in PROFILES:
        return partial(production, configured(PROFILES[name], name))
    raise ValueError(f"no policy {name!r}; there are {', '.join(NAMES)}")
