"""Help, examples, hints at what was meant, and a shell that completes."""

import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from job.cli.commands import app
from tests.lora_job import COLD, lora_job


def commands(group: Any, *words: str) -> Iterator[tuple[str, ...]]:
    """The words of every command, and of every group of them."""
    yield words
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, *words, name)


@pytest.mark.parametrize("words", [*commands(typer.main.get_command(app))], ids=" ".join)
def test_every_help_ends_with_examples_of_its_command(words: tuple[str, ...]) -> None:
    short, long = (lora_job(*words, option, env={"COLUMNS": "100"}) for option in ("-h", "--help"))
    assert (short.returncode, short.stdout) == (0, long.stdout)
    assert f"Usage: {' '.join(['lora-job', *words])} " in short.stdout
    examples = [line.strip() for line in short.stdout.partition("Examples:")[2].splitlines() if line.strip()]
    assert examples
    assert all(line.startswith((" ".join(["lora-job", *words]), "--")) for line in examples)
    assert max(map(len, examples)) < 79, "an example fits a line of any terminal"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("vaildate",), "Did you mean 'validate'? Try `lora-job --help`."),
        (("render", "kubernets"), "Did you mean 'kubernetes'? Try `lora-job render --help`."),
        (("status", "runs/m", "--folow"), "--follow). Try `lora-job status --help`."),
    ],
)
def test_what_is_misspelt_is_guessed_at(command: tuple[str, ...], says: str) -> None:
    done = lora_job(*command)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert done.stderr.strip().endswith(says)


def test_the_version() -> None:
    done = lora_job("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("lora-job 0.")


def bash(home: Path, script: str) -> str:
    path = f"{COLD.parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"HOME": str(home), "PATH": path}
    done = subprocess.run(
        ["bash", "--norc", "-c", script], cwd=home, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("lora-job st", ["status"]),
        ("lora-job status --fol", ["--follow"]),
        ("lora-job render k", ["kubernetes"]),
        ("lora-job sample runs/m --device c", ["cuda", "cpu"]),
    ],
)
def test_bash_completes_with_the_script_that_is_shown(tmp_path: Path, line: str, completed: list[str]) -> None:
    words = shlex.split(line)
    script = f"""
        source <(lora-job --show-completion)
        COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}
        $(complete -p lora-job | sed 's/.*-F \\([^ ]*\\) .*/echo \\1/' | bash) lora-job
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    assert sorted(bash(tmp_path, script).split()) == sorted(completed)


def test_completion_is_installed_for_the_shell_that_asks(tmp_path: Path) -> None:
    said = bash(tmp_path, "lora-job --install-completion; true")
    assert "bash completion installed" in said
    assert "complete " in bash(tmp_path, "source ~/.bashrc; complete -p lora-job")


def test_all_commands_say_the_same_of_a_run_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    for name in ("nothing", "other"):
        place = tmp_path / name
        says = f"lora-job: There is no run at {place}. Name a run: <destination>/<name>.\n"
        for command in (("status", place), ("report", place), ("collect", place, tmp_path / "to")):
            done = lora_job(*command)
            assert (done.returncode, done.stderr) == (42, says)
        done = lora_job("sample", place, "--prompt", "a heart")
        assert (done.returncode, done.stderr) == (42, says)
