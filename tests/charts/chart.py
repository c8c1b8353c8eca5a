"""The chart as Helm renders it. (IO)

`render(Case(…))` gives the objects, once for each case; where Helm cannot be had the test is skipped.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from tests.process import ROOT
from tools import helm

CHART = ROOT / "charts" / "infer-gateway"
Tree = dict[str, Any]
try:
    _LOADER: Any = yaml.CSafeLoader
except AttributeError:
    _LOADER = yaml.SafeLoader


class Case(msgspec.Struct, frozen=True):
    """One way of installing it. ``values`` as JSON, over those of the file ``example``."""

    values: str = "{}"
    example: str = ""
    release: str = "r"
    namespace: str = "models"


def case(values: Tree | None = None, **more: str) -> Case:
    return Case(json.dumps(values or {}), **more)


def example(name: str) -> Case:
    return Case(example=name)


@functools.cache
def program() -> str:
    try:
        return str(helm.fetch())
    except OSError as error:
        return f"!{error}"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Helm, to its end."""
    path = program()
    if path.startswith("!"):
        pytest.skip(path[1:])
    with tempfile.TemporaryDirectory() as home:
        environment = {"HOME": home, "PATH": "/usr/bin:/bin"}
        return subprocess.run([path, *arguments], capture_output=True, text=True, timeout=60, env=environment)


def asked(case: Case, *more: str, verb: str = "template") -> subprocess.CompletedProcess[str]:
    """What Helm says to a case."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as given:
        given.write(case.values)
        given.flush()
        files = ["-f", str(CHART / "examples" / f"{case.example}.yaml")] if case.example else []
        names = [] if verb == "lint" else [case.release]
        return run(verb, *names, str(CHART), "-n", case.namespace, *files, "-f", given.name, *more)


@functools.cache
def render(case: Case, kube_version: str = "1.34.0") -> tuple[Tree, ...]:
    """The objects, in Helm's order."""
    done = asked(case, "--kube-version", kube_version)
    assert done.returncode == 0, done.stderr
    return tuple(tree for text in re.split(r"^---$", done.stdout, flags=re.MULTILINE) if (tree := parsed(text)))


@functools.cache
def parsed(text: str) -> Tree | None:
    """One document. The longest are the same in every case."""
    tree: Tree | None = yaml.load(text, _LOADER)
    return tree


def refusal(case: Case) -> str:
    """Why Helm does not render it."""
    done = asked(case)
    assert done.returncode, "it was rendered"
    return done.stderr


def of_kind(case: Case, *kinds: str) -> list[Tree]:
    return [tree for tree in render(case) if tree["kind"] in kinds]


def only(case: Case, kind: str, suffix: str = "") -> Tree:
    """The one object of that kind whose name ends so."""
    (found,) = [tree for tree in of_kind(case, kind) if tree["metadata"]["name"].endswith(suffix)]
    return found


def pod(case: Case) -> Tree:
    """The gateway's pod template."""
    found: Tree = only(case, "Deployment")["spec"]["template"]
    return found


def container(case: Case) -> Tree:
    found: Tree = pod(case)["spec"]["containers"][0]
    return found


def examples() -> list[Path]:
    return sorted((CHART / "examples").glob("*.yaml"))
