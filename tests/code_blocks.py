"""The code blocks of a page of the documentation, so that tests do what it shows."""

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.lora_job import FOUND, server_address

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class CodeBlock:
    """A fenced block: the word behind its opening fence, and the text between the fences."""

    language: str
    text: str
    line: int  # of the opening fence; 1 is the first


def code_blocks(page: Path) -> list[CodeBlock]:
    """The page's blocks in their order."""
    text = page.read_text()
    blocks = [CodeBlock(match[1], match[2], text.count("\n", 0, match.start()) + 1) for match in _BLOCK.finditer(text)]
    assert 2 * len(blocks) == len(re.findall("^ *```", text, re.MULTILINE)), f"{page}: a fence that belongs to no block"
    return blocks


def run_bash(block: CodeBlock, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a block as a user would who pastes it, with `lora-job` on the PATH, until its first command that fails."""
    path = f"{FOUND.parent}{os.pathsep}{os.environ['PATH']}"
    environ = os.environ | {"PATH": path, "LORA_JOB_SERVER": server_address(), "OMP_NUM_THREADS": "1"} | (env or {})
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        cwd=cwd,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
