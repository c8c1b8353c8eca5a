"""One document → one typed resource: its kind, its metadata, its spec. (P)

Invariant: a `Resource` has decoded completely; everything wrong with a document is reported, each with its path.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import field

from gateway import expression
from gateway.config.decode import INVALID, Decoder, Hidden, Section, described, member, suggestion
from gateway.config.document import Document, Tree
from gateway.config.extension import ALPHA, CURRENT, AlphaPool, InferenceModelRewrite, InferenceObjective
from gateway.config.extension import VERSIONS as OBJECTIVES
from gateway.config.inference_pool import InferencePool
from gateway.config.picker import VERSIONS, EndpointPickerConfig
from gateway.config.resources import (
    OTHER_METADATA,
    ExternalModelProvider,
    Metadata,
    ModelRoute,
    ModelServer,
)
from gateway.config.settings import Settings

VOLCANO = "networking.serving.volcano.sh/v1alpha1"
MATRIXINFER = "networking.matrixinfer.ai/v1alpha1"
OWN = "infer-gateway.dev/v1alpha1"
EXTENSION = "inference.networking.k8s.io/v1"


class SecretData(Section, frozen=True):
    """A Secret as Kubernetes writes it. ``data``: values by key, in base64. ``string_data``: values by key as they are;
    these win. ``type``: not looked at. ``immutable``: not looked at.
    """

    data: dict[str, Hidden] = field(default_factory=dict)
    string_data: dict[str, Hidden] = field(default_factory=dict)
    type: str = "Opaque"
    immutable: bool = False


class ConfigMapData(Section, frozen=True):
    """A ConfigMap with settings. ``data``: documents by key; gatewayConfiguration, schedulerConfiguration and
    routerConfiguration are read. ``binary_data``: not looked at. ``immutable``: not looked at.
    """

    data: dict[str, str] = field(default_factory=dict)
    binary_data: dict[str, str] = field(default_factory=dict)
    immutable: bool = False


class Kind(msgspec.Struct, frozen=True):
    """What a kind decodes to, under which API versions; ``spec``: whether its content sits below `spec`.

    ``earlier``: what another version of it decodes to, which comes to the same by its ``modern()``.
    """

    type: type[Section]
    versions: tuple[str, ...]
    spec: bool = True
    earlier: Mapping[str, builtins.type[AlphaPool]] = MappingProxyType({})


KINDS: Mapping[str, Kind] = {
    "ModelRoute": Kind(ModelRoute, (VOLCANO, MATRIXINFER)),
    "ModelServer": Kind(ModelServer, (VOLCANO, MATRIXINFER)),
    "ExternalModelProvider": Kind(ExternalModelProvider, (VOLCANO,)),
    "InferencePool": Kind(InferencePool, (EXTENSION, ALPHA), earlier=MappingProxyType({ALPHA: AlphaPool})),
    "InferenceObjective": Kind(InferenceObjective, OBJECTIVES),
    "InferenceModelRewrite": Kind(InferenceModelRewrite, OBJECTIVES),
    "GatewayConfiguration": Kind(Settings, (OWN,), spec=False),
    "EndpointPickerConfig": Kind(EndpointPickerConfig, VERSIONS, spec=False),
    "ConfigMap": Kind(ConfigMapData, ("v1",), spec=False),
    "Secret": Kind(SecretData, ("v1",), spec=False),
}
_OURS = {VOLCANO, MATRIXINFER, OWN, EXTENSION, CURRENT}
"""Versions of which every kind should be known; the others have kinds that say nothing to a gateway."""
_ENVELOPE = ("apiVersion", "kind", "metadata", "status")


class Flaw(msgspec.Struct, frozen=True):
    """What is wrong at ``path`` of a resource. ``reference``: it names something that is not there, or not yet."""

    where: str
    path: str
    message: str
    reference: bool = False

    @property
    def text(self) -> str:
        return f"{self.path}: {self.message}"

    @property
    def line(self) -> str:
        return f"{self.where}: {self.path}: {self.message}"


class Resource(msgspec.Struct, frozen=True):
    """A decoded resource. ``where`` is how problems with it begin: "file, document 2 (ModelRoute/llama)"."""

    kind: str
    version: str
    metadata: Metadata
    content: Any
    document: Document
    where: str

    @property
    def name(self) -> str:
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def age(self) -> tuple[float, int, str]:
        """Sorts as candidates do: creation time, then resource version; a file without either is the oldest."""
        created = self.metadata.creation_timestamp
        version = self.metadata.resource_version
        digits = version.isascii() and version.isdigit()
        return (instant(created) if created else 0.0, int(version[:40]) if digits else 0, version)

    def problem(self, path: str, message: str) -> str:
        return f"{self.where}: {path}: {message}"

    def flaw(self, path: str, message: str, *, reference: bool = False) -> Flaw:
        return Flaw(self.where, path, message, reference)


def instant(text: str) -> float:
    """RFC 3339 → seconds since the epoch. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def read(document: Document, problems: list[str], warnings: list[str]) -> Resource | None:
    """The resource in ``document``; None after adding to ``problems``, or to ``warnings`` if it is not ours."""
    tree = document.tree
    if not isinstance(tree, dict):
        problems.append(f"{document.place}: $: expected an object, got {described(tree)}")
        return None
    version, name = tree.get("apiVersion"), tree.get("kind")
    kind = KINDS.get(name) if isinstance(name, str) else None
    where = _labelled(document)
    if kind is not None and version in kind.versions:
        resource, found = decoded(document, where)
        problems.extend(f"{where}: {problem}" for problem in found)
        return resource
    if not isinstance(name, str) or not isinstance(version, str):
        missing = "kind" if not isinstance(name, str) else "apiVersion"
        problems.append(f"{where}: $.{missing}: expected a string, got {described(tree.get(missing))}")
    elif kind is not None:
        problems.append(f'{where}: $.apiVersion: {name} is read from {" or ".join(kind.versions)}, not "{version}"')
    elif version in _OURS:
        problems.append(f'{where}: $.kind: no kind "{name}" in {version}{suggestion(name, KINDS)}')
    else:
        warnings.append(f"{where}: ignored: {version} {name} says nothing to a gateway")
    return None


def _labelled(document: Document) -> str:
    """The document's place with what is known of its kind and name."""
    tree = document.tree
    metadata = tree.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    parts = [part for part in (tree.get("kind"), name) if isinstance(part, str) and part]
    return f"{document.place} ({'/'.join(parts)})" if parts else document.place


def decoded(document: Document, where: str) -> tuple[Resource | None, list[str]]:
    """The resource of an object whose kind and version are known ones; None with what is wrong, each "path: message".

    ``where``: how problems found later begin.
    """
    decoder, tree = Decoder(), document.tree
    kind = KINDS[tree["kind"]]
    metadata = _metadata(decoder, tree, tree["kind"])
    if kind.spec:
        for key in tree:
            if key not in (*_ENVELOPE, "spec"):
                decoder.refuse(member("$", key), f"unknown field{suggestion(key, (*_ENVELOPE, 'spec'))}")
        spec = tree.get("spec")
        with expression.together():
            made = kind.earlier.get(tree["apiVersion"], kind.type)
            content = decoder.build({} if spec is None else spec, made, "$.spec")
        if isinstance(content, AlphaPool):
            content = content.modern()
    else:
        content = decoder.build(content_of(tree), kind.type)
    if decoder.problems or metadata is INVALID or content is INVALID:
        return None, decoder.problems
    return Resource(tree["kind"], tree["apiVersion"], metadata, content, document, where), []


def content_of(tree: dict[str, Tree]) -> dict[str, Tree]:
    """A document without its envelope."""
    return {key: value for key, value in tree.items() if key not in _ENVELOPE}


def _metadata(decoder: Decoder, tree: dict[str, Tree], kind: str) -> Any:
    given = tree.get("metadata")
    if given is None:
        given = {}
    if isinstance(given, dict):
        given = {key: value for key, value in given.items() if key not in OTHER_METADATA}
        if kind in ("GatewayConfiguration", "EndpointPickerConfig"):
            given.setdefault("name", "gateway")
    made = decoder.build(given, Metadata, "$.metadata")
    if isinstance(made, Metadata) and made.creation_timestamp:
        try:
            instant(made.creation_timestamp)
        except (ValueError, OverflowError):
            return decoder.refuse("$.metadata.creationTimestamp", "expected an RFC 3339 time")
    return made
