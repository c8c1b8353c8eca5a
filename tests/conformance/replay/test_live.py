"""Replays in real time: scaled traces, real processes that are gone afterwards, and what is measured of them."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import trio

from conformance.engines import cli as engines_cli
from conformance.replay import cli, processes, stage
from conformance.replay.processes import NotStarted, running
from gateway.config.document import parse
from gateway.config.load import load
from tests.process import ROOT, eventually, simulate

from .tiny import conversations, scenario

MUTE = [sys.executable, "-c", "import sys; sys.exit('no such thing')"]
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready http=x", flush=True)
time.sleep(600)
"""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def children(pid: int) -> list[int]:
    """Of all its threads: a child belongs to the one that started it."""
    try:
        return [int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()]
    except OSError:  # a thread has ended meanwhile
        return []


@pytest.fixture
def trace(tmp_path: Path) -> str:
    """Three users, three turns, each prompt going on from the last one; answers of some tokens."""
    path = tmp_path / "talk.jsonl"
    rows = [
        {"timestamp": 300 * turn + 50 * user, "input_length": 2048 * turn, "output_length": 24,
         "hash_ids": list(range(100 * user, 100 * user + 4 * turn))}
        for turn in (1, 2, 3) for user in (1, 2, 3)
    ]  # fmt: skip
    path.write_bytes(b"\n".join(map(msgspec.json.encode, rows)))
    return str(path)


def run(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return cli.main(parser.parse_args([*argv, "--json", "-"]))


# -- scaling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 2, 8, 128])
def test_a_scaled_trace_shares_what_it_shared(scale: int) -> None:
    whole = conversations()
    small = stage.scaled(whole, scale)
    assert small.block * scale == whole.block
    assert small.full_blocks() == whole.full_blocks()
    for before, after in zip(whole.requests, small.requests, strict=True):
        assert (after.at, after.prompt, after.blocks) == (before.at, before.prompt // scale, before.blocks)
        assert after.output == max(1, round(before.output / scale))
        assert len(small.text(after)) == 4 * after.prompt


@pytest.mark.parametrize("scale", [3, 256])
def test_blocks_too_small_to_be_told_apart_are_refused(scale: int) -> None:
    with pytest.raises(ValueError, match=f"--scale {scale}"):
        stage.scaled(conversations(), scale)


def test_an_engine_is_as_fast_as_the_scenario_has_it_at_its_scale() -> None:
    played, given = conversations(), scenario(slow={1: 2.0})
    parser = argparse.ArgumentParser()
    engines_cli.add_arguments(parser)
    command = stage.engine(played, given, 1, 4)
    settings = engines_cli.settings(parser.parse_args(command[command.index("vllm") :]))
    assert (settings.prefill_rate, settings.chunk_tokens) == (1500.0, 2048)
    assert (settings.itl, settings.itl_growth) == (0.064, 0.0012)
    assert settings.block_size == 16
    held = settings.kv_blocks * settings.block_size * 4
    assert 0 <= held - given.blocks(played) * played.block <= 64
    assert settings.model_len == min(played.longest() + 1, settings.kv_blocks * 16)


def test_every_policy_is_a_configuration_with_the_times_of_the_scenario() -> None:
    for name, scheduler in stage.CONFIGURATIONS.items():
        read = load(parse(name, stage.configuration(scheduler, scenario(interval=0.5, timeout=7.0)))).settings
        assert (read.scraping.interval, read.timeouts.first_token, read.retry.attempts) == (0.5, 7.0, 3)
    unbounded = load(parse("x", stage.configuration(b"", scenario()))).settings
    assert unbounded.timeouts == load(parse("y", b"")).settings.timeouts


# -- processes ----------------------------------------------------------------------------------------------------


def test_programs_are_gone_however_they_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_LEAVE_S", 0.05)
    monkeypatch.setattr(processes, "_STOP_S", 0.2)
    stubborn = [sys.executable, "-c", STUBBORN]

    async def main() -> list[int]:
        pids = []
        with trio.CancelScope() as scope:
            async with running(stubborn, stubborn) as programs:
                assert [program.ready for program in programs] == [{"http": "x"}] * 2
                programs[0].pause()
                pids = [program.pid for program in programs]
                assert all(map(alive, pids))
                scope.cancel()
                await trio.sleep_forever()
        return pids

    pids = trio.run(main)
    assert len(pids) == 2
    assert not any(map(alive, pids))


def test_a_program_that_does_not_start_is_told_with_its_last_words() -> None:
    async def main() -> None:
        async with running(MUTE):
            pass

    with pytest.raises(NotStarted, match="no such thing"):
        trio.run(main)


# -- the whole ----------------------------------------------------------------------------------------------------


def test_a_small_trace_in_real_time(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    fleet = ("--engines", "2", "--gateways", "2", "--capacity", "3", "--scale", "8")
    assert run(trace, "--live", *fleet, "--policy", "ours") == 0
    (row,) = msgspec.json.decode(capsys.readouterr().out)
    assert (row["policy"], row["requests"], row["failed"], row["live"]) == ("ours", 9, 0, 8)
    assert row["scenario"]["gateways"] == 2
    assert 0 < row["hit"] < 1
    assert 1 <= row["spread"] <= 2
    assert 0 < row["ttft_s"]["p50"] <= row["ttft_s"]["max"]
    assert row["itl_s"]["p50"] > 0
    assert row["gap_s"]["mean"] > 0
    assert len(row["ttft_curve_s"]) == 201


def test_any_server_and_no_more_time_than_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "late.csv"
    path.write_text("timestamp,input_tokens,output_tokens\n0,64,3\n0.1,64,3\n500,64,3\n")
    with simulate("vllm", "m") as engine:
        assert run(str(path), "--url", engine.url, "--seconds", "1") == 0
        (row,) = msgspec.json.decode(capsys.readouterr().out)
        assert (row["requests"], row["failed"], row["live"]) == (3, 1, 1)
        assert (row["url"], row["spread"]) == (f"{engine.url}/v1", None)
        assert row["policy"] == engine.ready["http"]
        assert run(str(path), "--url", engine.url, "--seconds", "1", "--model", "other") == 0
        (row,) = msgspec.json.decode(capsys.readouterr().out)
        assert row["failed"] == 3
    assert run(str(path), "--url", engine.url) == 1
    assert "no connection" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="children are looked up in /proc")
def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text("timestamp,input_tokens,output_tokens\n0,64,3\n500,64,3\n")
    command = [sys.executable, "-m", "gateway.cli", "bench", "replay", str(path), "--live", "--engines", "2"]
    replay = subprocess.Popen([*command, "--policy", "ours"], cwd=ROOT, stderr=subprocess.PIPE)
    try:
        assert eventually(lambda: len(children(replay.pid)) == 3, within_s=30)
        started = children(replay.pid)
        replay.send_signal(signal.SIGINT)
        assert replay.wait(30) == 1
        assert b"stopped before the end" in replay.stderr.read()
        assert not any(map(alive, started))
    finally:
        replay.kill()
        replay.stderr.close()


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (["--live", "--policy", "oracle"], "oracle is for virtual time only"),
        (["--live", "--policy", "nobody"], "no policy 'nobody'"),
        (["--live", "--scale", "7"], "--scale 7"),
        (["--live", "--engines", "65"], "64 engines or gateways at most"),
        (["--live", "--gateways", "2", "--sharing", "0.2"], "--sharing is for virtual time only"),
        (["--live", "--suite"], "--suite is for virtual time only"),
    ],
)
def test_what_cannot_be_played_live_is_said(
    wrong: list[str], what: str, trace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(trace, *wrong) == 2
    assert what in capsys.readouterr().err
