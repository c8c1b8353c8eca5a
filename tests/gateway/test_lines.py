"""Lines on their way to a thread: order, bounds, what is told of those that were dropped, and the last words."""

from __future__ import annotations

import threading

import pytest

from gateway import lines
from gateway.lines import Lines
from tests.process import eventually


class Sink:
    """Takes ``room`` bytes, all of them if None; while ``stalled`` is held, it takes none and does not come back."""

    def __init__(self, room: int | None = None) -> None:
        self.written = b""
        self.room = room
        self.stalled = threading.Lock()
        self.called = threading.Event()
        self.waits: list[float] = []

    def __call__(self, lines: bytes, wait: float) -> bytes:
        self.waits.append(wait)
        self.called.set()
        with self.stalled:
            taken = len(lines) if self.room is None else min(self.room, len(lines))
            self.written += lines[:taken]
            if self.room is not None:
                self.room -= taken
        return lines[taken:]


def told(dropped: int) -> bytes:
    return b"%d dropped\n" % dropped


def test_a_thread_writes_what_is_noted_and_at_the_end_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "FLUSH_S", 0.001)
    sink = Sink()
    with Lines(sink) as noted:
        noted.add(b"a\n")
        assert sink.called.wait(10)
        monkeypatch.setattr(lines, "FLUSH_S", 60.0)  # the end does not wait for it
        noted.add(b"b\n")
    assert sink.written == b"a\nb\n"


def test_what_is_pushed_is_written_at_once_after_what_was_noted_before_and_without_waiting() -> None:
    sink = Sink()
    noted = Lines(sink)
    noted.add(b"a\n")
    assert sink.written == b""
    noted.add(b"b\n")
    noted.push()
    assert (sink.written, sink.waits) == (b"a\nb\n", [0.0])


def test_what_is_not_taken_stays_in_order() -> None:
    sink = Sink(room=3)
    noted = Lines(sink)
    noted.add(b"a\nb\n")
    noted.push()
    noted.add(b"c\n")
    sink.room = None
    noted.push()
    assert sink.written == b"a\nb\nc\n"


def test_a_push_does_not_wait_for_the_thread() -> None:
    sink = Sink()
    with Lines(sink) as noted, sink.stalled:
        noted.add(b"a\n")
        assert sink.called.wait(10)
        noted.add(b"b\n")
        noted.push()
        assert len(noted) == 2
    assert sink.written == b"a\nb\n"


def test_beyond_what_is_kept_lines_are_dropped_and_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_BUFFER", 4)
    sink = Sink(room=0)
    noted = Lines(sink, told)
    for _ in range(10):
        if noted.room():
            noted.add(b"a\n")
    noted.push()  # nobody takes it: nothing is told of yet
    assert (len(noted), noted.dropped) == (4, 8)
    sink.room = None
    noted.flush()
    assert (sink.written, noted.dropped) == (b"a\na\n8 dropped\n", 8)
    noted.add(b"b\n")
    noted.flush()
    assert sink.written.endswith(b"8 dropped\nb\n")  # once


def test_what_was_dropped_is_counted_while_a_writer_is_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_BUFFER", 2)
    counted: list[int] = []

    def write(given: bytes, wait: float) -> bytes:
        counted.append(noted.dropped)
        return given

    noted = Lines(write)
    noted.add(b"a\n")
    for _ in range(3):
        assert not noted.room()
        noted.push()
    assert counted == [1, 2, 3]


def test_pushing_piles_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "FLUSH_S", 0.02)
    sink = Sink()
    with Lines(sink) as noted:
        with sink.stalled:
            noted.add(b"a\n")
            assert sink.called.wait(10)
            for _ in range(1000):
                noted.wake()
        assert eventually(lambda: noted._wakes.empty(), 5.0)


def test_a_stalled_writer_is_not_waited_for_for_ever() -> None:
    sink = Sink()
    noted = Lines(sink)
    noted.start()
    with sink.stalled:
        noted.add(b"a\n")
        noted.close(within=0.01)
        noted.flush(within=0.01)
        assert sink.written == b""


def test_every_line_of_many_threads_is_written_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "FLUSH_S", 0.0)
    sink = Sink()

    def note(name: int) -> None:
        for number in range(500):
            noted.add(b"%d:%d\n" % (name, number))
            if number % 50 == 0:
                noted.push()

    with Lines(sink) as noted:
        threads = [threading.Thread(target=note, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    written = [line.split(b":") for line in sink.written.splitlines()]
    for name in range(4):
        assert [int(number) for who, number in written if int(who) == name] == list(range(500))


def test_a_collected_object_may_note_a_line_while_one_is_noted() -> None:
    sink = Sink()
    noted = Lines(sink)

    class Last(bytes):
        def __len__(self) -> int:
            return 2

        def __del__(self) -> None:
            noted.add(b"last\n")

    with noted._noting:
        noted.add(Last(b"a\n"))
    noted.flush()
    assert sorted(sink.written.splitlines()) == [b"a", b"last"]
