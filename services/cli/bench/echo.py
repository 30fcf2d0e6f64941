"""A bare grpc.aio server that answers every call with the same bytes: `python -m services.cli.bench.echo`, and its owner's side.

It reads the length of the answer on one line of stdin, then the answer; writes its port; and ends with its stdin.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from typing import Self

import grpc
import grpc.aio

from services.cli.bench.load import child_environment
from shared.errors import UnavailableError

_START_TIMEOUT = 30.0
_STOP_TIMEOUT = 5.0


class EchoServer:
    """The server as a process; an async context manager.

    Args:
        answer: What it answers every unary call with, whatever the method.

    Attributes:
        address: Where it listens.
    """

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._process: Process | None = None
        self.address = ""

    async def __aenter__(self) -> Self:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.cli.bench.echo", stdin=PIPE, stdout=PIPE, env=child_environment()
        )
        self._process = process
        if process.stdin is None or process.stdout is None:
            raise AssertionError("the process was started with pipes")
        process.stdin.write(f"{len(self._answer)}\n".encode() + self._answer)
        port = await asyncio.wait_for(process.stdout.readline(), _START_TIMEOUT)
        if not port:
            raise UnavailableError("the echo server has ended: its error stands above", component="bench")
        self.address = f"127.0.0.1:{int(port)}"
        return self

    async def __aexit__(self, *_: object) -> None:
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _STOP_TIMEOUT)
        except TimeoutError:
            process.kill()
            await process.wait()


class _AnyMethod(grpc.GenericRpcHandler):
    """Handles every method alike."""

    def __init__(self, handler: grpc.RpcMethodHandler[bytes, bytes]) -> None:
        self._handler = handler

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """The one handler."""
        del handler_call_details  # every method is answered alike
        return self._handler


async def main() -> None:
    """Serves until stdin ends."""
    answer = sys.stdin.buffer.read(int(sys.stdin.buffer.readline()))

    async def echo(_request: bytes, _context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return answer

    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers((_AnyMethod(grpc.unary_unary_rpc_method_handler(echo)),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.buffer.read)
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(main())
