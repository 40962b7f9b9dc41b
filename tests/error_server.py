"""A server on 127.0.0.1 that answers every request alike, as a store, STS, an agent or a web page may."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

_S3 = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
_STS = (
    "<ErrorResponse xmlns='https://sts.amazonaws.com/doc/2011-06-15/'><Error><Type>Sender</Type><Code>{code}</Code>"
    "<Message>{message}</Message></Error></ErrorResponse>"
)


def s3_error(code: str, message: str = "") -> bytes:
    """The body with which S3 refuses a request."""
    return _S3.format(code=code, message=message).encode()


def sts_error(code: str, message: str = "") -> bytes:
    """The body with which STS refuses a request."""
    return _STS.format(code=code, message=message).encode()


class ErrorServer:
    """A context manager; `url` is where it listens, and `answer` may be changed at any time."""

    def __init__(self, status: int, body: bytes) -> None:
        self.answer = status, body
        self.requests = 0  # so far
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                server.requests += 1
                status, body = server.answer
                self.rfile.read(int(self.headers.get("content-length") or 0))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
