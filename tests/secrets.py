"""What no program may say: the secrets that tests give to it, and whatever looks like one. (IO)

`Program.close` (`tests.process`) has everything scanned that a program has written: stderr, stdout, access lines and
usage events, and on the way out its metrics and its configuration as the admin plane shows it.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import http.client
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

SHORTEST: Final = 6
"""What is shorter stands in other words by chance."""
PATTERNS: Final = (
    re.compile(r"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{2,}"),
    re.compile(r"\b(?:Bearer|Basic) +(?!\*\*\*)[A-Za-z0-9._~+/=-]{6,}"),
    re.compile(r"\beyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{4,}"),
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    re.compile(r"://[^\s/@:\"'*]*:(?!\*\*\*)[^\s/@\"']+@"),
)
_HELD: Final = frozenset(("keyFile", "tokenFile", "clientSecretFile", "passwordFile", "headersFile", "apiKeysFile"))
_VARIABLE: Final = re.compile(r"API_KEY|TOKEN|SECRET|PASSWORD|OTLP_HEADERS|ENGINE_KEY")
_PASSWORD: Final = re.compile(r"://[^\s/@:]*:([^\s/@]+)@")
_DIGEST: Final = re.compile(r"\b[0-9a-f]{64}\b")
_PAGES: Final = ("/metrics", "/api/config")
_known: set[str] = set()


def secret(text: str) -> str:
    """``text``, which no program may say from now on."""
    assert len(text) >= SHORTEST, "too short to be told from other words"
    _known.add(text)
    return text


def found(text: str, secrets: Iterable[str] = ()) -> list[str]:
    """What of ``text`` is a secret, each with what stands around it."""
    places = [match.start() for pattern in PATTERNS for match in pattern.finditer(text)]
    places += [text.index(each) for each in {*_known, *secrets} if each in text]
    return [text[max(0, place - 120) : place + 80] for place in sorted(places)]


def given(arguments: Iterable[str], environment: Mapping[str, str]) -> set[str]:
    """Secrets in the configuration that the arguments name, in files that this names, and in variables."""
    here = {value for name, value in environment.items() if _VARIABLE.search(name)}
    for folder, document in _documents(arguments):
        here.update(_of(document, folder))
    values = {part.strip() for value in here for part in (value, value.partition("=")[2])}
    return {value for value in values if len(value) >= SHORTEST}


def written(arguments: Iterable[str]) -> Iterator[str]:
    """What stands in the files into which the configuration has the program write."""
    for folder, document in _documents(arguments):
        for section in ("usage", "accessLog"):
            named = document.get(section)
            name = named.get("file") if isinstance(named, dict) else None
            if isinstance(name, str) and name:
                yield _content(folder / name)


def told(admin: str) -> Iterator[str]:
    """What the admin plane tells, as far as it answers who has no token."""
    for page in _PAGES:
        connection = http.client.HTTPConnection(admin, timeout=1)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", page)
            yield connection.getresponse().read().decode(errors="replace")
        connection.close()


def _documents(arguments: Iterable[str]) -> Iterator[tuple[Path, dict[str, Any]]]:
    words = tuple(arguments)
    for flag, name in itertools.pairwise(words):
        if flag not in ("-c", "--config"):
            continue
        path = Path(name)
        files = sorted(path.glob("*.y*ml")) + sorted(path.glob("*.json")) if os.path.isdir(name) else [path]
        for file in files:
            with contextlib.suppress(yaml.YAMLError, ValueError, RecursionError):
                for document in yaml.load_all(_content(file), getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
                    if isinstance(document, dict):
                        yield file.parent, document


def _of(document: dict[str, Any], folder: Path) -> Iterator[str]:
    if document.get("kind") == "Secret":
        yield from map(str, _dict(document.get("stringData")).values())
        for value in _dict(document.get("data")).values():
            with contextlib.suppress(binascii.Error, ValueError):
                yield base64.b64decode(str(value)).decode(errors="replace")
    if document.get("kind") in ("ModelServer", "ExternalModelProvider"):
        spec = _dict(document.get("spec"))
        for member in ("headers", "query"):
            yield from map(str, _dict(spec.get(member)).values())
    for name, value in _leaves(document):
        if name in _HELD:
            content = _content(folder / value)
            yield from content.splitlines() if name != "apiKeysFile" else _DIGEST.findall(content)
        elif name == "keySha256":
            yield value
        yield from _PASSWORD.findall(value)


def _leaves(tree: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, str(key))
    elif isinstance(tree, list):
        for value in tree:
            yield from _leaves(value, name)
    elif isinstance(tree, str):
        yield name, tree


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _content(file: Path) -> str:
    """ "" where there is none, or one that would never end: a pipe, a device, a log of a long run."""
    try:
        if not file.is_file() or file.stat().st_size > 1 << 24:
            return ""
        return file.read_text(errors="replace")
    except (OSError, ValueError):
        return ""
