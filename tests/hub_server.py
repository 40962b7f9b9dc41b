"""A model hub on 127.0.0.1 that serves folders, with as much of its interface as a download needs."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer:
    """The hub, which runs from the making of the object to `stop`; `requested` holds the files that were asked for.

    Args:
        repositories: name of a repository to the folder with its files.
    """

    def __init__(self, repositories: dict[str, Path]) -> None:
        self.requested: set[str] = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(body=True)

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def _answer(self, *, body: bool) -> None:
                found = hub._find(urlsplit(self.path).path, repositories)
                self.send_response(200 if found is not None else 404)
                if found is None:
                    self.send_header("X-Error-Code", "EntryNotFound")
                if found is not None:
                    self.send_header("ETag", f'"{hashlib.sha256(found).hexdigest()}"')
                    self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(found or b"")))
                self.end_headers()
                if body:
                    self.wfile.write(found or b"")

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _find(self, path: str, repositories: dict[str, Path]) -> bytes | None:
        for name, folder in repositories.items():
            files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
            if path.startswith(f"/api/models/{name}/revision/"):
                return json.dumps({"id": name, "sha": COMMIT}).encode()
            if path.startswith(f"/api/models/{name}/tree/"):
                sizes = {file: (folder / file).stat().st_size for file in files}
                entries = [{"type": "file", "path": file, "size": sizes[file], "oid": COMMIT} for file in files]
                return json.dumps(entries).encode()
            if path.startswith(f"/{name}/resolve/"):
                file = path.removeprefix(f"/{name}/resolve/").partition("/")[2]
                self.requested.add(file)
                return (folder / file).read_bytes() if file in files else None
        return None

    def stop(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._server.server_close()
