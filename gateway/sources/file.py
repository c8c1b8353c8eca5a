"""Configuration from files and directories, read again whenever they change. (IO)

Invariant: what is applied has validated; a change that does not is reported and what was there keeps serving.
Changes are judged by content, so any event may wake the watcher: editors that replace files and the `..data` swap of
Kubernetes mounts look alike, and a filesystem that sends no events is polled.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
import trio
import watchfiles

from gateway.config.document import ConfigError, Document, parse
from gateway.config.load import load
from gateway.config.snapshot import Snapshot
from gateway.threads import in_thread, need_thread
from gateway.tokenizer import vocabulary

_log = logging.getLogger("infer_gateway.sources.file")
SUFFIXES: Final = (".yaml", ".yml", ".json")
MAX_FILE_BYTES: Final = 64 * 1024 * 1024
"""Tokenizers of large vocabularies have 33 MB."""
_SHELLS: Final = ("/dev/fd/", "/proc/self/fd/", "/dev/stdin")
"""Pipes that whoever started the program has made for it."""
_DEBOUNCE_MS: Final = 400
_STEP_MS: Final = 50
_TICK_MS: Final = 500
_POLL_S: Final = 10.0
_RETRY_S: Final = 0.5
_BLIND_S: Final = 600.0
"""After that it is tried again whether events are to be had."""


class Reading(msgspec.Struct, frozen=True):
    """What was read: the snapshot, or why there is none, and a digest of every byte that led to it."""

    digest: bytes
    folders: tuple[str, ...]
    snapshot: Snapshot | None = None
    error: ConfigError | None = None


def names(paths: Iterable[str | Path]) -> list[Path]:
    """The files that ``paths`` stand for; of a directory its YAML and JSON files, by name, hidden ones left out.

    Raises ConfigError for a path that is not there.
    """
    found: list[Path] = []
    problems: list[str] = []
    for path in map(Path, paths):
        try:
            listed = sorted(path.iterdir()) if path.is_dir() else [path]
        except OSError as error:
            problems.append(f"{path}: {error.strerror or error}")
            continue
        if path.is_dir():
            listed = [p for p in listed if p.suffix in SUFFIXES and not p.name.startswith(".") and not p.is_dir()]
        found.extend(listed)
    if problems:
        raise ConfigError(problems)
    return list(dict.fromkeys(found))


def read(paths: Sequence[str | Path], *, kubernetes: bool = False) -> Snapshot:
    """The configuration in ``paths``, now. Raises ConfigError. Blocks on the disk."""
    result = attempt(paths, kubernetes=kubernetes)
    if result.error is not None:
        raise result.error
    assert result.snapshot is not None
    return result.snapshot


def attempt(
    paths: Sequence[str | Path], *, kubernetes: bool = False, others: Sequence[Document] = (), again: bool = False
) -> Reading:
    """As `read`, with the failure as a value; ``others`` are documents that are in no file. ``again``: something is in
    force, which a file without a byte does not replace. Blocks on the disk.
    """
    reader = _Reader(again=again)
    snapshot = failure = None
    try:
        documents = [*reader.documents(paths), *reader.seen(others)]
        snapshot = load(
            documents, reader.bytes_of, kubernetes=kubernetes, vocabulary=vocabulary, environment=os.environ
        )
        warnings = (*(f"{path}: there is nothing in it" for path in reader.empty), *snapshot.warnings)
        snapshot = msgspec.structs.replace(snapshot, warnings=warnings)
    except ConfigError as error:
        failure = error
        reader.digest.update("\n".join(error.problems).encode("utf-8", "surrogatepass"))
    folders = dict.fromkeys(folder for path in (*paths, *reader.files) for folder in _folders(Path(path)))
    return Reading(reader.digest.digest(), tuple(folders), snapshot, failure)


def _opened(name: str, flags: int) -> int:
    """Never waits for somebody to write: a named pipe would hold up reloads, and the end. Raises OSError."""
    descriptor = os.open(name, flags | os.O_NONBLOCK)
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode) and not name.startswith(_SHELLS):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "a named pipe, which is not read", name)
    os.set_blocking(descriptor, True)
    return descriptor


class _Reader:
    """Reads files and sums up what they held. ``empty`` are those, and directories, without a document. Where it reads
    ``again``, a configuration file without a byte is one that is being written.
    """

    def __init__(self, *, again: bool = False) -> None:
        self._again = again
        self.digest = hashlib.blake2b(digest_size=16)
        self.files: list[str] = []
        self.empty: list[str] = []

    def bytes_of(self, name: str) -> bytes:
        """Content of one file. Raises OSError."""
        self.files.append(name)
        with open(name, "rb", opener=_opened) as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise OSError(27, "File too large", name)
        self.digest.update(f"{name}\0{len(content)}\0".encode("utf-8", "surrogateescape") + content)
        return content

    def seen(self, documents: Sequence[Document]) -> Sequence[Document]:
        """Those documents, as part of what was read."""
        for document in documents:
            self.digest.update(f"{document.place}\0".encode() + msgspec.json.encode(document.tree))
        return documents

    def documents(self, paths: Sequence[str | Path]) -> list[Document]:
        """Raises ConfigError with the problems of all files that cannot be read or parsed."""
        documents: list[Document] = []
        problems: list[str] = []
        for path in names(paths):
            try:
                content = self.bytes_of(str(path))
                if self._again and not content:
                    raise ConfigError([f"{path}: there is not a byte in it, as if it were being written; or remove it"])
                parsed = parse(str(path), content, str(path.parent))
            except OSError as error:
                problems.append(f"{path}: {error.strerror or error}")
            except ConfigError as error:
                problems.extend(error.problems)
            else:
                documents.extend(parsed)
                self.empty.extend([] if parsed else [str(path)])
        if problems:
            raise ConfigError(problems)
        self.empty.extend(str(path) for path in paths if not names([path]))
        return documents


def _folders(path: Path) -> Iterator[str]:
    """Every directory in which a change can change what ``path`` leads to: its own, and those of links on the way."""
    for _ in range(40):  # as many links as the kernel follows
        if path.is_dir():
            yield str(path)
        if path.parent.is_dir():  # of a directory too: it may be replaced as a whole
            yield str(path.parent)
        link = next((part for part in (path, *path.parents) if part.is_symlink()), None)
        if link is None:
            return
        if link.parent.is_dir():
            yield str(link.parent)
        path = link.parent / os.readlink(link) / path.relative_to(link)


Check = Callable[[Snapshot], None]
"""Raises ConfigError for what has validated and cannot be put in force all the same."""


def _no_check(snapshot: Snapshot) -> None: ...


async def watch(
    paths: Sequence[str | Path],
    apply: Callable[[Snapshot], None],
    failed: Callable[[ConfigError], None],
    reload: trio.MemoryReceiveChannel[object] | None = None,
    *,
    first: Reading | None = None,
    kubernetes: bool = False,
    others: Callable[[], Sequence[Document]] = tuple,
    check: Check = _no_check,
    poll_s: float = _POLL_S,
) -> None:
    """Call ``apply`` with a new snapshot after every change, ``failed`` with what is wrong with a bad one. Never ends.

    ``first`` is what is in force already (nothing: the first reading is applied at once). An item on ``reload`` reads
    and applies even if nothing changed. ``others`` gives documents that are in no file. ``check`` is called in a thread
    and may raise ConfigError; the other callbacks run in this task and must not wait. Cancellation is immediate.
    """
    watching = _Watching(paths, apply, failed, kubernetes=kubernetes, current=first, others=others, check=check)
    async with trio.open_nursery() as nursery:
        if reload is not None:
            nursery.start_soon(watching.on_request, reload)
        await watching.refresh(force=False)
        while True:
            if watching.folders:
                await _follow(watching, watching.folders, poll_s)
            else:  # there are no files until one is named
                await trio.sleep(poll_s)


_Changes = set[watchfiles.main.FileChange]


class _Watching:
    """The reading in force, and its replacement one at a time."""

    def __init__(
        self,
        paths: Sequence[str | Path],
        apply: Callable[[Snapshot], None],
        failed: Callable[[ConfigError], None],
        *,
        kubernetes: bool,
        current: Reading | None,
        others: Callable[[], Sequence[Document]],
        check: Check,
    ) -> None:
        self.paths = paths
        self.apply = apply
        self.failed = failed
        self.kubernetes = kubernetes
        self.current = current
        self.others = others
        self.check = check
        self.lock = trio.Lock()

    @property
    def folders(self) -> tuple[str, ...]:
        return self.current.folders if self.current else ()

    async def on_request(self, reload: trio.MemoryReceiveChannel[object]) -> None:
        async for _ in reload:
            await self.refresh(force=True)

    async def refresh(self, *, force: bool) -> None:
        async with self.lock:
            reading = await self._new_reading()
            if not force and self.current is not None and reading.digest == self.current.digest:
                return
            self.current = reading
            if reading.snapshot is not None:
                self.apply(reading.snapshot)
            elif reading.error is not None:
                self.failed(reading.error)

    async def _new_reading(self) -> Reading:
        told = False
        while True:
            try:
                return await in_thread(self._read, self.others())
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    raise
                if not told:
                    told = True
                    _log.error("cannot look whether the configuration has changed, trying again: %s", error.strerror)
            await trio.sleep(_RETRY_S)

    def _read(self, others: Sequence[Document]) -> Reading:
        reading = attempt(self.paths, kubernetes=self.kubernetes, others=others, again=self.current is not None)
        try:
            if reading.snapshot is not None:
                self.check(reading.snapshot)
        except ConfigError as error:
            return msgspec.structs.replace(reading, snapshot=None, error=error)
        return reading


async def _follow(watching: _Watching, folders: Sequence[str], poll_s: float) -> None:
    """Refresh after every event in ``folders``, and every ``poll_s`` without one, until other folders matter."""
    stop = threading.Event()
    events = _events(folders, stop)
    due = trio.current_time()  # at once, when the watch stands: what changed before it did went unseen
    try:
        while watching.folders == folders:
            # the thread looks at `stop` every _STEP_MS, so that abandoning it leaves nothing behind for long
            changes = await _next(events)
            if changes is None:  # a folder went away; the next reading says what that means
                await trio.sleep(_RETRY_S)
                return await watching.refresh(force=False)
            if changes or trio.current_time() >= due:
                due = trio.current_time() + poll_s
                await watching.refresh(force=False)
    finally:
        stop.set()


async def _next(events: Iterator[_Changes]) -> _Changes | None:
    """Without a thread to wait in there may be changes, or none."""
    try:
        return await in_thread(next, events, None, abandon_on_cancel=True)
    except OSError:
        return None


def _events(folders: Sequence[str], stop: threading.Event) -> Iterator[_Changes]:
    """Sets of changes, an empty one every _TICK_MS; events between two calls are kept. Blocks; ends with ``stop``, with
    a folder that goes, and after a while without events where there are none to be had.
    """
    try:
        need_thread()  # without one, watchfiles aborts the process
        yield from watchfiles.watch(
            *folders,
            watch_filter=None,
            debounce=_DEBOUNCE_MS,
            step=_STEP_MS,
            stop_event=stop,
            rust_timeout=_TICK_MS,
            yield_on_timeout=True,
            raise_interrupt=False,
            recursive=False,
        )
    except FileNotFoundError:
        return
    except (OSError, RuntimeError) as error:  # the latter: watchfiles, for one, where there are no descriptors left
        _log.warning("nobody tells of changes of files, they are looked at every %g s: %s", _POLL_S, error)
        until = time.monotonic() + _BLIND_S
        while time.monotonic() < until and not stop.wait(_TICK_MS / 1000):
            yield set()
