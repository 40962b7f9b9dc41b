"""An image as people run it, with podman or docker: read-only, no capabilities, a user whom the image does not know."""

import os
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

IMAGE = os.environ.get("LORA_JOB_IMAGE", "")
TOOL = os.environ.get("CONTAINER", "podman")
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # two busy cores serve one thread better than two that wait for each other
STRANGER = "12345:12345"
LOCKED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
# podman would lay writable folders over /tmp, /run and /var/tmp
NO_TEMPORARY = ("--read-only-tmpfs=false",) if Path(TOOL).name == "podman" else ()


class Container:
    """One container, named so that it can be stopped and looked at; `remove` it with its volumes."""

    def __init__(
        self,
        *arguments: str,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        user: str = STRANGER,
        network: str = "host",
        locked: bool = True,
        stdin: bytes | None = None,
    ) -> None:
        self.name = f"lora-job-{uuid.uuid4().hex[:12]}"
        command = [TOOL, "run", "--name", self.name, "--network", network, "--user", user]
        command += ["--interactive"] if stdin is not None else []
        command += [*LOCKED, *NO_TEMPORARY] if locked else []
        for name, value in (_ONE_THREAD | dict(env or {})).items():
            command += ["--env", f"{name}={value}"]
        self._process = subprocess.Popen(
            [*command, *options, IMAGE, *arguments],
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._stdin = stdin

    def wait(self) -> int:
        """The exit code; what it said is in `stdout` and `stderr` from then on."""
        stdout, stderr = self._process.communicate(self._stdin, timeout=900)
        self.stdout, self.stderr = stdout.decode(), stderr.decode()
        return self._process.returncode

    def has_started(self) -> bool:
        """Whether its first process runs, or has ended."""
        return self._process.poll() is not None or ask("inspect", "--format", "{{.State.Running}}", self.name) == "true"

    def has_ended(self) -> bool:
        """Whether it ended by itself."""
        return self._process.poll() is not None

    def remove(self) -> None:
        """Kill it if it still runs, and remove its volumes."""
        subprocess.run([TOOL, "rm", "--force", "--volumes", self.name], capture_output=True, check=False)


def ask(*arguments: str) -> str:
    """What the tool answers; nothing when it fails."""
    done = subprocess.run([TOOL, *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def stop(container: Container) -> int:
    """Send SIGTERM until it ends; the exit code. One signal may come before the interpreter is there to hear it."""
    for _ in range(100):
        ask("kill", "--signal", "TERM", container.name)
        if container.has_ended():
            break
    return container.wait()


def wait_until(happened: Callable[[], bool], what: str) -> None:
    """Ask until it has happened."""
    for _ in range(3000):
        if happened():
            return
        time.sleep(0.1)
    raise AssertionError(f"waited in vain for {what}")
