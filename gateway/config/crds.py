"""The custom resource definitions of the kinds that are ours to define. (P)

Invariant: they are made of the structs that read the objects, so whatever a definition lets pass has a meaning here.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.config.decode import Section
from gateway.config.envelope import MATRIXINFER, VOLCANO
from gateway.config.resources import ExternalModelProvider, ModelRoute, ModelServer
from gateway.config.schema import Schema, schema

CATEGORY = "infer-gateway"


class Column(msgspec.Struct, frozen=True):
    """Of what `kubectl get` shows. ``priority`` above 0: with ``-o wide`` only."""

    name: str
    path: str
    type: str = "string"
    description: str = ""
    priority: int = 0

    def tree(self) -> dict[str, Any]:
        given = {"description": self.description, "priority": self.priority}
        return {
            "name": self.name,
            "type": self.type,
            "jsonPath": self.path,
            **{name: value for name, value in given.items() if value},
        }


class Definition(msgspec.Struct, frozen=True):
    """A kind under one group and version. ``about``: what it is, in a sentence."""

    api_version: str
    kind: str
    content: type[Section]
    about: str
    columns: tuple[Column, ...]
    short: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        return self.api_version.partition("/")[0]

    @property
    def plural(self) -> str:
        return f"{self.kind.lower()}s"

    @property
    def file(self) -> str:
        return f"{self.group}_{self.plural}.yaml"

    def tree(self) -> dict[str, Any]:
        """The CustomResourceDefinition."""
        names: dict[str, Any] = {
            "kind": self.kind,
            "listKind": f"{self.kind}List",
            "plural": self.plural,
            "singular": self.kind.lower(),
            "categories": [CATEGORY],
        }
        version = {
            "name": self.api_version.partition("/")[2],
            "served": True,
            "storage": True,
            "subresources": {"status": {}},
            "additionalPrinterColumns": [column.tree() for column in self.columns],
            "schema": {"openAPIV3Schema": self._object()},
        }
        return {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{self.plural}.{self.group}"},
            "spec": {
                "group": self.group,
                "names": names | ({"shortNames": list(self.short)} if self.short else {}),
                "scope": "Namespaced",
                "versions": [version],
            },
        }

    def _object(self) -> Schema:
        return {
            "description": self.about,
            "type": "object",
            "properties": {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": {"type": "object"},
                "spec": schema(self.content),
                "status": STATUS,
            },
            "required": ["spec"],
        }


_GENERATION: Schema = {"type": "integer", "format": "int64", "minimum": 0}
_CONDITION: Schema = {
    "type": "object",
    "properties": {
        "type": {"type": "string", "minLength": 1, "maxLength": 316},
        "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
        "reason": {
            "type": "string",
            "minLength": 1,
            "maxLength": 1024,
            "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
        },
        "message": {"type": "string", "maxLength": 32768},
        "observedGeneration": _GENERATION,
        "lastTransitionTime": {"type": "string", "format": "date-time"},
    },
    "required": ["type", "status", "reason", "message", "lastTransitionTime"],
}
STATUS: Schema = {
    "description": "What the gateway makes of the object.",
    "type": "object",
    "properties": {
        "observedGeneration": {"description": "The generation that was judged."} | _GENERATION,
        "conditions": {
            "type": "array",
            "maxItems": 32,
            "items": _CONDITION,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        },
    },
}


def _condition(name: str) -> Column:
    return Column(name, f'.status.conditions[?(@.type=="{name}")].status')


_STATE = (_condition("Accepted"), _condition("Ready"))
_AGE = Column("Age", ".metadata.creationTimestamp", "date")
_ROUTE = (Column("Model", ".spec.modelName"), *_STATE, _AGE)
_SERVER = (
    Column("Engine", ".spec.inferenceEngine", description="Which software serves the model"),
    Column("Port", ".spec.workloadPort.port", "integer", "Where its pods listen"),
    Column("Protocol", ".spec.workloadPort.protocol", description="What they speak there"),
    *_STATE,
    _AGE,
)
_PROVIDER = (
    Column("Provider", ".spec.providerType", description="Whose dialect it speaks"),
    Column("URL", ".spec.baseURL", priority=1),
    *_STATE,
    _AGE,
)
_ABOUT_ROUTE = "Which requests go to which servers, in what shares."
_ABOUT_SERVER = "Engines that serve one model, found by their pods' labels or listed."

DEFINITIONS = (
    Definition(VOLCANO, "ModelRoute", ModelRoute, _ABOUT_ROUTE, _ROUTE, ("mroute",)),
    Definition(VOLCANO, "ModelServer", ModelServer, _ABOUT_SERVER, _SERVER, ("mserver",)),
    Definition(
        VOLCANO,
        "ExternalModelProvider",
        ExternalModelProvider,
        "A public provider of models, or anything that is reached as one.",
        _PROVIDER,
        ("mprovider",),
    ),
    Definition(MATRIXINFER, "ModelRoute", ModelRoute, _ABOUT_ROUTE, _ROUTE),
    Definition(MATRIXINFER, "ModelServer", ModelServer, _ABOUT_SERVER, _SERVER),
)
"""In the older group without short names, which would be the newer one's."""
