"""What resources check in code, once more for an API server: as CEL, and as keywords of their schemas. (P)

Invariant: every rule here, but the one about changes, is held by the struct it stands for too, so that a file and a
cluster refuse the same; what a struct refuses beyond that is told in the object's status.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.config.decode import Section
from gateway.config.resources import (
    MAX_HEADER_VALUE,
    RESERVED_HEADERS,
    Auth,
    ExternalModelProvider,
    ModelRoute,
    ModelServer,
    PDGroup,
    Rule,
    ServerEndpoint,
    StickyBy,
    StringMatch,
    TargetModel,
    WorkloadSelector,
)

Place = type[Section] | tuple[type[Section], str]
"""A struct, or a field of it by its name here."""


class Check(msgspec.Struct, frozen=True):
    """A CEL expression that has to hold of ``self``, what stands at its place, and what is said where it does not.

    ``path``: the member that is at fault, such as ".regex". An expression with ``oldSelf`` is a rule about changes.
    """

    rule: str
    message: str
    path: str = ""


# --- patterns, as RE2 reads them --------------------------------------------------------------------------------------

_NUMBER = "0*([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_PORT = f"(:({_NUMBER})?)?"
_HOST = r"([A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?|\[[0-9A-Fa-f:.]+\])"
_PATH = "(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*/*"
_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_LOOPBACK = rf"(?i:localhost|ip6-localhost|127([.]{_BYTE}){{3}}|\[::1\])"
URL = f"^(?i:https?)://{_HOST}{_PORT}{_PATH}$"
"""The base URL of an engine, as `gateway.config.url.endpoint` takes it."""
NAME = "^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Of an engine. It may be one that an adapter of somebody else's is called by, so which names there are stays open."""
_SUBDOMAIN = "[a-z0-9]([a-z0-9-]*[a-z0-9])?"
_LABEL = rf"^({_SUBDOMAIN}([.]{_SUBDOMAIN})*/)?[A-Za-z0-9]([A-Za-z0-9_.-]{{0,61}}[A-Za-z0-9])?$"
_SHORT = "^[^/]{0,253}(/|$)"
_TOKEN = "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"
_RESERVED = "|".join(sorted(RESERVED_HEADERS))


def _is(pattern: str, value: str = "self") -> str:
    return f'{value}.matches(r"{pattern}")'


# --- rules ------------------------------------------------------------------------------------------------------------

_A_LABEL = Check(f"{_is(_LABEL)} && {_is(_SHORT)}", "not the name of a label")
_LABELS = (Check(f"self.all(k, {_is(_LABEL, 'k')} && {_is(_SHORT, 'k')})", "there is a name that no label may have"),)
_HEADERS = (
    Check(f"self.all(k, {_is(_TOKEN, 'k')})", "there is a name that no header may have"),
    Check(f"self.all(k, !{_is(f'^(?i:{_RESERVED})$', 'k')})", "reserved: the gateway sets this header itself"),
    Check("self.all(k, self.exists_one(o, o.lowerAscii() == k.lowerAscii()))", "a header is given twice"),
)
_ONE_KEY = "[has(self.secretRef), has(self.keyFile), has(self.keyEnv)].exists_one(given, given)"
_ONE_CALLER = "[has(self.header), has(self.cookie), has(self.user)].exists_one(given, given)"

RULES: Mapping[Place, tuple[Check, ...]] = {
    ModelRoute: (
        Check(
            "(has(self.modelName) && self.modelName != '') || (has(self.loraAdapters) && size(self.loraAdapters) > 0)",
            "modelName or loraAdapters is needed",
        ),
        Check(
            "!has(oldSelf.modelName) || oldSelf.modelName == ''"
            " || (has(self.modelName) && self.modelName == oldSelf.modelName)",
            "modelName cannot be changed",
            ".modelName",
        ),
        Check(
            "!has(self.loraAdapters) || size(self.loraAdapters) == 0"
            " || self.rules.all(rule, rule.targetModels.all(target, !has(target.externalModelProviderName)))",
            "a route with loraAdapters cannot lead to an external provider",
            ".rules",
        ),
    ),
    Rule: (
        Check(
            "self.targetModels.exists(target, !has(target.weight) || target.weight > 0)",
            "the weights add up to 0: nothing would be sent anywhere",
            ".targetModels",
        ),
    ),
    TargetModel: (
        Check(
            "has(self.modelServerName) != has(self.externalModelProviderName)",
            "exactly one of modelServerName and externalModelProviderName is needed",
        ),
    ),
    # true either way, unless there is an error: "||" would forgive that
    (StringMatch, "regex"): (Check("''.matches(self) ? true : true", "not a regular expression of RE2"),),
    StickyBy: (Check(_ONE_CALLER, "exactly one of header, cookie and user is needed"),),
    (WorkloadSelector, "match_labels"): _LABELS,
    (PDGroup, "group_key"): (_A_LABEL,),
    (PDGroup, "prefill_labels"): _LABELS,
    (PDGroup, "decode_labels"): _LABELS,
    Auth: (Check(_ONE_KEY, "exactly one of secretRef, keyFile and keyEnv is needed"),),
    (Auth, "key_env"): (Check(_is("^[A-Za-z_][A-Za-z0-9_]*$"), "not the name of an environment variable"),),
    (ModelServer, "headers"): _HEADERS,
    (ExternalModelProvider, "headers"): _HEADERS,
    (ExternalModelProvider, "base_url"): (
        Check(f"!{_is('^[^/]*//[^/?#]*@')}", "no credentials in a URL, please: they would show in logs"),
        Check(f"!{_is('[?#]')}", "neither query nor fragment may follow a base URL"),
        Check(
            f"{_is('^(?i:https)://')} || {_is(f'^(?i:http)://{_LOOPBACK}([:/]|$)')}",
            "https is needed: a key would cross the network in the clear",
        ),
        Check(_is(URL), 'expected a URL such as "https://host"'),
    ),
    ExternalModelProvider: (
        Check(
            f"!has(self.apiVersion) || {_is('^(?i:openai)$', 'self.providerType')}",
            "only models of OpenAI's are deployed like that: it needs providerType OpenAI",
            ".apiVersion",
        ),
        Check(
            "!has(self.apiVersion) || !has(self.query) || !('api-version' in self.query)",
            "api-version is given as apiVersion already",
            ".query",
        ),
    ),
}
"""What an API server estimates these to cost, in its units: 10,000,000 are allowed for one rule, 100,000,000 for all.

The size of a string is its maxLength times 4, that of a map's names 0; reading it costs a tenth of it, matching that
times a quarter of the pattern's length; everything is multiplied by how often it may stand in an object. The dearest is
``regex`` in headers (16 rules, 32 headers, patterns of 4,096 bytes: 525,000), then baseURL (45,000).
"""

_HEADER_VALUE = {"maxLength": MAX_HEADER_VALUE, "pattern": r"^[!-~]([\t -~]*[!-~])?$"}
SHAPES: Mapping[Place, Mapping[str, Any]] = {
    # as published: what stands in a cluster has all its weights, where a file has to give all or none
    (TargetModel, "weight"): {"default": 100},
    # not as CEL, for which members whose type is open are not there
    ModelServer: {"anyOf": [{"required": ["workloadSelector"]}, {"required": ["endpoints"]}]},
    (ModelServer, "inference_engine"): {"pattern": NAME},
    (ModelServer, "endpoints"): {"items": {"pattern": URL}},
    (ModelServer, "headers"): {"additionalProperties": _HEADER_VALUE},
    (ServerEndpoint, "url"): {"pattern": URL},
    (ExternalModelProvider, "provider_type"): {"pattern": NAME},
    (ExternalModelProvider, "headers"): {"additionalProperties": _HEADER_VALUE},
}
"""Further keywords of schemas."""
