"""A terminal that a test looks at: a pseudo-terminal of a known width, and what stands on its screen."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path

_PIECE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|\x1b.|\r|\n|[^\x1b\r\n]+")


def _heed_interrupts() -> None:
    """Let Ctrl-C act as on any terminal, even where the tests themselves were started in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class OnTerminal:
    """A command that was started with a terminal of so many columns as its standard streams."""

    def __init__(self, command: Sequence[str | Path], cwd: Path, columns: int, env: Mapping[str, str]) -> None:
        self._main, child = pty.openpty()
        fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd,
            env=environ | {"TERM": "xterm-256color"} | env,
            stdin=child,
            stdout=child,
            stderr=child,
            start_new_session=True,
            preexec_fn=_heed_interrupts,  # noqa: PLW1509 - no thread of the tests holds a lock that it needs
        )
        os.close(child)
        self._data = b""

    def read_until(self, text: str | None) -> str:
        """What was written up to and with the text, or up to the command's end for None."""
        while text is None or text not in self.written:
            try:
                data = os.read(self._main, 65536)
            except OSError:  # Linux says so when the last process has closed the terminal.
                data = b""
            if not data:
                assert text is None, f"{text!r} was never written: {self.written}"
                break
            self._data += data
        return self.written

    @property
    def written(self) -> str:
        """All that was written so far, with its control sequences."""
        return self._data.decode(errors="replace")

    def end(self) -> int:
        """Read to the command's end, and give its exit code."""
        self.read_until(None)
        os.close(self._main)
        return self.process.wait()


def screens(written: str) -> list[list[str]]:
    """The rows that stood on the screen after each line was drawn, without colours and trailing blanks."""
    rows, y, x, found = [""], 0, 0, []
    for piece in _PIECE.finditer(written):
        text = piece[0]
        if text == "\r":
            found.append([row.rstrip() for row in rows])
            x = 0
        elif text == "\n":
            y, x = y + 1, 0
            rows += [""] * (y + 1 - len(rows))
        elif piece[2] == "A":
            y = max(0, y - int(piece[1] or 1))
        elif piece[2] == "K":
            rows[y] = ""
        elif not text.startswith("\x1b"):
            rows[y] = rows[y][:x].ljust(x) + text + rows[y][x + len(text) :]
            x += len(text)
    return [*found, [row.rstrip() for row in rows]]
