"""An HTTP proxy on 127.0.0.1 that spoils requests and answers as a test plans them.

Unlike `fault_proxy`, it can tell one request from another. It receives each answer whole before it passes anything on,
so that the store never notices a fault on the way back.
"""

import asyncio
import contextlib
import random
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Literal, Self, TypeAlias
from urllib.parse import unquote, urlsplit

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
PIECE_BYTES = 16384
RECEIVE_BYTES = 2**18  # of the socket's buffer, since a link that takes megabytes at once would not be slow


@dataclass(frozen=True)
class Request:
    """A request of the client."""

    method: str
    path: str  # /bucket/key, not percent-encoded
    query: str
    body_bytes: int
    range: str  # the header that asks for some of an object's bytes; empty where all are asked for


@dataclass(frozen=True)
class Answer:
    """The client gets an S3 error instead of the store's answer."""

    status: int = 503
    code: str = "SlowDown"
    applied: bool = False  # whether the store sees the request and deals with it


@dataclass(frozen=True)
class Drop:
    """The connection ends before the client gets an answer."""

    how: Literal["reset", "close", "stall"] = "reset"
    applied: bool = False  # whether the store sees the request and deals with it


@dataclass(frozen=True)
class Break:
    """The connection ends in the middle of the answer's body."""

    after_bytes: int  # of the body, which the client gets
    how: Literal["reset", "close", "stall"] = "reset"


@dataclass(frozen=True)
class Truncate:
    """The answer claims to be whole but holds only the first bytes of the body."""

    bytes: int


@dataclass(frozen=True)
class Flip:
    """The lowest bit of one byte of a body is turned over."""

    where: Literal["request", "answer"]
    at: int  # index of the byte; a body that has no such byte is left as it is


@dataclass(frozen=True)
class Delay:
    """The store sees the request that much later."""

    seconds: float


@dataclass(frozen=True)
class Throttle:
    """Request and answer pass at no more than that speed."""

    bytes_per_second: int


Fault: TypeAlias = Answer | Drop | Break | Truncate | Flip | Delay | Throttle
Plan: TypeAlias = Callable[[Request], Fault | None]
Hook: TypeAlias = Callable[[Request], None]


def in_turn(faults: Iterable[Fault | None], method: str = ".*", path: str = ".*") -> Plan:
    """A plan that gives each request that matches both patterns in full the next of the faults; None lets it pass."""
    remaining, matches = iter(faults), matching(method, path)
    return lambda request: next(remaining, None) if matches(request) else None


def at_first(count: int, fault: Fault) -> Plan:
    """A plan that gives that fault to the first `count` requests of each method and path."""
    seen: Counter[tuple[str, str]] = Counter()

    def plan(request: Request) -> Fault | None:
        seen[request.method, request.path] += 1
        return fault if seen[request.method, request.path] <= count else None

    return plan


def always(fault: Fault, method: str = ".*", path: str = ".*") -> Plan:
    """A plan that gives that fault to every request that matches both patterns in full."""
    return in_turn(repeat(fault), method, path)


def now_and_then(seed: int, fraction: float, faults: list[Fault]) -> Plan:
    """A plan that gives one of the faults to about that fraction of all requests."""
    chance = random.Random(seed)
    return lambda _: chance.choice(faults) if chance.random() < fraction else None


def matching(method: str = ".*", path: str = ".*") -> Callable[[Request], bool]:
    """A function that says whether a request matches both patterns in full."""
    return lambda request: bool(re.fullmatch(method, request.method) and re.fullmatch(path, request.path))


class HttpFaultProxy:
    """The proxy, a context manager; `url` is where it listens.

    Args:
        plan: called once for each request, always in the same thread.
        arrived: called before the store sees a request, in a thread of its own; it holds up that request alone.
        applied: called likewise once the store has dealt with a request, before the client gets the answer.
    """

    def __init__(
        self, target_port: int, plan: Plan = lambda _: None, arrived: Hook | None = None, applied: Hook | None = None
    ) -> None:
        self.plan = plan
        self.requests: list[tuple[Request, Fault | None]] = []
        self._target_port = target_port
        self._arrived, self._applied = arrived, applied
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    def injected(self) -> Counter[str]:
        """How many faults of each kind there were."""
        return Counter(type(fault).__name__ for _, fault in self.requests if fault is not None)

    async def _serve(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        listener.bind(("127.0.0.1", 0))
        server = await asyncio.start_server(self._connection, sock=listener)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._stop.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._loop.shutdown_default_executor()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        store_reader, store_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        try:
            # The proxy's end cancels open connections, for which asyncio would print a traceback.
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._exchange(reader, writer, store_reader, store_writer):
                    pass
        finally:
            store_writer.close()
            writer.close()

    async def _exchange(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        store_reader: asyncio.StreamReader,
        store_writer: asyncio.StreamWriter,
    ) -> bool:
        """Pass on one request and its answer, with the fault that is planned; whether the connection goes on."""
        head = _Head(await reader.readuntil(b"\r\n\r\n"))
        if head.value("expect"):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        size = int(head.value("content-length") or 0)
        request = head.request(size)
        fault = self.plan(request)
        self.requests.append((request, fault))
        speed = fault.bytes_per_second if isinstance(fault, Throttle) else None
        body = await _receive(reader, size, speed)
        await self._call(self._arrived, request)
        match fault:
            case Answer(applied=False):
                await _send(writer, _error(fault, request.method))
                return True
            case Drop(how, applied=False):
                return await self._end(writer, how)
            case Delay(seconds):
                await asyncio.sleep(seconds)
            case Flip("request", at):
                body = _flipped(body, at)
        await _send(store_writer, head.without("expect") + body)
        answer_head, answer = await _answer(store_reader, request.method)
        await self._call(self._applied, request)
        match fault:
            case Answer():
                await _send(writer, _error(fault, request.method))
                return True
            case Drop(how):
                return await self._end(writer, how)
            case Break(after_bytes, how) if after_bytes < len(answer):
                await _send(writer, answer_head.without("transfer-encoding") + answer[:after_bytes])
                return await self._end(writer, how)
            case Truncate(size):
                answer = answer[:size]
                answer_head = answer_head.with_length(size)
            case Flip("answer", at):
                answer = _flipped(answer, at)
        await _send(writer, answer_head.without("transfer-encoding") + answer, speed)
        return True

    async def _call(self, hook: Hook | None, request: Request) -> None:
        if hook is not None:
            await asyncio.to_thread(hook, request)

    async def _end(self, writer: asyncio.StreamWriter, how: str) -> bool:
        if how == "stall":
            await self._stop.wait()
        if how == "reset":
            await asyncio.sleep(0.05)  # A reset drops the bytes that have not been sent yet, so they get the time.
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            writer.transport.abort()
        return False


class _Head:
    """The first line and the headers of a request or an answer."""

    def __init__(self, raw: bytes) -> None:
        self.first, *self._headers = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")

    def value(self, name: str) -> str:
        """The value of the header of that lower-case name; empty where there is none."""
        return next((text.strip() for key, text in self._pairs() if key == name), "")

    def without(self, name: str) -> bytes:
        """The bytes of the head without the header of that lower-case name."""
        kept = [line for line in self._headers if line.partition(":")[0].lower() != name]
        return "\r\n".join([self.first, *kept, "", ""]).encode("latin-1")

    def with_length(self, size: int) -> "_Head":
        """The same head with another Content-Length."""
        return _Head(self.without("content-length").removesuffix(b"\r\n") + b"Content-Length: %d\r\n\r\n" % size)

    def request(self, body_bytes: int) -> Request:
        """The request that this is the head of."""
        method, target, _ = self.first.split(" ")
        parts = urlsplit(target)
        return Request(method, unquote(parts.path), parts.query, body_bytes, self.value("range"))

    def _pairs(self) -> Iterator[tuple[str, str]]:
        for line in self._headers:
            key, _, text = line.partition(":")
            yield key.lower(), text


async def _answer(reader: asyncio.StreamReader, method: str) -> tuple[_Head, bytes]:
    """Receive an answer to a request of that method: its head, which gives the body's length, and its body."""
    head = _Head(await reader.readuntil(b"\r\n\r\n"))
    status = int(head.first.split(" ")[1])
    if method == "HEAD" or status in {204, 304}:
        return head, b""
    if head.value("transfer-encoding") != "chunked":
        return head, await reader.readexactly(int(head.value("content-length") or 0))
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")
    return head.with_length(len(body)), body


async def _receive(reader: asyncio.StreamReader, size: int, bytes_per_second: int | None = None) -> bytes:
    if bytes_per_second is None:
        return await reader.readexactly(size)
    data = bytearray()
    while len(data) < size:
        piece = min(size - len(data), PIECE_BYTES)
        data += await reader.readexactly(piece)
        await asyncio.sleep(piece / bytes_per_second)
    return bytes(data)


async def _send(writer: asyncio.StreamWriter, data: bytes, bytes_per_second: int | None = None) -> None:
    piece_bytes = PIECE_BYTES if bytes_per_second is None else max(1, bytes_per_second // 20)
    for start in range(0, len(data), piece_bytes):
        writer.write(data[start : start + piece_bytes])
        await writer.drain()
        if bytes_per_second is not None:
            await asyncio.sleep(piece_bytes / bytes_per_second)


def _error(answer: Answer, method: str) -> bytes:
    body = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{answer.code}</Code><Message/></Error>".encode()
    head = f"HTTP/1.1 {answer.status} Error\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + (b"" if method == "HEAD" else body)


def _flipped(body: bytes, at: int) -> bytes:
    return body if at >= len(body) else body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
