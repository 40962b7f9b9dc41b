"""Ends a command with its exit code, and with one last line that says the cause and the remedy."""

import os
import signal
import sys
import traceback
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path

import typer

from job.errors import ExitCode, JobError, code_of
from job.process.faults import fault_of_the_machine
from job.process.last_line import PROGRAM, show_last_line
from job.storage.files import NO_SPACE
from lora_engine.errors import EngineError
from lora_engine.system.garbage import leave_to_the_system
from lora_engine.system.limits import limit_hit
from lora_engine.text import printable, shortened

_CLOSED_PIPE = 128 + signal.SIGPIPE  # the exit code of a program that the signal has ended


def run_to_exit(app: typer.Typer) -> None:
    """Run the command that the arguments name and exit with its code; the last line says the cause and the remedy."""
    if isinstance(sys.stdout, TextIOWrapper):
        # A character that the terminal's encoding lacks would otherwise end the command with a traceback.
        sys.stdout.reconfigure(errors="backslashreplace")
    code = _guarded(app)
    if any(code == stop for stop in ExitCode if stop.is_stop or stop >= ExitCode.STORAGE_RETRIES):
        with suppress(OSError):  # The terminal may be gone.
            sys.stdout.flush()
        sys.stderr.flush()
        # Threads that the stop abandoned may wait for the network, and an ordinary exit waits for them: the platform
        # would kill this process before, and its exit code would be lost.
        os._exit(code)
    leave_to_the_system()
    sys.exit(code)


def _guarded(app: typer.Typer) -> int:
    """Run the command and return its exit code, having shown the error that ended it, if one did."""
    try:
        result = app(prog_name=PROGRAM, standalone_mode=False)
    except (JobError, EngineError) as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        return _fail(code_of(error), str(error))
    except (typer.Abort, KeyboardInterrupt):
        typer.echo("lora-job: Stopped.", err=True)
        return 128 + signal.SIGINT
    except SystemExit as error:
        if not error.code:  # The CLI library ends so, having said how a shell completes a line.
            return int(ExitCode.DONE)
        _drop_output()  # The libraries that write raise it when nobody reads standard output any more.
        return _CLOSED_PIPE
    except Exception as error:  # noqa: BLE001 - nobody further up could say what happened
        if (limit := limit_hit(error)) is not None:
            return _fail(ExitCode.RESOURCES, " ".join(limit))
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            _drop_output()
            what = f"{error.filename or 'Standard output'} cannot be written: {error.strerror}."
            return _fail(ExitCode.RESOURCES, _one_line(f"{what} Free disk space, or write elsewhere."))
        if (fault := fault_of_the_machine(error)) is not None:
            return _fail(fault.code, str(fault))
        if hasattr(error, "format_message"):  # It is the CLI library's own, about an argument that does not fit.
            message = error.format_message()
            command = getattr(getattr(error, "ctx", None), "command_path", PROGRAM)
            if not message:
                return int(ExitCode.USAGE)
            return _fail(ExitCode.USAGE, _one_line(f"{_ended(message)} Try `{command} --help`."))
        traceback.print_exc()
        what = shortened(f"{type(error).__name__}: {error}", 1000)
        return _fail(ExitCode.BUG, _one_line(f"{what}. This is a bug in lora-job; please report it."))
    return int(result) if isinstance(result, int) else 0


def _drop_output() -> None:
    """Let standard output lead nowhere.

    Python flushes it at its end, which would fail as writing did, and change the exit code.
    """
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)


def _ended(message: str) -> str:
    """The CLI library's message as a sentence that has an end."""
    return message if message.endswith((".", "?", "!")) else f"{message}."


def _one_line(message: str) -> str:
    return printable(" ".join(message.split()))


def _fail(code: ExitCode, message: str) -> int:
    """Show the last line and return the exit code."""
    show_last_line(code, message)
    return int(code)
