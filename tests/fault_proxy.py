"""A TCP proxy on 127.0.0.1 that breaks connections as a test plans them."""

import asyncio
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Self

RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Fault:
    """A fault of one connection. The request always passes."""

    kind: Literal["refuse", "reset", "close", "stall"]
    after_bytes: int = 0  # of the answer, which pass before the fault happens


class FaultProxy:
    """A context manager that gives its connections the faults of `plan` in turn, and leaves further ones alone."""

    def __init__(self, target_port: int, plan: Iterable[Fault] = ()) -> None:
        self._target_port = target_port
        self._plan = deque(plan)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self._stop = asyncio.Event()
        self.connections = 0  # so far
        self.stalled = threading.Event()  # set once a connection hangs

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        fault = self._plan.popleft() if self._plan else None
        if fault is not None and fault.kind == "refuse":
            _reset(writer)
            return
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        upward = asyncio.create_task(_copy(reader, up_writer))
        try:
            if await _copy(up_reader, writer, fault.after_bytes if fault else None):
                await self._break(fault, writer)
        finally:
            upward.cancel()
            up_writer.close()
            writer.close()

    async def _break(self, fault: Fault | None, writer: asyncio.StreamWriter) -> None:
        if fault is not None and fault.kind == "stall":
            self.stalled.set()
            await self._stop.wait()
        if fault is not None and fault.kind == "reset":
            _reset(writer)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int | None = None) -> bool:
    """Pass bytes on until the sender ends, and return False, or until `limit` have passed, and return True."""
    passed = 0
    try:
        while limit is None or passed < limit:
            data = await reader.read(65536 if limit is None else min(65536, limit - passed))
            if not data:
                return False
            passed += len(data)
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        return False
    return True


def _reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    writer.transport.abort()
