"""What the official client knows of a cluster, as plain values: a program of its own, run by `access`. (IO)

The client costs 22 MiB and a second to import, its plugins block, and it writes keys into files: all of that ends with
this process. A question is a JSON object on stdin, the answer one on stdout.

Invariant: no token, key, content of a file or output of a plugin is in the error of an answer.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

Answer = dict[str, Any]
_SAID: Final = (
    # the client's messages as far as they hold names only: it puts whole users, tokens included, into some
    r"exec: process returned -?\d+",
    r"exec: malformed re(?:quest|sponse)\. missing key '\w+'",
    r"exec: failed to decode process output",
    r"exec: plugin api version",
    r"exec: missing \w+(?: or \w+)? +field",
    r"File does not exist: .*",
    r"\[Errno \d+\] [\w ]+: '[^']*'",
    r"Service (?:host/port|token file|certification file) [\w ]+",
    r"(?:Token|Cert) file exists but empty",
    r"Expected (?:key \S+|object with name \S+)",
    r"Expected only one object with name \S+",
)
_SECTION: Final = re.compile(r"/(clusters|contexts|users)(?: list)?$")
_IMPERSONATION: Final = ("as", "as-uid", "as-groups", "as-user-extra")


class Unusable(Exception):
    """Why there are no credentials; what can be told to anybody."""


def _client(module: str) -> Any:
    return importlib.import_module(f"kubernetes.{module}")


def in_cluster(folder: str) -> Answer:
    """The service account in ``folder``; its files are named, since they are rotated."""
    client, config = _client("client"), _client("config.incluster_config")
    configuration = client.Configuration()
    token, authorities = f"{folder}/token", f"{folder}/ca.crt"
    config.InClusterConfigLoader(token, authorities).load_and_set(configuration)
    return {"server": configuration.host, "token_file": token, "authorities_file": authorities}


def from_kubeconfig(names: str, context: str, folder: str) -> Answer:
    """The user and the cluster of a context. ``folder``: where the client may put keys."""
    client, config = _client("client"), _client("config.kube_config")
    merger = config.KubeConfigMerger(names)
    if merger.config is None:
        raise Unusable("there is no such file; name one by --kubeconfig, or run in a pod with a service account")
    persist = merger.save_changes if all(os.access(path, os.W_OK) for path in merger.paths) else None
    loader = config.KubeConfigLoader(
        merger.config, context or None, config_base_path=None, config_persister=persist, temp_file_path=folder
    )
    configuration = client.Configuration()
    configuration.host = ""
    user = _user(loader)
    loader.load_and_set(configuration)
    keys = configuration.api_key
    token = keys.get("BearerToken") or keys.get("authorization") or ""  # since version 36, before it
    if not token and not configuration.cert_file and ("exec" in user or "auth-provider" in user):
        raise Unusable("its plugin gave neither token nor certificate")
    if not configuration.host:
        raise Unusable("its cluster names no server")
    expiry = getattr(loader, "expiry", None)
    return {
        "server": configuration.host,
        "namespace": loader.current_context["context"].get("namespace") or "",
        "authorization": token,
        "expires": expiry.timestamp() if expiry is not None else None,
        "tls": _tls(configuration, dict(loader._cluster.value)),
        "files": [*merger.paths, *_files(configuration, user, folder)],
    }


def _user(loader: Any) -> dict[str, Any]:
    """As the file has it."""
    name = loader.current_context["context"].get("user")
    found = loader._user
    if found is None:
        if name:
            raise Unusable(f'its user "{name}" is not in the file')
        return {}
    if any(key in found for key in _IMPERSONATION):
        raise Unusable("its user impersonates another (as, as-groups), which is not supported")
    return dict(found.value, path=found.path)


def _tls(configuration: Any, cluster: dict[str, Any]) -> dict[str, Any]:
    name = cluster.get("tls-server-name") or ""
    proxy = cluster.get("proxy-url") or _proxy(configuration.host)  # version 35 passes it over
    if proxy and urlsplit(proxy).scheme not in ("http", "https"):
        raise Unusable(f"proxies of {urlsplit(proxy).scheme}:// (proxy-url) are not supported, only http and https")
    if proxy and name:
        raise Unusable("tls-server-name is not supported together with a proxy (proxy-url)")
    if not configuration.host.startswith("https"):
        return {"proxy": proxy}
    return {
        "authorities": _text(configuration.ssl_ca_cert) if configuration.verify_ssl else "",
        "certificate": _text(configuration.cert_file),
        "key": _text(configuration.key_file),
        "insecure": not configuration.verify_ssl,
        "server_name": name,
        "proxy": proxy,
    }


def _text(name: str | None) -> str:
    """PEM; what stands around it need not be ASCII."""
    return Path(name).read_bytes().decode("ascii", "ignore") if name else ""


def _proxy(server: str) -> str:
    """From the environment."""
    address = urlsplit(server)
    if urllib.request.proxy_bypass(address.hostname or ""):
        return ""
    return urllib.request.getproxies_environment().get(address.scheme, "")


def _files(configuration: Any, user: dict[str, Any], folder: str) -> list[str]:
    """Those that may be rotated."""
    names = [configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file]
    if token := user.get("tokenFile"):
        names.append(os.path.join(os.path.dirname(os.path.abspath(user["path"] or "")), token))
    return [name for name in names if name and not name.startswith(folder)]


class _Heard(logging.Handler):
    """The client tells of plugins that fail in the log only."""

    def __init__(self) -> None:
        super().__init__()
        self.words = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.words = harmless(record.getMessage()) or self.words


def harmless(message: str) -> str:
    """As much of the client's message as may be told; "" where that is nothing."""
    found = next(filter(None, (re.search(pattern, message) for pattern in _SAID)), None)
    if found is None:
        return ""
    section = _SECTION.search(message)
    return found[0] + (f" in {section[1]}" if section else "")


def answer(question: dict[str, str]) -> Answer:
    """What was found, or {"error": why not}."""
    heard = _Heard()
    logging.basicConfig(handlers=[heard], level=logging.WARNING, force=True)
    # memory, where there is such a folder: keys stay off disks, and a root filesystem may be read-only
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    try:
        if account := question.get("account"):
            return in_cluster(account)
        with tempfile.TemporaryDirectory(dir=memory) as folder:
            return from_kubeconfig(question["kubeconfig"], question.get("context", ""), folder)
    except Unusable as error:
        return {"error": f"{error}: {heard.words}" if heard.words else str(error)}
    except Exception as error:  # noqa: BLE001 — whatever the client and its plugins do wrong, in words without secrets
        return {"error": _words(error)}


def _words(error: Exception) -> str:
    if isinstance(error, ImportError):
        return f"the official client cannot be imported, there is no {error.name}"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"line {mark.line + 1} is not YAML"
    return harmless(str(error)) or f"it cannot be used ({type(error).__name__})"


if __name__ == "__main__":
    print(json.dumps(answer(json.load(sys.stdin))))  # noqa: T201 — its answer
