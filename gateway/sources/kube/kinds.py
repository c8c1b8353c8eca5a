"""The kinds of objects that are watched or written, and where an API server keeps them. (P)"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

import msgspec


class Kind(msgspec.Struct, frozen=True):
    """A resource of an API server. ``plural`` is its name in paths; the core group is "".

    ``feature``: what is off where the server does not know the kind or does not let us read it.
    """

    group: str
    version: str
    plural: str
    name: str
    feature: str = ""
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", part: str = "") -> str:
        """Of all objects, of those of a namespace, of one, or of one's ``part`` ("status")."""
        steps = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if namespace and self.namespaced:
            steps += ["namespaces", namespace]
        steps += [step for step in (self.plural, name, part) if step]
        return "/" + "/".join(quote(step, safe="") for step in steps)

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


_VOLCANO, _MATRIX = "networking.serving.volcano.sh", "networking.matrixinfer.ai"
_POOLS, _X, _LLM_D = "inference.networking.k8s.io", "inference.networking.x-k8s.io", "llm-d.ai"
_GATEWAYS = "gateway.networking.k8s.io"

POD: Final = Kind("", "v1", "pods", "Pod", "members of pools by selector")
SECRET: Final = Kind("", "v1", "secrets", "Secret", "keys from Secrets")
CONFIG_MAP: Final = Kind("", "v1", "configmaps", "ConfigMap", "the configuration from a ConfigMap")
SERVICE: Final = Kind("", "v1", "services", "Service", "checks of endpointPickerRef")
EVENT: Final = Kind("events.k8s.io", "v1", "events", "Event", "events about objects")
LEASE: Final = Kind("coordination.k8s.io", "v1", "leases", "Lease", "election of who writes status")

MODEL_ROUTE: Final = Kind(_VOLCANO, "v1alpha1", "modelroutes", "ModelRoute", "ModelRoutes")
MODEL_SERVER: Final = Kind(_VOLCANO, "v1alpha1", "modelservers", "ModelServer", "ModelServers")
PROVIDER: Final = Kind(_VOLCANO, "v1alpha1", "externalmodelproviders", "ExternalModelProvider", "public providers")
OLD_MODEL_ROUTE: Final = Kind(_MATRIX, "v1alpha1", "modelroutes", "ModelRoute", "MatrixInfer's ModelRoutes")
OLD_MODEL_SERVER: Final = Kind(_MATRIX, "v1alpha1", "modelservers", "ModelServer", "MatrixInfer's ModelServers")

POOL: Final = Kind(_POOLS, "v1", "inferencepools", "InferencePool", "InferencePools")
OLD_POOL: Final = Kind(_X, "v1alpha2", "inferencepools", "InferencePool", "InferencePools of v1alpha2")
OBJECTIVE: Final = Kind(
    _LLM_D, "v1alpha2", "inferenceobjectives", "InferenceObjective", "InferenceObjectives of llm-d.ai"
)
OLD_OBJECTIVE: Final = Kind(_X, "v1alpha2", "inferenceobjectives", "InferenceObjective", "InferenceObjectives")
REWRITE: Final = Kind(
    _LLM_D, "v1alpha2", "inferencemodelrewrites", "InferenceModelRewrite", "InferenceModelRewrites of llm-d.ai"
)
OLD_REWRITE: Final = Kind(_X, "v1alpha2", "inferencemodelrewrites", "InferenceModelRewrite", "InferenceModelRewrites")

GATEWAY_CLASS: Final = Kind(_GATEWAYS, "v1", "gatewayclasses", "GatewayClass", "Gateways of our class", False)
GATEWAY: Final = Kind(_GATEWAYS, "v1", "gateways", "Gateway", "Gateways of our class")
HTTP_ROUTE: Final = Kind(_GATEWAYS, "v1", "httproutes", "HTTPRoute", "HTTPRoutes to InferencePools")
REFERENCE_GRANT: Final = Kind(
    _GATEWAYS, "v1beta1", "referencegrants", "ReferenceGrant", "HTTPRoutes to InferencePools of other namespaces"
)

OURS: Final = (MODEL_ROUTE, MODEL_SERVER, PROVIDER, OLD_MODEL_ROUTE, OLD_MODEL_SERVER)
"""Resources whose status is ours alone."""
PICKER: Final = (POOL, OLD_POOL, OBJECTIVE, OLD_OBJECTIVE, REWRITE, OLD_REWRITE)
GATEWAY_API: Final = (GATEWAY_CLASS, GATEWAY, HTTP_ROUTE, REFERENCE_GRANT)
WATCHED: Final = (*OURS, *PICKER, *GATEWAY_API)
"""Everything that is read whole. Pods are read in part, Secrets, Services and ConfigMaps one by one, by name."""
