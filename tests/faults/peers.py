"""Sockets whose owners vanish, cut and say nothing. (IO)"""

from __future__ import annotations

import ctypes
import socket
import struct
import sys

import pytest

_ATTACH_FILTER = 26
_DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)
needs_filters = pytest.mark.skipif(sys.platform != "linux", reason="needs the kernel's socket filters")


def deafen(connection: socket.socket) -> None:
    """From now on nothing that is sent to it arrives, and nothing is acknowledged: its machine has lost power. Of a
    socket that listens: whoever connects gets no answer.
    """
    program = ctypes.create_string_buffer(_DROP_ALL)
    address = struct.pack("HL", 1, ctypes.addressof(program))
    connection.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, address)


def reset(connection: socket.socket) -> None:
    """Close it by a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
