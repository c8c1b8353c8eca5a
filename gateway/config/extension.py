"""What the inference extension says beside its pools: objectives, model rewrites, and the pools of its first form. (P)

Invariant: what decodes has passed every rule that can be judged by looking at one object alone. Fields are those of
`InferenceObjective` and `InferenceModelRewrite` v1alpha2 (llm-d.ai; inference.networking.x-k8s.io before) and of
`InferencePool` v1alpha2, which comes to the same as one of v1.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta

from gateway.config.decode import Fault, Section
from gateway.config.inference_pool import EndpointPickerRef, InferencePool, PoolSelector, TargetPort
from gateway.config.resources import Name, Port
from gateway.directives import Objective, Rewrite, RewriteRule

POOLS: Final = "inference.networking.k8s.io"
EARLIER: Final = "inference.networking.x-k8s.io"
"""The group in which everything here began, and where what has moved is still read."""
LLM_D: Final = "llm-d.ai"
ALPHA: Final = f"{EARLIER}/v1alpha2"
CURRENT: Final = f"{LLM_D}/v1alpha2"
VERSIONS: Final = (CURRENT, ALPHA)
"""Of objectives and rewrites; of two objects of one name the former wins."""

Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]


class PoolRef(Section, frozen=True, kw_only=True):
    """A pool of the object's own namespace. ``group``: of the pool. ``kind``: of the pool. ``name``: of the pool."""

    group: str = POOLS
    kind: str = "InferencePool"
    name: Name

    def __post_init__(self) -> None:
        if self.group not in (POOLS, EARLIER):
            raise Fault(".group", f"expected {POOLS}, got {self.group!r}")
        if self.kind != "InferencePool":
            raise Fault(".kind", f"expected InferencePool, got {self.kind!r}")


class InferenceObjective(Section, frozen=True, kw_only=True):
    """How urgent requests are that name it. ``priority``: higher goes first; below 0, a request is refused rather than
    made to wait. None is 0. ``pool_ref``: the pool it is for.
    """

    priority: Int32 | None = None
    pool_ref: PoolRef


class ModelCondition(Section, frozen=True, kw_only=True):
    """``type``: how names are compared. ``value``: the name."""

    type: Literal["Exact"] = "Exact"
    value: Name


class RewriteMatch(Section, frozen=True):
    """``model``: what the request asks for; none: any model."""

    model: ModelCondition | None = None


class TargetModel(Section, frozen=True):
    """``model_rewrite``: the name that engines get. ``weight``: its share, relative to the others; where some have one,
    those without get nothing.
    """

    model_rewrite: Name
    weight: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None


class ModelRewriteRule(Section, frozen=True, kw_only=True):
    """``matches``: one of them has to hold; none: any model. ``targets``: the models that answer, drawn by weight."""

    matches: tuple[RewriteMatch, ...] = ()
    targets: Annotated[tuple[TargetModel, ...], Meta(min_length=1)]

    def models(self) -> tuple[str, ...]:
        """Those it is for; none: any."""
        named = tuple(match.model.value for match in self.matches if match.model is not None)
        return named if len(named) == len(self.matches) else ()

    def shares(self) -> tuple[tuple[str, int], ...]:
        """Model and weight of each that may be chosen: where some have a weight, those without are not."""
        weighted = tuple((each.model_rewrite, each.weight) for each in self.targets if each.weight is not None)
        return weighted or tuple((each.model_rewrite, 1) for each in self.targets)


class InferenceModelRewrite(Section, frozen=True):
    """Which model answers for another. ``pool_ref``: the pool it is for. ``rules``: the first that holds decides."""

    pool_ref: PoolRef
    rules: Annotated[tuple[ModelRewriteRule, ...], Meta(min_length=1)]


class ExtensionRef(Section, frozen=True, kw_only=True):
    """Who picks for proxies in front of the pool. ``group``: of its kind, "" for a Service. ``kind``: what it is.
    ``name``: what it is called. ``port_number``: where it listens. ``failure_mode``: what a proxy does without it:
    refuse (FailClose) or choose by itself (FailOpen).
    """

    group: str = ""
    kind: str = "Service"
    name: Name
    port_number: Port = 9002
    failure_mode: Literal["FailClose", "FailOpen"] = "FailClose"

    def modern(self) -> EndpointPickerRef:
        port = TargetPort(number=self.port_number)
        return EndpointPickerRef(
            group=self.group, kind=self.kind, name=self.name, port=port, failure_mode=self.failure_mode
        )


class AlphaPool(Section, frozen=True):
    """InferencePool v1alpha2. ``selector``: the labels that a member has, all of them. ``target_port_number``: where
    each listens. ``extension_ref``: who picks for proxies in front.
    """

    selector: Annotated[dict[str, str], Meta(min_length=1, max_length=64)]
    target_port_number: Port
    extension_ref: ExtensionRef | None = None

    def modern(self) -> InferencePool:
        """The same as of v1."""
        return InferencePool(
            selector=PoolSelector(match_labels=self.selector),
            target_ports=(TargetPort(number=self.target_port_number),),
            endpoint_picker_ref=None if self.extension_ref is None else self.extension_ref.modern(),
        )


def objective(name: str, version: str, spec: InferenceObjective, pool: str = "") -> Objective:
    """``name``: "namespace/name"; ``version``: the apiVersion it was read from; ``pool``: what the pool it names is
    called, by default as in the same namespace.
    """
    return Objective(name, pool or beside(name, spec.pool_ref), spec.priority or 0, legacy=version != CURRENT)


def rewrite(
    name: str, version: str, spec: InferenceModelRewrite, age: tuple[float, int, str], pool: str = ""
) -> Rewrite:
    """As `objective`. ``age`` sorts, oldest first."""
    rules = tuple(RewriteRule(rule.models(), rule.shares()) for rule in spec.rules)
    return Rewrite(name, pool or beside(name, spec.pool_ref), rules, age, legacy=version != CURRENT)


def beside(name: str, ref: PoolRef) -> str:
    """ "namespace/name" of the pool that the object of that name refers to."""
    return f"{name.partition('/')[0]}/{ref.name}"
