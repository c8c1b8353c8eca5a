"""Doors that are open to everybody are opened knowingly."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.doors import Wanted
from gateway.sources.check import check

KIND = "apiVersion: infer-gateway.dev/v1alpha1\nkind: GatewayConfiguration\n"


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ('listeners: {http: {address: "0.0.0.0:1"}}', "0.0.0.0"),
        ('listeners: {grpc: {address: "[::]:1"}}', "::"),
        ('listeners: {admin: {address: "10.0.0.1:1"}}', ""),
        ('listeners: {extProc: {address: ":9002"}}', "0.0.0.0"),
        ('listeners: {extProc: {healthAddress: ":9003"}}', "0.0.0.0"),
        ('listeners: {http: {address: "0.0.0.0:1"}}\nauth: {required: false}', ""),
        ('listeners: {http: {address: "localhost:1"}, grpc: {address: "off"}}', ""),
    ],
)
def test_check_says_what_serve_would(tmp_path: Path, text: str, refused: str) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(KIND + text)
    code, lines = check([file])
    assert code == bool(refused)
    assert not refused or lines[0].startswith(f"serving on {refused} lets everybody in")


def test_the_command_line_decides_where_to_listen() -> None:
    from gateway.config.settings import ExtProcListener, Listeners

    given = Listeners(ext_proc=ExtProcListener(health_address="127.0.0.1:7"))
    assert Wanted().of(given)["health"] == ("127.0.0.1", 7)
    assert Wanted(ext_proc=("127.0.0.1", 5)).of(Listeners())["health"] == ("127.0.0.1", 6)
    assert Wanted(ext_proc=("127.0.0.1", 0)).of(Listeners())["health"] == ("127.0.0.1", 0)
    assert "grpc" not in Wanted(grpc="off").of(Listeners())
    assert Wanted(grpc=("127.0.0.1", 3)).of(Listeners())["grpc"] == ("127.0.0.1", 3)
    assert "ext_proc" not in Wanted().of(Listeners())
