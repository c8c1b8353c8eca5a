"""Files as a source: what is read, what is noticed, what is kept when a change is bad."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from watchfiles._rust_notify import WatchfilesRustInternalError

from gateway.config.document import ConfigError
from gateway.config.snapshot import Snapshot
from gateway.sources.check import check
from gateway.sources.file import attempt, names, read, watch
from tests.gateway.test_threads import without_threads

SERVER = """
apiVersion: networking.serving.volcano.sh/v1alpha1
kind: ModelServer
metadata: {{name: {0}}}
spec: {{inferenceEngine: vLLM, endpoints: ["http://127.0.0.1:{1}"]}}
---
apiVersion: networking.serving.volcano.sh/v1alpha1
kind: ModelRoute
metadata: {{name: {0}}}
spec: {{modelName: {0}, rules: [{{targetModels: [{{modelServerName: {0}}}]}}]}}
"""


def server(name: str, port: int = 8000) -> str:
    return SERVER.format(name, port)


def models(snapshot: Snapshot) -> list[str]:
    return [card.id for card in snapshot.routes.models()]


def test_a_directory_is_its_yaml_and_json_files(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(server("b"))
    (tmp_path / "a.yml").write_text(server("a"))
    (tmp_path / "c.json").write_text('{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}')
    (tmp_path / "README.md").write_text("not: [configuration")
    (tmp_path / ".hidden.yaml").write_text("not: [configuration")
    (tmp_path / "sub.yaml").mkdir()
    assert [path.name for path in names([tmp_path])] == ["a.yml", "b.yaml", "c.json"]
    assert models(read([tmp_path])) == ["a", "b"]


def test_what_holds_nothing_is_named(tmp_path: Path) -> None:
    empty, comments, folder = tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "folder"
    empty.touch()
    comments.write_text("# later\n---\n")
    folder.mkdir()
    (folder / "README.md").touch()
    code, lines = check([empty, comments, folder])
    assert code == 0
    assert lines[:3] == [f"warning: {path}: there is nothing in it" for path in (empty, comments, folder)]
    assert read([tmp_path]).warnings == (f"{empty}: there is nothing in it", f"{comments}: there is nothing in it")


def test_every_file_with_a_problem_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: [")
    (tmp_path / "b.yaml").write_bytes(b"\xff")
    with pytest.raises(ConfigError) as caught:
        read([tmp_path])
    assert len(caught.value.problems) == 2
    assert caught.value.problems[0].startswith(f"{tmp_path}/a.yaml, line ")


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml: No such file or directory"):
        read([tmp_path / "nothing.yaml"])


def test_key_files_are_found_beside_the_document(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-from-file\n")
    (tmp_path / "p.yaml").write_text(
        """
apiVersion: networking.serving.volcano.sh/v1alpha1
kind: ExternalModelProvider
metadata: {name: p}
spec: {baseURL: "https://api.example.com/v1", auth: {keyFile: key}}
"""
    )
    before = attempt([tmp_path / "p.yaml"])
    assert before.snapshot is not None
    assert before.snapshot.pools[0].endpoints[0].headers == ((b"authorization", b"Bearer sk-from-file"),)
    assert before.snapshot.files == (f"{tmp_path}/key",)
    (tmp_path / "key").write_text("sk-rotated")
    assert attempt([tmp_path / "p.yaml"]).digest != before.digest


def test_check(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(server("a") + "---\n" + server("b"))
    assert check([good]) == (0, ["ok: 2 routes, 2 pools"])
    bad.write_text(server("a").replace("targetModels", "targetModel"))
    status, lines = check([bad])
    assert status == 1
    assert lines[0] == (
        f'{bad}, document 2 (ModelRoute/a): $.spec.rules[0].targetModel: unknown field; did you mean "targetModels"?'
    )


def test_what_has_no_effect_is_told_beside_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "both.yaml"
    file.write_text(server("a").replace("targetModels", "targetModel") + "---\n" + server("b"))
    file.write_text(file.read_text().replace("inferenceEngine", "kvConnector: {type: nixl}, inferenceEngine"))
    status, lines = check([file])
    assert status == 1
    assert "unknown field" in lines[0]
    inert = [line for line in lines if line.startswith("warning: ") and "kvConnector: has no effect yet" in line]
    assert len(inert) == 2


class Seen:
    """Everything the watcher said, and a way to wait for the next word of it."""

    def __init__(self) -> None:
        self.send, self.words = trio.open_memory_channel[Snapshot | ConfigError](100)

    def put(self, word: Snapshot | ConfigError) -> None:
        self.send.send_nowait(word)

    async def snapshot(self) -> Snapshot:
        word = await self.words.receive()
        assert isinstance(word, Snapshot), word
        return word

    async def error(self) -> ConfigError:
        word = await self.words.receive()
        assert isinstance(word, ConfigError), word
        return word


def watched(paths: list[Path], script: Callable[[Seen, trio.MemorySendChannel[object]], object]) -> None:
    """Run ``script`` beside a watcher of ``paths``."""

    async def main() -> None:
        seen = Seen()
        ask, reload = trio.open_memory_channel[object](0)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: watch(paths, seen.put, seen.put, reload))
                await script(seen, ask)  # type: ignore[misc]
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_what_cannot_be_put_in_force_is_found_in_a_thread_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(server("one"))
    checked: list[int] = []

    def check(snapshot: Snapshot) -> None:
        checked.append(threading.get_ident())
        raise ConfigError(["no room for it"])

    async def main() -> None:
        seen = Seen()
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: watch([path], seen.put, seen.put, check=check))
                assert (await seen.error()).problems == ["no room for it"]
                nursery.cancel_scope.cancel()

    trio.run(main)
    assert threading.get_ident() not in checked


def test_changes_are_applied_and_bad_ones_reported(tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(server("one"))

    async def script(seen: Seen, ask: trio.MemorySendChannel[object]) -> None:
        assert models(await seen.snapshot()) == ["one"]
        path.write_text(server("two"))
        assert models(await seen.snapshot()) == ["two"]
        path.write_text("kind: [")
        assert "not valid YAML" in str(await seen.error())
        path.write_text("")
        assert f"{path}: there is not a byte in it" in str(await seen.error())
        # as editors do: a new file takes the old one's name
        (tmp_path / "g.yaml.new").write_text(server("three"))
        os.replace(tmp_path / "g.yaml.new", path)
        assert models(await seen.snapshot()) == ["three"]

    watched([path], script)


def test_a_mount_that_swaps_its_link_is_noticed(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"..v{number}").mkdir()
        (tmp_path / f"..v{number}" / "g.yaml").write_text(server(f"v{number}"))
    (tmp_path / "..data").symlink_to("..v1")
    (tmp_path / "g.yaml").symlink_to("..data/g.yaml")

    async def script(seen: Seen, ask: trio.MemorySendChannel[object]) -> None:
        assert models(await seen.snapshot()) == ["v1"]
        (tmp_path / "..data_tmp").symlink_to("..v2")
        os.replace(tmp_path / "..data_tmp", tmp_path / "..data")
        assert models(await seen.snapshot()) == ["v2"]

    watched([tmp_path / "g.yaml"], script)


def test_a_request_reloads_even_what_did_not_change(tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(server("one"))

    async def script(seen: Seen, ask: trio.MemorySendChannel[object]) -> None:
        await seen.snapshot()
        await ask.send("again")
        assert models(await seen.snapshot()) == ["one"]

    watched([tmp_path], script)


def test_what_is_in_force_is_not_applied_again(tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(server("one"))

    async def main() -> None:
        seen = Seen()
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: watch([path], seen.put, seen.put, first=attempt([path])))
                await trio.testing.wait_all_tasks_blocked(0.05)
                path.write_text(server("two"))
                assert models(await seen.snapshot()) == ["two"]
                nursery.cancel_scope.cancel()

    trio.run(main)


def replaced(directory: Path) -> None:
    """What replaces a file is seen."""
    path = directory / "g.yaml"
    path.write_text(server("one"))

    async def main() -> None:
        seen = Seen()
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: watch([path], seen.put, seen.put, poll_s=0.01))
                await seen.snapshot()
                path.write_text(server("two"))
                assert models(await seen.snapshot()) == ["two"]
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_files_without_events_are_polled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.sources.file._events", lambda folders, stop: itertools.repeat(set()))

    replaced(tmp_path)


def test_files_are_polled_where_nobody_can_tell_of_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gateway.sources.file._TICK_MS", 1)

    def watch_in_vain(*folders: str, **options: object) -> None:
        raise WatchfilesRustInternalError("Too many open files (os error 24)")

    monkeypatch.setattr("watchfiles.watch", watch_in_vain)

    replaced(tmp_path)
    assert caplog.text.count("Too many open files") == 1


def test_while_there_is_no_thread_nothing_changes_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "g.yaml").write_text(server("one"))
    monkeypatch.setattr("gateway.sources.file._RETRY_S", 0.01)

    async def script(seen: Seen, ask: trio.MemorySendChannel[object]) -> None:
        await seen.snapshot()
        with pytest.MonkeyPatch.context() as shortage:
            without_threads(shortage)
            await ask.send(None)
            await trio.sleep(0.05)
        assert models(await seen.snapshot()) == ["one"]

    watched([tmp_path], script)
    assert caplog.text.count("cannot look whether the configuration has changed, trying again: no thread") == 1


def test_a_directory_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "conf"
    folder.mkdir()
    (folder / "g.yaml").write_text(server("one"))

    async def script(seen: Seen, ask: trio.MemorySendChannel[object]) -> None:
        await seen.snapshot()
        os.rename(folder, tmp_path / "away")
        assert "No such file or directory" in str(await seen.error())
        (tmp_path / "away" / "g.yaml").write_text(server("two"))
        os.rename(tmp_path / "away", folder)
        assert models(await seen.snapshot()) == ["two"]

    watched([folder], script)


def test_cancelling_waits_for_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "g.yaml").write_text(server("one"))
    waiting = trio.Event()
    released = threading.Event()

    def events(folders: object, stop: threading.Event) -> Iterator[set[object]]:
        trio.from_thread.run_sync(waiting.set)
        stop.wait(10)
        released.set()
        yield set()

    monkeypatch.setattr("gateway.sources.file._events", events)

    async def main() -> None:
        seen = Seen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: watch([tmp_path], seen.put, seen.put))
            await waiting.wait()
            before = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - before < 5

    trio.run(main)
    assert released.wait(5)  # the thread was told to stop, too
