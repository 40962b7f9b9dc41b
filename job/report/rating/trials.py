"""The trials of a blind rating: which pictures stand beside each other, and in which order."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Kind = Literal["plain", "repeat", "identical"]


@dataclass(frozen=True)
class Picture:
    """A picture that is shown."""

    name: str  # 16 hex digits, of the file report/rating/<name>.webp; the same drawn sample has the same name
    contender: str  # the variant; empty for the base model
    seed: int | None  # the training seed; None for the base model


@dataclass(frozen=True)
class Trial:
    """Two or three pictures of one prompt and sample seed, in the order in which they stand on the page."""

    prompt: int  # its place among the prompts
    sample_seed: int
    pictures: tuple[Picture, ...]
    kind: Kind  # repeat: an earlier trial once more; identical: one of the pictures stands twice
    of: int | None = None  # the place of the trial that is repeated


@dataclass(frozen=True)
class Trials:
    """All that a page of a blind rating asks."""

    run: str  # name
    run_id: str
    question: str
    prompts: tuple[str, ...]  # bare
    trials: tuple[Trial, ...]

    @cached_property
    def page_sha256(self) -> str:
        """A hash of what the page shows."""
        shown = {
            "run_id": self.run_id,
            "question": self.question,
            "prompts": self.prompts,
            "trials": [
                {
                    "prompt": trial.prompt,
                    "sample_seed": trial.sample_seed,
                    "pictures": [picture.name for picture in trial.pictures],
                }
                for trial in self.trials
            ],
        }
        return hashlib.sha256(canonical(shown).encode()).hexdigest()


def canonical(value: object) -> str:
    """A value as JSON of which hashes are made: sorted keys, no spaces, nothing escaped but what must be."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
