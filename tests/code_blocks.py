"""The fenced blocks of a document, so that a test can run what the document shows."""

import re
from pathlib import Path


def blocks(path: Path, language: str) -> list[str]:
    """The text of every block of the language, in order; of the empty one, those that name none."""
    return re.findall(rf"^```{re.escape(language)}\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
