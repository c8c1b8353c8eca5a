"""ModelServers, providers and InferencePools → `PoolSpec`s with their endpoints. (P)

Invariant: a key ends up in the headers of an `Endpoint` and nowhere else; problems name its source, never its value.
"""

from __future__ import annotations

import base64
import binascii
import posixpath
import re
from collections.abc import Callable, Mapping
from urllib.parse import quote

import msgspec

from gateway.config.address import is_inward, refusal
from gateway.config.envelope import MATRIXINFER, Flaw, Resource, SecretData
from gateway.config.inference_pool import H2C, InferencePool
from gateway.config.resources import (
    API_VERSION,
    Auth,
    ExternalModelProvider,
    ModelServer,
    WorkloadPort,
    engine_named,
)
from gateway.config.scheduler import DEFAULT
from gateway.config.settings import Settings
from gateway.config.snapshot import PoolSpec, Selector, policy_of
from gateway.config.url import endpoint
from gateway.types import ANY, PLAIN, Endpoint

Read = Callable[[str], bytes]
"""Gives the content of a file named in the configuration. Raises OSError."""

Secrets = Mapping[str, Mapping[str, bytes | None]]
"""By "namespace/name": what is in each; None for a value that is not base64, of which somebody has told."""

_DEFAULT_PORTS = {"sglang": 30000}
_OURS = (
    "objects of a cluster get nothing of the gateway's own; name a Secret by secretRef, or give the object as a file"
)
_REFUSED = "; where that is meant, name its network in egress.allow"
_INWARD = "objects of a cluster may name it only where the configuration says kubernetes.allowLoopback"
_KEY = re.compile(r"[\x21-\x7e]+\Z")


class Fleet:
    """Builds pools; what is wrong goes to ``flaws``, files read to ``files``. A profile that is not there is left out.

    ``guarded``: URLs are from people who may reach no more than the network, see `kubernetes.allowLoopback`.
    ``unsettled``: settings are missing because they are broken, so that nothing can be said of names they define.
    """

    def __init__(
        self,
        settings: Settings,
        secrets: Secrets,
        read: Read,
        environment: Mapping[str, str],
        *,
        guarded: bool = False,
        unsettled: bool = False,
    ) -> None:
        self.settings = settings
        self.guarded = guarded
        self.environment = environment
        self.unsettled = unsettled
        self.secrets = secrets
        self.read = read
        self.flaws: list[Flaw] = []
        self.files: list[str] = []

    # --- pools --------------------------------------------------------------------------------------------------------

    def server(self, resource: Resource) -> PoolSpec:
        spec: ModelServer = resource.content
        engine = engine_named(spec.inference_engine)
        port = _port(resource, spec, engine)
        common = self._common(resource, spec, Endpoint(engine, port.protocol, "", port.port))
        given = port.port if spec.workload_port else None
        urls = [
            self._reachable(resource, f"$.spec.endpoints[{index}]", spec.endpoint(listed, engine, given))
            for index, listed in enumerate(spec.endpoints or ())
        ]
        selector = None
        if spec.endpoints is None and spec.workload_selector is not None:
            labels, group = tuple(spec.workload_selector.match_labels.items()), spec.workload_selector.pd_group
            selector = Selector(resource.metadata.namespace, labels, (port.port,), port.protocol, group)
        unknown = self.settings.scheduler.check_profile(spec.scheduling_profile)
        if unknown and not self.unsettled:
            self.flaws.append(resource.flaw("$.spec.schedulingProfile", unknown))
        return PoolSpec(
            name=resource.name,
            engine=engine,
            endpoints=tuple(_with(common, url) for url in urls),
            model=spec.model,
            policy=policy_of(self.settings, spec.traffic_policy),
            sticky=spec.traffic_policy.session_sticky,
            profile="" if unknown or spec.scheduling_profile == DEFAULT else spec.scheduling_profile,
            selector=selector,
            template=None if selector is None else common,
            kv_connector=None if spec.kv_connector is None else spec.kv_connector.type,
        )

    def provider(self, resource: Resource) -> PoolSpec:
        spec: ExternalModelProvider = resource.content
        engine = engine_named(spec.provider_type)
        url = endpoint(spec.base_url, engine, keep_version=True)
        url = msgspec.structs.replace(url, query=_query(spec), deployments=spec.api_version is not None)
        url = self._reachable(resource, "$.spec.baseURL", url)
        return PoolSpec(
            name=resource.name,
            engine=engine,
            endpoints=(self._common(resource, spec, url),),
            model=spec.model,
            policy=policy_of(self.settings),
            external=True,
        )

    def inference_pool(self, resource: Resource) -> PoolSpec:
        spec: InferencePool = resource.content
        ports = tuple(port.number for port in spec.target_ports)
        selector = Selector(resource.metadata.namespace, tuple(spec.selector.match_labels.items()), ports)
        # whoever made the pool says that its pods serve; HTTP/2 without TLS is for the proxy to speak, not for us
        engine = PLAIN if spec.app_protocol == H2C else ANY
        return PoolSpec(
            name=resource.name,
            engine=engine,
            policy=policy_of(self.settings),
            selector=selector,
            template=Endpoint(engine, "http", "", ports[0]),
            external=engine == PLAIN,
            bare=True,
        )

    def _reachable(self, resource: Resource, path: str, url: Endpoint) -> Endpoint:
        guarded = self.guarded and not self.settings.kubernetes.allow_loopback
        if why := refusal(url.host, self.settings.egress.networks):
            self.flaws.append(resource.flaw(path, f"{url.host}: {why}{_REFUSED}"))
        elif guarded and is_inward(url.host):
            self.flaws.append(resource.flaw(path, f"{url.host} is the gateway's own machine: {_INWARD}"))
        if not guarded:
            return url
        return msgspec.structs.replace(url, outward=True)

    # --- credentials --------------------------------------------------------------------------------------------------

    def _common(self, resource: Resource, spec: ModelServer | ExternalModelProvider, at: Endpoint) -> Endpoint:
        headers = [
            (name.lower().encode("ascii"), value.reveal().encode("ascii")) for name, value in spec.headers.items()
        ]
        if spec.auth is not None:
            key = self._key(resource, spec.auth)
            headers.append(credential(at, key, spec.auth.scheme))
        ca_file = self.file(resource, "$.spec.caFile", spec.ca_file) if spec.ca_file else ""
        return msgspec.structs.replace(
            at, headers=tuple(headers), verify=not spec.insecure_skip_verify, ca_file=ca_file
        )

    def _key(self, resource: Resource, auth: Auth) -> str:
        if auth.secret_ref is not None:
            path, raw = "$.spec.auth.secretRef", self._secret(resource, auth)
        elif auth.key_env is not None:
            path, raw = "$.spec.auth.keyEnv", self._variable(resource, auth.key_env)
        else:
            path = "$.spec.auth.keyFile"
            raw = self._file_content(resource, path, auth.key_file or "")
        if raw is None:
            return ""
        text = raw.decode("latin-1").strip()
        if not is_key(text):
            self._miss(resource, path, "does not hold a key (printable ASCII without spaces)")
        return text

    def _variable(self, resource: Resource, name: str) -> bytes | None:
        text = self.environment.get(name)
        if not text:
            why = f"not read: {_OURS}" if self.guarded else "not set" if text is None else "empty"
            self._miss(resource, "$.spec.auth.keyEnv", f"the environment variable {name} is {why}")
            return None
        return text.encode("utf-8", "surrogateescape")

    def _secret(self, resource: Resource, auth: Auth) -> bytes | None:
        ref = auth.secret_ref
        assert ref is not None
        secret = self.secrets.get(f"{resource.metadata.namespace}/{ref.name}")
        if secret is None:
            message = f'no Secret "{ref.name}" in namespace "{resource.metadata.namespace}"'
            self._miss(resource, "$.spec.auth.secretRef.name", message)
            return None
        if ref.key not in secret:
            message = f'Secret "{ref.name}" has no key "{ref.key}"'
            self._miss(resource, "$.spec.auth.secretRef.key", message)
            return None
        return secret[ref.key]

    def _miss(self, resource: Resource, path: str, message: str) -> None:
        self.flaws.append(resource.flaw(path, message, reference=True))

    # --- files --------------------------------------------------------------------------------------------------------

    def file(self, resource: Resource, path: str, name: str) -> str:
        """The file's name as seen from the folder of the document that names it, noted for watching."""
        found = posixpath.join(resource.document.folder, name)
        self._readable(resource, path, found)
        return found

    def _file_content(self, resource: Resource, path: str, name: str) -> bytes | None:
        return self._readable(resource, path, posixpath.join(resource.document.folder, name))

    def _readable(self, resource: Resource, path: str, found: str) -> bytes | None:
        self.files.append(found)
        try:
            return self.read(found)
        except OSError as error:
            why = _OURS if self.guarded else error.strerror or error
            self._miss(resource, path, f"cannot read {found}: {why}")
        except ValueError:
            self._miss(resource, path, "not a file name")
        return None


def secret_content(secret: SecretData) -> dict[str, bytes | None]:
    """What is in a Secret, as `Secrets` has it."""
    given = {key: value.reveal().encode("utf-8", "surrogatepass") for key, value in secret.string_data.items()}
    return {**{key: secret_bytes(value.reveal()) for key, value in secret.data.items()}, **given}


def secret_bytes(text: str) -> bytes | None:
    """The bytes behind one value of a Secret's ``data``; None if it is not base64."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


def is_key(text: str) -> bool:
    """Whether it can be sent as one."""
    return _KEY.match(text) is not None


def credential(at: Endpoint, key: str, scheme: str | None = None) -> tuple[bytes, bytes]:
    """The header that carries a key there; ``scheme`` None: as the provider wants it."""
    value = key.encode("latin-1")
    if scheme == "Bearer" or (scheme is None and at.engine != "anthropic" and not at.deployments):
        return b"authorization", b"Bearer " + value
    return b"api-key" if at.deployments else b"x-api-key", value


def _query(spec: ExternalModelProvider) -> str:
    given = {name: value.reveal() for name, value in spec.query.items()}
    if spec.api_version is not None:
        given[API_VERSION] = spec.api_version
    return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in given.items())


def _with(common: Endpoint, url: Endpoint) -> Endpoint:
    return msgspec.structs.replace(url, headers=common.headers, verify=common.verify, ca_file=common.ca_file)


def _port(resource: Resource, spec: ModelServer, engine: str) -> WorkloadPort:
    """The published default is none; MatrixInfer's ModelServer could leave the port out and had one per engine."""
    if spec.workload_port is not None or resource.version != MATRIXINFER:
        return spec.workload_port or WorkloadPort(port=8000)
    return WorkloadPort(port=_DEFAULT_PORTS.get(engine, 8000))
