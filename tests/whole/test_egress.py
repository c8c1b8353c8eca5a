"""Metadata addresses, as a running gateway meets them: written, and behind a name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.process import ANY_PORT, Program, eventually, run
from tests.whole.fleet import settings

NAME = "rebound.test"
REFUSED = "its address is one that egress.allow does not name"
NET = f"""
import socket, sys

resolve, connect = socket.getaddrinfo, socket.socket.connect_ex

def resolved(host, port, *options, **more):
    if host in ({NAME!r}, {NAME.encode()!r}):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", port))]
    return resolve(host, port, *options, **more)

def connected(self, address):
    sys.audit("socket.connect", self, address)
    if str(address[0]).startswith("169.254."):
        raise OSError(111, "as far as the net")  # nothing leaves the machine, whatever the gateway does
    return connect(self, address)

socket.getaddrinfo, socket.socket.connect_ex = resolved, connected
"""
"""Read by Python as it starts: one name more, and a net behind the guard."""


def config(folder: Path, **sections: Any) -> Path:
    spec = {"model": "m", "inferenceEngine": "vLLM", "endpoints": [f"http://{NAME}:8000"]}
    server = {
        "apiVersion": "networking.serving.volcano.sh/v1alpha1",
        "kind": "ModelServer",
        "metadata": {"name": "a"},
        "spec": spec,
    }
    file = folder / "g.yaml"
    file.write_text(f"{settings(**sections)}\n---\n{json.dumps(server)}\n")
    return file


def said(folder: Path, *words: str, **sections: Any) -> str:
    """What the gateway logs once it has said one of ``words``."""
    (folder / "sitecustomize.py").write_text(NET)
    arguments = ("-m", "gateway.cli", "serve", *ANY_PORT, "-c", str(config(folder, **sections)))
    with Program(*arguments, environment={"PYTHONPATH": str(folder)}) as gateway:
        assert eventually(lambda: any(word in gateway.stderr for word in words)), gateway.stderr
        return gateway.stderr


def test_a_name_that_leads_to_a_metadata_address(tmp_path: Path) -> None:
    assert REFUSED in said(tmp_path, REFUSED, "connection refused")


def test_a_network_that_is_meant(tmp_path: Path) -> None:
    told = said(tmp_path, REFUSED, "connection refused", egress={"allow": ["169.254.169.254/32"]})
    assert REFUSED not in told


def test_an_engine_of_the_command_line() -> None:
    done = run("serve", *ANY_PORT, "--backend", "vllm=http://0xa9fea9fe:8000")
    assert done.returncode == 1
    assert "--backend vllm=http://0xa9fea9fe:8000: link-local and metadata addresses" in done.stderr
