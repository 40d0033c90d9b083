"""The way of a body onto the socket: framing, cuts, gaps, the place to break off, and how to hang up."""

import asyncio
import fcntl
import random
import socket
import struct
import termios
from collections.abc import Callable, Iterator
from itertools import repeat

from headrace.simulator.performance import Framing, Wire
from headrace.simulator.steps import HangUp

_WRITE_BYTES_MAX = 16 * 1024
_WRITES_PER_TURN = 64  # then other connections have their turn
_RANDOM_CUT_MAX = 48
_DRAIN_POLL_S = 0.001
_DRAIN_POLLS_MAX = 1000


class Outlet:
    """Write one body in the asked-for pieces, no faster than the socket takes them.

    `on_drained` is called when everything that was pushed is written and there is room for more, `on_cut_off` when the
    byte is reached at which the connection breaks.
    """

    def __init__(self, wire: Wire, write: Callable[[bytes], None], on_drained: Callable[[], None], on_cut_off: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._framing: Framing = wire.framing
        self._short_chunk = wire.hang_up == "short_chunk"
        self._gap_s = wire.gap_s
        self._sizes = _sizes(wire.cut, wire.seed)
        self._until_cut_off = wire.cut_off
        self._write = write
        self._on_drained = on_drained
        self._on_cut_off = on_cut_off
        self._pending = bytearray()
        self._last = False
        self._timer: asyncio.Handle | None = None
        self._full = False
        self.was_full = False

    def push(self, data: bytes | bytearray, *, last: bool = False) -> None:
        """Take the next bytes of the body. Only to be called when the bytes before are drained."""
        self._pending += data
        self._last = last
        if last and not self._pending:
            self._write(self._tail())
        if self._timer is None:
            self._pump()

    def pause(self) -> None:
        self._full = self.was_full = True

    def resume(self) -> None:
        self._full = False
        if self._timer is None:
            self._pump()

    def aclose_nowait(self) -> None:
        """Write nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._pending.clear()
        self._full = True

    def _pump(self) -> None:
        self._timer = None
        for _ in range(_WRITES_PER_TURN):
            if self._full:
                return
            if not self._pending:
                break
            if not self._write_piece():
                return
        if self._pending:
            self._timer = self._loop.call_soon(self._pump)
        elif not self._full:
            self._on_drained()

    def _write_piece(self) -> bool:
        """Write one piece; return whether the next may follow at once."""
        size = min(next(self._sizes), len(self._pending))
        if self._until_cut_off is not None and size >= self._until_cut_off:
            self._break_off(size, self._until_cut_off)
            return False
        piece = bytes(self._pending[:size])
        del self._pending[:size]
        if self._until_cut_off is not None:
            self._until_cut_off -= size
        self._write(self._framed(piece) + self._tail())
        if self._gap_s and self._pending:
            self._timer = self._loop.call_later(self._gap_s, self._pump)
            return False
        return True

    def _framed(self, piece: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(piece), piece) if self._framing == "chunked" else piece

    def _tail(self) -> bytes:
        """Return what ends the body, if this was its end."""
        ends = self._last and not self._pending and self._until_cut_off is None
        return b"0\r\n\r\n" if ends and self._framing == "chunked" else b""

    def _break_off(self, announced: int, size: int) -> None:
        piece = bytes(self._pending[:size])
        self._pending.clear()
        if self._short_chunk:
            self.write_short(piece, max(announced, size + 1))
        elif piece:
            self._write(self._framed(piece))
        self._on_cut_off()

    def write_short(self, piece: bytes, announced: int) -> None:
        """Write a chunk that ends before the size that it announces."""
        self._write(b"%x\r\n%b" % (announced, piece) if self._framing == "chunked" else piece)


def _sizes(cut: str, seed: int) -> Iterator[int]:
    if cut == "none":
        return repeat(_WRITE_BYTES_MAX)
    if cut == "random":
        dice = random.Random(seed)
        return iter(lambda: dice.randint(1, _RANDOM_CUT_MAX), 0)
    return repeat(min(int(cut), _WRITE_BYTES_MAX))


def hang_up(transport: asyncio.Transport, how: HangUp) -> None:
    """End the connection: with FIN after everything written, or with RST as soon as the peer's kernel has it all."""
    if how == "rst":
        _reset_when_sent(transport, _DRAIN_POLLS_MAX)
    else:
        transport.close()


def _reset_when_sent(transport: asyncio.Transport, polls: int) -> None:
    """Reset; but first wait until what was written has arrived, because a reset discards what is still in the send queue."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    if transport.is_closing() or sock is None:
        return
    if polls and (transport.get_write_buffer_size() or _unsent(sock)):
        asyncio.get_running_loop().call_later(_DRAIN_POLL_S, _reset_when_sent, transport, polls - 1)
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _unsent(sock: socket.socket) -> int:
    """Return how many written bytes the peer's kernel has not acknowledged; 0 where the system does not tell."""
    try:
        answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4)
    except OSError:
        return 0
    return int.from_bytes(answer, "little")
