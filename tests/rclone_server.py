"""A second S3 store for tests, `rclone serve s3` over a folder, which ignores the conditions of writes."""

import socket
import subprocess
import sysconfig
import time
from pathlib import Path
from typing import Self

from tests.s3_server import Keys

START_SECONDS = 30


class RcloneServer:
    """The store, a context manager; it keeps its data and log in `folder`."""

    keys = Keys("rclone-access", "rclone-secret")
    bucket = "bucket"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Self:
        (self._folder / "data" / self.bucket).mkdir(parents=True)
        for _ in range(5):
            port = _free_port()
            with (self._folder / "log").open("wb") as log:
                self._process = subprocess.Popen(
                    self._command(port), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
                )
            self.endpoint_url = f"http://127.0.0.1:{port}"
            if self._answers(port):
                return self
            self.__exit__()
        raise RuntimeError(f"rclone does not start: {(self._folder / 'log').read_text()[-2000:]}")

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def _command(self, port: int) -> list[str]:
        rclone = Path(sysconfig.get_path("scripts")) / "rclone"
        config = ("--config=/dev/null", f"--cache-dir={self._folder / 'cache'}", f"--temp-dir={self._folder}")
        keys = f"--auth-key={self.keys.access_key},{self.keys.secret_key}"
        return [str(rclone), "serve", "s3", *config, keys, f"--addr=127.0.0.1:{port}", str(self._folder / "data")]

    def _answers(self, port: int) -> bool:
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return True
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
