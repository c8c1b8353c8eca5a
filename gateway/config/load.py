"""Documents → `Snapshot`, or every reason why not. (P)

Invariant: `load` either returns a snapshot whose references all resolve or raises ConfigError; nothing in between,
whatever the documents hold.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import msgspec

from gateway.config import egress
from gateway.config.access import Auth, with_keys
from gateway.config.decode import INVALID, Decoder, suggestion
from gateway.config.document import ConfigError, Document, Tree, parse
from gateway.config.envelope import ConfigMapData, Resource, SecretData, content_of, read
from gateway.config.extension import ALPHA, beside, objective, rewrite
from gateway.config.fleet import Fleet, Read, secret_bytes, secret_content
from gateway.config.inert import inert
from gateway.config.picker import EndpointPickerConfig
from gateway.config.rates import Reach, route_limits, shared_state
from gateway.config.routing import route_of, unreached
from gateway.config.scheduler import Scheduler
from gateway.config.settings import Settings
from gateway.config.snapshot import PoolSpec, Snapshot, Vocabulary
from gateway.route import Route, RouteTable
from gateway.schedule.build import build
from gateway.schedule.parts import Parts, Settled

CONFIG_KEYS = ("gatewayConfiguration", "schedulerConfiguration", "routerConfiguration")
"""Members of a ConfigMap that hold a GatewayConfiguration, by product generation."""

_FILE_MEMBERS = frozenset(
    (
        "apiKeysFile", "caFile", "certFile", "clientCAFile", "clientSecretFile", "headersFile", "keyFile",
        "passwordFile", "tokenFile",
    )
)  # fmt: skip
_FILES = re.compile(r"\$\.(?:tokenizers\[\d+\]|usage|accessLog)\.file")
_UNREAD = frozenset(("$.usage.file", "$.accessLog.file", "$.listeners.admin.tokenFile"))
"""Those that are written, and one that may come later: without it nobody is let in, and everybody else is served."""


NO_VARIABLES: Mapping[str, str] = MappingProxyType({})


def no_files(name: str) -> bytes:
    """For `load` where documents may name no files."""
    raise FileNotFoundError(2, "No such file or directory", name)


def no_vocabularies(content: bytes) -> Vocabulary:
    """For `load` where nobody counts tokens."""
    raise ValueError("tokens are not counted here")


def load(
    documents: Iterable[Document],
    read_file: Read = no_files,
    *,
    kubernetes: bool = False,
    vocabulary: Callable[[bytes], Vocabulary] = no_vocabularies,
    environment: Mapping[str, str] = NO_VARIABLES,
) -> Snapshot:
    """The configuration that ``documents`` make together. Raises ConfigError with all problems found.

    ``kubernetes`` says that selectors will be evaluated by someone, so that they deserve no warning. ``vocabulary``
    makes one of a tokenizer file's content, or raises ValueError. ``environment``: variables that keys may be in.
    """
    loading = _Loading(read_file, vocabulary, environment, kubernetes=kubernetes)
    for document in documents:
        loading.add(document)
    return loading.finish()


class _Loading:
    """Resources met so far, and what is wrong with them."""

    def __init__(
        self,
        read_file: Read,
        vocabulary: Callable[[bytes], Vocabulary],
        environment: Mapping[str, str],
        *,
        kubernetes: bool,
    ) -> None:
        self.read_file = read_file
        self.environment = environment
        self.vocabulary = vocabulary
        self.kubernetes = kubernetes
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.inert: list[str] = []
        self.resources: dict[tuple[str, str], Resource] = {}
        self.broken: set[tuple[str, str]] = set()
        self.sections: dict[str, str] = {}
        self.files: list[str] = []
        self.settings = Settings()
        self.unsettled = False

    def of_kind(self, kind: str) -> list[Resource]:
        return [resource for resource in self.resources.values() if resource.kind == kind]

    # --- documents ----------------------------------------------------------------------------------------------------

    def add(self, document: Document) -> None:
        resource = read(document, self.problems, self.warnings)
        if resource is None:
            self._note_broken(document.tree)
            return
        if resource.kind == "GatewayConfiguration":
            self._settings(resource, content_of(document.tree), resource.where)
            return
        if resource.kind == "EndpointPickerConfig":
            self._picker(resource)
            return
        legacy = resource.version == ALPHA and resource.kind != "InferencePool"  # may stand beside one of today
        key = (f"{resource.kind} of {ALPHA}" if legacy else resource.kind, resource.name)
        first = self.resources.setdefault(key, resource)
        if first is not resource:
            self.problems.append(resource.problem("$.metadata.name", f"also defined in {first.document.place}"))
        self.inert.extend(f"{resource.where}: {path}" for path in inert(resource.kind, document.tree))
        if resource.kind == "ConfigMap":
            self._config_map(resource)
        elif resource.kind == "Secret":
            self._secret(resource)

    def _note_broken(self, tree: Tree) -> None:
        """Remember that a resource was meant, so that references to it are not reported as well."""
        metadata = tree.get("metadata") if isinstance(tree, dict) else None
        if isinstance(metadata, dict):
            name = f"{metadata.get('namespace') or 'default'}/{metadata.get('name')}"
            self.broken.add((str(tree.get("kind")), name))
        if isinstance(tree, dict) and tree.get("kind") in ("GatewayConfiguration", "EndpointPickerConfig"):
            self.unsettled = True

    def _config_map(self, resource: Resource) -> None:
        content: ConfigMapData = resource.content
        found = [key for key in content.data if key.removesuffix(".yaml") in CONFIG_KEYS]
        if not found:
            self.warnings.append(f"{resource.where}: ignored: none of {', '.join(CONFIG_KEYS)} in its data")
        for key in found:
            where = f"{resource.where}, data.{key}"
            try:
                inner = parse(where, content.data[key].encode("utf-8", "surrogatepass"))
            except ConfigError as error:
                self.problems.extend(error.problems)
                continue
            for document in inner:
                if isinstance(document.tree, dict):
                    self._settings(resource, _sectioned(key, content_of(document.tree)), where)
                else:
                    self.problems.append(f"{where}: $: expected an object")

    def _secret(self, resource: Resource) -> None:
        content: SecretData = resource.content
        for key, value in content.data.items():
            if secret_bytes(value.reveal()) is None:
                self.problems.append(resource.problem(f"$.data.{key}", "not base64"))

    # --- settings -----------------------------------------------------------------------------------------------------

    def _settings(self, resource: Resource, tree: dict[str, Tree], where: str) -> None:
        """Take the sections given here. Several documents may share the work, one section each."""
        decoder = Decoder()
        found: dict[str, str] = {}
        located = _located(tree, resource.document.folder, "$", found)
        made = decoder.build(located, Settings)
        self.problems.extend(f"{where}: {problem}" for problem in decoder.problems)
        if made is INVALID:
            self.unsettled = True
            return
        self.inert.extend(f"{where}: {path}" for path in inert("GatewayConfiguration", tree))
        fields = {field.encode_name: field.name for field in msgspec.structs.fields(Settings)}
        given = {fields[key]: getattr(made, fields[key]) for key, value in tree.items() if value is not None}
        for key, value in tree.items():
            first = self.sections.setdefault(key, where) if value is not None else where
            if first != where:
                self.problems.append(f"{where}: $.{key}: also given in {first}")
        self.settings = msgspec.structs.replace(self.settings, **given)
        if "scheduler" in given:
            self._note_idle(made.scheduler, where)
        for path, name in found.items():
            self._check_file(where, path, name)
        if "auth" in given:
            self._complete(made.auth, where)

    def _complete(self, auth: Auth, where: str) -> None:
        """Keys from a file become part of the section; files with key sets are watched as others are."""
        self.warnings.extend(f"{where}: $.auth{warning}" for warning in auth.warnings())
        for path, name in auth.key_sets():
            self._check_file(where, f"$.auth{path}", name)
        if auth.api_keys_file:
            try:
                auth = with_keys(auth, auth.api_keys_file, self.read_file(auth.api_keys_file))
            except ConfigError as error:
                self.problems.extend(error.problems)
            except (OSError, ValueError):
                return  # told already
            self.settings = msgspec.structs.replace(self.settings, auth=auth)

    def _try_profiles(self) -> None:
        """A plugin that cannot be built is found now, not while a configuration is put in force."""
        where = self.sections.get("scheduler")
        for path, profile in self.settings.scheduler.parts() if where is not None else ():
            try:
                build(profile, Parts(Settled()))
            except ValueError as error:
                self.problems.append(f"{where}: $.scheduler{path}: {error}")

    def _vocabularies(self) -> tuple[tuple[str, Vocabulary], ...]:
        where = self.sections.get("tokenizers")
        made = []
        for index, tokenizer in enumerate(self.settings.tokenizers):
            try:
                content = self.read_file(tokenizer.file)
            except (OSError, ValueError):
                continue  # told already
            try:
                made.append((tokenizer.model, self.vocabulary(content)))
            except ValueError as error:
                self.problems.append(f"{where}: $.tokenizers[{index}].file: {tokenizer.file}: {error}")
        return tuple(made)

    def _note_idle(self, scheduler: Scheduler, where: str) -> None:
        for path, profile in scheduler.parts():
            for unused in profile.unused():
                self.warnings.append(
                    f"{where}: $.scheduler{path}{unused}: the plugin is enabled nowhere in this profile"
                )

    def _picker(self, resource: Resource) -> None:
        content: EndpointPickerConfig = resource.content
        first = self.sections.setdefault("scheduler", resource.where)
        if first != resource.where:
            self.problems.append(resource.problem("$", f"this is the scheduler section, also given in {first}"))
            return
        self.settings = msgspec.structs.replace(self.settings, scheduler=content.scheduler())
        self.inert.extend(f"{resource.where}: {path}" for path in content.inert())

    def _check_file(self, where: str, path: str, name: str) -> None:
        self.files.append(name)
        try:
            self.read_file(name)
        except OSError as error:
            self.problems.append(f"{where}: {path}: cannot read {name}: {error.strerror or error}")
        except ValueError:
            self.problems.append(f"{where}: {path}: not a file name")

    # --- the whole ----------------------------------------------------------------------------------------------------

    def finish(self) -> Snapshot:
        secrets = {secret.name: secret_content(secret.content) for secret in self.of_kind("Secret")}
        fleet = Fleet(self.settings, secrets, self.read_file, self.environment, unsettled=self.unsettled)
        pools = self._pools(fleet)
        self._check_egress()
        routes = [self._route(resource, pools) for resource in self.of_kind("ModelRoute")]
        state = shared_state(
            self.settings.state, self.of_kind("ModelRoute"), self.problems, self.warnings, self._reach()
        )
        self.settings = msgspec.structs.replace(self.settings, state=state)
        limits = tuple(route_limits(self.of_kind("ModelRoute"), self.warnings))
        of_pools = self._beside(pools)
        self._check_ext_proc(pools)
        self._try_profiles()
        vocabularies = self._vocabularies()
        problems = [*self.problems, *(flaw.line for flaw in fleet.flaws)]
        if problems:
            raise ConfigError(problems, self.warnings, self.inert)
        self._warn_unused(pools, routes)
        self._warn_loops(pools)
        self._warn_unseen()
        return Snapshot(
            settings=self.settings,
            routes=RouteTable(routes),
            pools=tuple(pools.values()),
            route_limits=limits,
            inert=tuple(self.inert),
            warnings=tuple(self.warnings),
            files=tuple(dict.fromkeys((*self.files, *fleet.files))),
            vocabularies=vocabularies,
            objectives=tuple(
                objective(each.name, each.version, each.content, of_pools[each.where])
                for each in self.of_kind("InferenceObjective")
            ),
            rewrites=tuple(
                rewrite(each.name, each.version, each.content, each.age, of_pools[each.where])
                for each in self.of_kind("InferenceModelRewrite")
            ),
        )

    def _beside(self, pools: dict[tuple[str, str], PoolSpec]) -> dict[str, str]:
        """What the pools are called that objectives and rewrites are for, by where these stand."""
        found = {}
        for resource in (*self.of_kind("InferenceObjective"), *self.of_kind("InferenceModelRewrite")):
            name = beside(resource.name, resource.content.pool_ref)
            pool = pools.get(("InferencePool", name))
            found[resource.where] = name if pool is None else pool.name
            if pool is None and not self.kubernetes and ("InferencePool", name) not in self.broken:
                namespace, _, wanted = name.partition("/")
                message = f'no InferencePool "{wanted}" in namespace "{namespace}"'
                self.problems.append(resource.problem("$.spec.poolRef.name", message))
        return found

    def _pools(self, fleet: Fleet) -> dict[tuple[str, str], PoolSpec]:
        """(kind, "namespace/name") → pool. Pools of two kinds with one name get told apart by the kind."""
        pools: dict[tuple[str, str], PoolSpec] = {}
        taken: set[str] = set()
        for kind, pool_of in (
            ("ModelServer", fleet.server),
            ("ExternalModelProvider", fleet.provider),
            ("InferencePool", fleet.inference_pool),
        ):
            for resource in self.of_kind(kind):
                pool = pool_of(resource)
                if pool.name in taken:
                    pool = msgspec.structs.replace(pool, name=f"{pool.name}.{kind.lower()}")
                taken.add(pool.name)
                pools[kind, resource.name] = pool
                if pool.selector is not None and not self.kubernetes:
                    self.warnings.append(
                        f"{resource.where}: without Kubernetes its selector matches nothing: no members"
                    )
        return pools

    def _check_ext_proc(self, pools: dict[tuple[str, str], PoolSpec]) -> None:
        listener = self.settings.listeners.ext_proc
        if listener is None or listener.pool is None:
            return
        name = listener.pool if "/" in listener.pool else f"default/{listener.pool}"
        if not self.kubernetes and not any(pool.name == name for pool in pools.values()):
            known = suggestion(name, [pool.name for pool in pools.values()])
            where = self.sections["listeners"]
            self.problems.append(f'{where}: $.listeners.extProc.pool: no pool "{name}"{known}')

    def _reach(self) -> Reach:
        return Reach(allowed=self.settings.egress.networks)

    def _check_egress(self) -> None:
        for section, path, why in egress.refused(self.settings):
            self.problems.append(f"{self.sections[section]}: {path}: {why}")

    def _warn_loops(self, pools: dict[tuple[str, str], PoolSpec]) -> None:
        """Only where the file says where the gateway listens: a command line may say otherwise."""
        if "listeners" not in self.sections:
            return
        listening = self.settings.listeners.listening
        for (kind, name), pool in pools.items():
            self.warnings.extend(egress.told(self.resources[kind, name].where, pool.endpoints, listening))

    def _warn_unseen(self) -> None:
        settings = self.settings
        trusted, listeners = settings.auth.trusted_proxies, settings.listeners
        asked = listeners.http.client_ca_file or listeners.grpc.client_ca_file
        if trusted is not None and trusted.subjects and asked is None:
            self.warnings.append(
                f"{self.sections['auth']}: $.auth.trustedProxies.subjects: nobody is asked for a certificate "
                "without listeners.http.clientCAFile or listeners.grpc.clientCAFile"
            )

    def _warn_unused(self, pools: dict[tuple[str, str], PoolSpec], routes: list[Route]) -> None:
        used = {share.pool for route in routes for rule in route.rules for share in rule.shares}
        for (kind, name), pool in pools.items():
            if pool.name not in used and kind != "InferencePool":
                self.warnings.append(f"{self.resources[kind, name].where}: no ModelRoute leads here")

    # --- routes -------------------------------------------------------------------------------------------------------

    def _route(self, resource: Resource, pools: dict[tuple[str, str], PoolSpec]) -> Route:
        def absent(kind: str, namespace: str, name: str) -> str:
            if (kind, f"{namespace}/{name}") in self.broken:
                return ""
            near = [other.partition("/")[2] for of, other in pools if of == kind and other.startswith(f"{namespace}/")]
            return f'no {kind} "{name}" in namespace "{namespace}"{suggestion(name, near)}'

        self.warnings.extend(flaw.line for flaw in unreached(resource))
        route, missing = route_of(resource, lambda kind, name: pools.get((kind, name)), absent)
        self.problems.extend(flaw.line for flaw in missing)
        return route


def _sectioned(key: str, tree: dict[str, Tree]) -> dict[str, Tree]:
    """``tree`` with a scheduler section that was written without its head, as in a ``schedulerConfiguration``."""
    bare = {name: tree[name] for name in ("pluginConfig", "plugins") if name in tree}
    if not bare or "scheduler" in tree or key.removesuffix(".yaml") != "schedulerConfiguration":
        return tree
    return {"scheduler": bare, **{name: value for name, value in tree.items() if name not in bare}}


def _located(tree: Tree, folder: str, path: str, found: dict[str, str]) -> Tree:
    """``tree`` with file names as seen from here; ``found`` gathers those to be read by path."""
    if isinstance(tree, list):
        return [_located(item, folder, f"{path}[{index}]", found) for index, item in enumerate(tree)]
    if not isinstance(tree, dict):
        return tree
    made = {}
    for key, value in tree.items():
        here = f"{path}.{key}"
        if isinstance(value, str) and value and (key in _FILE_MEMBERS or _FILES.fullmatch(here)):
            made[key] = posixpath.join(folder, value)
            if here not in _UNREAD:
                found[here] = made[key]
        else:
            made[key] = _located(value, folder, here, found)
    return made
