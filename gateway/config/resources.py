"""The custom resources: one struct per kind, fields as published plus ours. (P)

Invariant: what decodes has passed every rule that can be judged by looking at one resource alone. An API server holds
the same rules (`schema`, `rules`); it insists on bounds for whatever a rule goes through, so everything here has one.
Fields of our own: ModelServer ``endpoints``, ``schedulingProfile``, ``auth``, ``headers``, ``insecureSkipVerify``,
``caFile``; provider ``keyFile``, ``keyEnv``, ``caFile``, ``apiVersion``, ``query``; route ``unsupported``,
``hedging``; rule ``stickyBy``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib.metadata import entry_points
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, field

from gateway.config.decode import Duration, Fault, Hidden, Section, member, suggestion
from gateway.config.sharing import Amount
from gateway.config.url import endpoint, is_loopback
from gateway.expression import Expression, read
from gateway.types import Endpoint

Text = Annotated[str, Meta(max_length=1024)]
Name = Annotated[str, Meta(min_length=1, max_length=1024)]
ModelName = Annotated[str, Meta(min_length=1, max_length=256)]
Url = Annotated[str, Meta(min_length=1, max_length=2048)]
Port = Annotated[int, Meta(ge=1, le=65535)]
LabelValue = Annotated[str, Meta(max_length=63, pattern=r"^(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?)?\Z")]
Labels = Annotated[dict[str, LabelValue], Meta(min_length=1, max_length=64)]
"""Of a selector. Their names are looked at by `check_labels`."""
Headers = Annotated[dict[str, Hidden], Meta(max_length=64)]

ENGINES = (
    "vllm", "sglang", "tgi", "openai", "deepseek", "gemini", "huggingface", "anthropic", "llamacpp", "ollama", "trtllm",
    "auto",
)  # fmt: skip
PROVIDERS = ("openai", "anthropic", "deepseek", "gemini", "huggingface")


ADAPTERS = "infer_gateway.adapters"
"""The entry point group by whose names engines of others' adapters are called."""


def engine_named(text: str, known: tuple[str, ...] = ENGINES) -> str:
    """The engine's canonical (lower-case) name: one of ``known``, or one that somebody else has an adapter for. Raises
    ValueError.
    """
    name = text.lower()
    if name not in known and name not in _others():
        raise ValueError(f"{text!r} is none of {', '.join(known)}{suggestion(name, known)}")
    return name


@cache
def _others() -> frozenset[str]:
    return frozenset(entry.name.lower() for entry in entry_points(group=ADAPTERS))


class Metadata(Section, frozen=True):
    """The few members of ObjectMeta that decide something. The others are accepted unread (see `OTHER_METADATA`)."""

    name: Name
    namespace: Name = "default"
    creation_timestamp: str = ""
    resource_version: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)


OTHER_METADATA = frozenset(
    ("uid", "generation", "generateName", "selfLink", "finalizers", "ownerReferences", "managedFields",
     "deletionTimestamp", "deletionGracePeriodSeconds"),
)  # fmt: skip
"""Kubernetes writes these into objects it gives out; none of them steers a gateway."""

# --- ModelRoute -------------------------------------------------------------------------------------------------------


class StringMatch(Section, frozen=True, dict=True):
    """The first one given decides, in this order; none given matches everything. ``exact``: the whole text. ``prefix``:
    how it begins. ``regex``: of RE2's language, found anywhere in it.
    """

    exact: Text | None = None
    prefix: Text | None = None
    regex: Text | None = None

    def __post_init__(self) -> None:
        try:
            made = None if self.regex is None else read(self.regex, whole=False)
        except ValueError as error:
            raise Fault(".regex", str(error)) from None
        self.__dict__["expression"] = made  # reading it takes milliseconds, and routes are made again and again

    @property
    def expression(self) -> Expression | None:
        """What ``regex`` comes to."""
        made: Expression | None = self.__dict__["expression"]
        return made


class BodyMatch(Section, frozen=True):
    """Of the request's body. ``model``: the name it asks for, exactly."""

    model: Text | None = None


class ModelMatch(Section, frozen=True):
    """All parts have to hold. ``headers``: by name, in any case; one that was not sent matches as the empty text.
    ``uri``: the request's path. ``body``: members of its body.
    """

    headers: Annotated[dict[str, StringMatch], Meta(max_length=32)] = field(default_factory=dict)
    uri: StringMatch | None = None
    body: BodyMatch | None = None


class TargetModel(Section, frozen=True):
    """A ModelServer or an ExternalModelProvider of the route's namespace. ``model_server_name``: the ModelServer; this
    or the provider is needed. ``external_model_provider_name``: the ExternalModelProvider. ``weight``: its share,
    relative to the sum of the rule's; without any, all targets get the same.
    """

    model_server_name: Name | None = None
    external_model_provider_name: Name | None = None
    weight: Annotated[int, Meta(ge=0, le=100)] | None = None

    def __post_init__(self) -> None:
        if (self.model_server_name is None) == (self.external_model_provider_name is None):
            raise ValueError("exactly one of modelServerName and externalModelProviderName is needed")


class StickyBy(Section, frozen=True):
    """What keeps a caller on one side of a split; exactly one of them. ``header``: the value of this header.
    ``cookie``: the value of this cookie. ``user``: the authenticated user.
    """

    header: Name | None = None
    cookie: Name | None = None
    user: Literal[True] | None = None

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.header, self.cookie, self.user)) != 1:
            raise ValueError("exactly one of header, cookie and user is needed")


class Rule(Section, frozen=True, kw_only=True):
    """Where requests go. ``name``: what operators see, its index by default; part of a sticky split's identity.
    ``model_match``: for which requests it holds; without it, for all. ``target_models``: among these the target is
    drawn by weight, the others are its fallbacks, in their order. ``sticky_by``: what keeps a caller on one side of the
    split.
    """

    name: Text = ""
    model_match: ModelMatch | None = None
    target_models: Annotated[tuple[TargetModel, ...], Meta(min_length=1, max_length=16)]
    sticky_by: StickyBy | None = None

    def __post_init__(self) -> None:
        given = [target.weight is not None for target in self.target_models]
        if any(given) and not all(given):
            where = f".targetModels[{given.index(False)}]"
            raise Fault(where, "weight missing: give every target of a rule a weight, or none of them")
        if all(target.weight == 0 for target in self.target_models):
            raise Fault(".targetModels", "the weights add up to 0: nothing would be sent anywhere")


class RedisAddress(Section, frozen=True):
    """``address``: "host:port" or a redis URL."""

    address: Name


class GlobalLimit(Section, frozen=True):
    """Accounts that replicas share. ``redis``: where they are kept, unless the gateway's own `state.redis` says."""

    redis: RedisAddress | None = None


class RateLimit(Section, frozen=True):
    """Per model name. ``input_tokens_per_unit``: tokens of prompts. ``output_tokens_per_unit``: tokens of answers.
    ``unit``: the time in which these may be used. ``shared``: whether replicas share one account.
    """

    input_tokens_per_unit: Amount | None = None
    output_tokens_per_unit: Amount | None = None
    unit: Literal["second", "minute", "hour", "day", "month"] = "second"
    shared: GlobalLimit | None = field(default=None, name="global")


class ModelRoute(Section, frozen=True, kw_only=True):
    """Which requests go to which servers. ``model_name``: the model that requests ask for. ``lora_adapters``: further
    names, looked for where no route has one as its modelName; the model's name is left as it is then. ``parent_refs``:
    the Gateways that it belongs to. ``rules``: the first that holds decides. ``unsupported``: what becomes of
    parameters that an engine would ignore. ``hedging``: whether a second endpoint may be asked beside one that is slow.
    """

    model_name: Text = ""
    lora_adapters: Annotated[tuple[Name, ...], Meta(max_length=10)] = ()
    parent_refs: Annotated[tuple[dict[str, Any], ...], Meta(max_length=32)] = ()
    rules: Annotated[tuple[Rule, ...], Meta(min_length=1, max_length=16)]
    rate_limit: RateLimit | None = None
    unsupported: Literal["refuse", "drop"] = "refuse"
    hedging: bool = False

    def __post_init__(self) -> None:
        if not self.model_name and not self.lora_adapters:
            raise ValueError("modelName or loraAdapters is needed")
        if self.lora_adapters:
            for index, rule in enumerate(self.rules):
                for number, target in enumerate(rule.target_models):
                    if target.external_model_provider_name is not None:
                        where = f".rules[{index}].targetModels[{number}].externalModelProviderName"
                        raise Fault(where, "a route with loraAdapters cannot lead to an external provider")


# --- ModelServer ------------------------------------------------------------------------------------------------------


_LABEL = re.compile(
    r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*/)?"
    r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?\Z"
)


def check_labels(path: str, names: Iterable[str]) -> None:
    """Raises Fault for what is not the name of a label."""
    for name in names:
        if not _is_label(name):
            raise Fault(member(path, name), "not the name of a label")


def _is_label(name: str) -> bool:
    return _LABEL.match(name) is not None and len(name.partition("/")[0]) <= 253


class PDGroup(Section, frozen=True):
    """Prefill and decode, which are apart. ``group_key``: the label; pods with the same value of it belong together.
    ``prefill_labels``: labels of those that work prompts off. ``decode_labels``: labels of those that generate.
    """

    group_key: Name
    prefill_labels: Labels
    decode_labels: Labels

    def __post_init__(self) -> None:
        if not _is_label(self.group_key):
            raise Fault(".groupKey", "not the name of a label")
        check_labels(".prefillLabels", self.prefill_labels)
        check_labels(".decodeLabels", self.decode_labels)


class WorkloadSelector(Section, frozen=True):
    """Pods of the same namespace. ``match_labels``: the labels that a member has, all of them. ``pd_group``: how
    prefill and decode are told apart.
    """

    match_labels: Labels
    pd_group: PDGroup | None = None

    def __post_init__(self) -> None:
        check_labels(".matchLabels", self.match_labels)


class WorkloadPort(Section, frozen=True):
    """Where pods listen; without it, where the engine does by default. ``port``: of the pod. ``protocol``: what is
    spoken there.
    """

    port: Port
    protocol: Literal["http", "https"] = "http"


class RetryPolicy(Section, frozen=True):
    """``attempts``: further tries after the first. ``retry_interval``: how long before each."""

    attempts: Annotated[int, Meta(ge=0, le=100)] = 0
    retry_interval: Duration = Duration(0.1)


class StickySource(Section, frozen=True):
    """Where a session's key is found. ``type``: in what part of a request, or in which of its token's claims. ``name``:
    of the header, query parameter, cookie or claim.
    """

    type: Literal["Header", "Query", "Cookie", "JWTClaim"]
    name: Name


class SessionSticky(Section, frozen=True, kw_only=True):
    """Requests of one session go to one endpoint while it is usable. ``session_affinity_seconds``: how long after its
    last request a session is remembered. ``sources``: the first that has a value is the session's key.
    """

    session_affinity_seconds: Annotated[int, Meta(ge=1, le=2**31 - 1)] = 10800
    sources: Annotated[tuple[StickySource, ...], Meta(min_length=1, max_length=16)]


class TrafficPolicy(Section, frozen=True):
    """How requests to these engines are treated, instead of what the gateway's configuration says. ``timeout``: from
    connecting to the first token (to the whole answer where it is not streamed). ``retry``: how often another endpoint
    is tried. ``session_sticky``: whether sessions keep their endpoint.
    """

    timeout: Duration | None = None
    retry: RetryPolicy | None = None
    session_sticky: SessionSticky | None = None


class KVConnector(Section, frozen=True):
    """How prefill and decode hand KV blocks over. ``type``: by what."""

    type: Literal["http", "lmcache", "nixl", "mooncake"] = "http"


class SecretRef(Section, frozen=True):
    """A Secret of the same namespace. ``name``: of the Secret. ``key``: the entry that holds the key. ``optional``: no
    other value than false is possible.
    """

    name: Name
    key: Name
    optional: Literal[False] = False


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class Auth(Section, frozen=True):
    """The key for engines: exactly one of ``secretRef``, ``keyFile`` and ``keyEnv``. ``scheme``: whether it travels as
    a bearer token or in x-api-key; by default as the engine's dialect has it. ``secret_ref``: it is in a Secret.
    ``key_file``: it is in this file. ``key_env``: it is in this environment variable.
    """

    scheme: Literal["Bearer", "APIKey"] | None = None
    secret_ref: SecretRef | None = None
    key_file: Name | None = None
    key_env: Text | None = None

    def __post_init__(self) -> None:
        if sum(source is not None for source in (self.secret_ref, self.key_file, self.key_env)) != 1:
            raise ValueError("exactly one of secretRef, keyFile and keyEnv is needed")
        if self.key_env is not None and not _VARIABLE.match(self.key_env):
            raise Fault(".keyEnv", "not the name of an environment variable")


RESERVED_HEADERS = frozenset(
    ("authorization", "proxy-authorization", "cookie", "x-api-key", "host", "content-length", "connection",
     "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "trailer", "te", "content-type", "expect"),
)  # fmt: skip
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
_VALUE = re.compile(r"[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?\Z")
MAX_HEADER_VALUE = 4096


def is_header_name(text: str) -> bool:
    return _TOKEN.match(text) is not None


def is_header_value(text: str) -> bool:
    """Printable ASCII, no space at its ends; not empty."""
    return _VALUE.match(text) is not None


def check_headers(headers: dict[str, Hidden]) -> None:
    seen: set[str] = set()
    for name, value in headers.items():
        where = member(".headers", name)
        if not is_header_name(name):
            raise Fault(where, "not a header name")
        if name.lower() in RESERVED_HEADERS:
            raise Fault(where, "reserved: the gateway sets this header itself")
        if not is_header_value(value.reveal()):
            raise Fault(where, "not a header value (printable ASCII, no space at its ends)")
        if len(value.reveal()) > MAX_HEADER_VALUE:
            raise Fault(where, f"longer than {MAX_HEADER_VALUE} characters")
        if name.lower() in seen:
            raise Fault(where, "given twice")
        seen.add(name.lower())


class ServerEndpoint(Section, frozen=True):
    """One engine. ``url``: its base URL. ``labels``: what plugins know it by, as a pod's in Kubernetes."""

    url: Url
    labels: Annotated[dict[str, Text], Meta(max_length=64)] = field(default_factory=dict)


class ModelServer(Section, frozen=True, kw_only=True):
    """Engines that serve one model. ``model``: what they call it, where requests call it something else.
    ``inference_engine``: which software they are. ``workload_selector``: the pods that are its members.
    ``workload_port``: where these listen. ``traffic_policy``: timeouts, retries and sessions. ``kv_connector``: how
    prefill and decode hand KV blocks over. ``endpoints``: base URLs, instead of a selector. ``scheduling_profile``: the
    one of the gateway's configuration by which they are chosen. ``auth``: the key that they want. ``headers``: sent
    with every request. ``insecure_skip_verify``: certificates are not verified. ``ca_file``: a PEM file of authorities
    to trust instead of the system's.
    """

    model: ModelName | None = None
    inference_engine: Name
    workload_selector: WorkloadSelector | None = None
    workload_port: WorkloadPort | None = None
    traffic_policy: TrafficPolicy = TrafficPolicy()
    kv_connector: KVConnector | None = None
    scheduling_profile: Text = ""
    endpoints: Annotated[tuple[Url | ServerEndpoint, ...], Meta(min_length=1, max_length=1024)] | None = None
    auth: Auth | None = None
    headers: Headers = field(default_factory=dict)
    insecure_skip_verify: bool = False
    ca_file: Name | None = None

    def __post_init__(self) -> None:
        try:
            engine = engine_named(self.inference_engine)
        except ValueError as error:
            raise Fault(".inferenceEngine", str(error)) from None
        if self.endpoints is None and self.workload_selector is None:
            raise ValueError("workloadSelector or endpoints is needed")
        port = self.workload_port.port if self.workload_port else None
        seen = set()
        for index, listed in enumerate(self.endpoints or ()):
            where = f".endpoints[{index}]" if isinstance(listed, str) else f".endpoints[{index}].url"
            try:
                identity = self.endpoint(listed, engine, port).id
            except ValueError as error:
                raise Fault(where, str(error)) from None
            if identity in seen:
                raise Fault(where, f"{identity} is listed twice")
            seen.add(identity)
        check_headers(self.headers)

    @staticmethod
    def endpoint(listed: str | ServerEndpoint, engine: str, port: int | None) -> Endpoint:
        """Raises ValueError for what is no base URL."""
        if isinstance(listed, str):
            return endpoint(listed, engine, port=port)
        labels = tuple(listed.labels.items())
        return msgspec.structs.replace(endpoint(listed.url, engine, port=port), labels=labels)


API_VERSION = "api-version"
"""What Azure calls it in a query."""

# --- ExternalModelProvider --------------------------------------------------------------------------------------------


class ExternalModelProvider(Section, frozen=True, kw_only=True):
    """Models that somebody else serves. ``provider_type``: whose dialect they speak. ``api_version``: models are
    deployments, as at Azure. ``query``: goes with every request, percent-encoded here. ``model``: what they call it,
    where requests call it something else. ``base_url``: an https URL, http for loopback only; its path stands for the
    API's version. ``insecure_skip_verify``: the certificate is not verified. ``auth``: the key that the provider wants.
    ``headers``: sent with every request. ``ca_file``: a PEM file of authorities to trust instead of the system's.
    """

    provider_type: Name = "OpenAI"
    api_version: Name | None = None
    query: Headers = field(default_factory=dict)
    model: ModelName | None = None
    base_url: Url = field(name="baseURL")
    insecure_skip_verify: bool = False
    auth: Auth | None = None
    headers: Headers = field(default_factory=dict)
    ca_file: Name | None = None

    def __post_init__(self) -> None:
        try:
            engine = engine_named(self.provider_type, PROVIDERS)
        except ValueError as error:
            raise Fault(".providerType", str(error)) from None
        try:
            made = endpoint(self.base_url, engine, keep_version=True)
        except ValueError as error:
            raise Fault(".baseURL", str(error)) from None
        if made.scheme != "https" and not is_loopback(made.host):
            raise Fault(".baseURL", "https is needed: a key would cross the network in the clear")
        check_headers(self.headers)
        if self.api_version is not None:
            if engine != "openai":
                raise Fault(
                    ".apiVersion", "only models of OpenAI's are deployed like that: it needs providerType OpenAI"
                )
            if API_VERSION in self.query:
                raise Fault(member(".query", API_VERSION), "given as apiVersion already")
