"""Files that are not what they were: the configuration replaced by something else, again and again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from tests.faults.stage import CALM, unharmed
from tests.process import InferGateway, eventually, serve, simulate
from tests.whole.fleet import pool


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "a.yaml").write_text("a: [")


def gone(path: Path) -> None:
    path.unlink()


def half_written(path: Path) -> None:
    path.write_text(path.read_text()[:-40])


def binary(path: Path) -> None:
    path.write_bytes(os.urandom(1 << 16))


def huge(path: Path) -> None:
    path.write_bytes(b"a: b\n" * (100 << 18))


def large(path: Path) -> None:
    path.write_text("---\n".join([path.read_text(), *["kind: Nothing\nspec: {a: [1, 2, 3]}\n"] * 2_000]))


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def mute(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        (path / "a.yaml").unlink()
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def said(gateway: InferGateway, words: str) -> Callable[[], bool]:
    """Whether it has been said once more."""
    before = gateway.stderr.count(words)
    return lambda: gateway.stderr.count(words) > before


def asked_again(gateway: InferGateway, told: Callable[[], bool]) -> Callable[[], bool]:
    """Whether it is told of, by a gateway that is asked to reload once more where it is not yet."""

    def holds() -> bool:
        if eventually(told, within_s=1.0):
            return True
        gateway.signal(signal.SIGHUP)
        return False

    return holds


def test_a_configuration_that_becomes_something_else(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    with simulate("vllm", "m") as calm:
        good = pool(CALM, [calm])
        path.write_text(good)
        with serve("-c", str(path)) as gateway:
            for replace in (directory, gone, half_written, binary, huge, large, loop, endless, mute):
                with unharmed(gateway):
                    refused, reloaded = said(gateway, "not reloaded"), said(gateway, "configuration reloaded")
                    replace(path)
                    gateway.signal(signal.SIGHUP)
                    assert eventually(asked_again(gateway, refused), within_s=20), replace
                    remove(path)
                    (tmp_path / "next").write_text(good)
                    (tmp_path / "next").replace(path)
                    gateway.signal(signal.SIGHUP)
                    assert eventually(asked_again(gateway, reloaded), within_s=20), replace
