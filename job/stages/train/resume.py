"""Finds the checkpoints that a pack's training continues from, and removes those that are not kept."""

import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from torch import Tensor

from job import layout
from job.errors import ExitCode, JobError
from job.layout import Member
from job.run import checkpoints
from job.storage.files import DamagedObjectError
from job.storage.folder import RunFolder
from lora_engine.adapters.formats import read_state
from lora_engine.adapters.names import STATE_NAME

States = dict[str, dict[str, Tensor]]  # adapter name to its state, as `PackTrainer.state` gives it


def rewind(
    run: RunFolder,
    ends: Mapping[Member, int],
    scratch: Path,
    warn: Callable[[str], None],
    run_id: str | None = None,
) -> tuple[int, States]:
    """The newest step at which every member has a whole checkpoint, and the members' states; 0 where none was made yet.

    A member that has done all of its steps before is there with the checkpoint of its last. Checkpoints after that step
    are removed: another member has none of their step, or one is damaged.

    Args:
        ends: the steps that each member of a pack is to be trained for.
        scratch: the folder that checkpoints are downloaded to for as long as they are read.
        warn: called with a sentence for each step that is passed over.
        run_id: of the run whose checkpoints are believed, see `run_id_of`.

    Raises:
        JobError: 46 when checkpoints were made, but there is no step at which those of all members are whole.
    """
    committed = {member: set(checkpoints.committed_steps(run, member)) for member in ends}
    common = [
        step
        for step in sorted(set.union(*committed.values()), reverse=True)
        if all(min(step, end) in committed[member] for member, end in ends.items())
    ]
    step, states = 0, States()
    for candidate in common:
        try:
            states = {
                member.adapter_name: _read_whole(run, member, min(candidate, end), scratch, run_id)
                for member, end in ends.items()
            }
        except _NotWholeError as error:
            warn(f"{error} The training continues from the checkpoint before.")
        else:
            step = candidate
            break
    # A stop during the first commit leaves checkpoints of some members alone, and training begins anew. Anything else
    # without a whole step means that checkpoints were lost, and to begin anew would hide it.
    if step == 0 and (common or any(len(steps) > 1 for steps in committed.values())):
        names = ", ".join(member.adapter_name for member in ends)
        raise JobError(
            ExitCode.CONFLICT,
            f"There is no step of which the checkpoints of all of {names} in {run.root} are whole.",
            "Restore one from a copy, or start under another name: --set name=...",
        )
    for member, steps in committed.items():
        for later in sorted(steps - set(range(step + 1)), reverse=True):
            checkpoints.remove(run, member, later)
    return step, states


class _NotWholeError(Exception):
    """A checkpoint lacks a file or holds other bytes than its commit lists."""


def _read_whole(run: RunFolder, member: Member, step: int, scratch: Path, run_id: str | None) -> dict[str, Tensor]:
    """Fetch and check every file of a checkpoint, and give the state that it holds.

    Raises:
        _NotWholeError: a file is missing, damaged or cannot be read.
    """
    where = f"{member.adapter_name} at step {step}"
    try:
        found = checkpoints.read_commit(run, member, step, run_id)
        found.file(STATE_NAME)
        for name in (entry.path for entry in found.files):
            key = f"{layout.checkpoint(member, step)}/{name}"
            if not run.exists(key):
                raise _NotWholeError(f"The checkpoint of {where} lacks {name}.")
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            for name in (entry.path for entry in found.files):
                checkpoints.fetch_file(run, found, name, Path(folder) / name)
            return read_state(Path(folder) / STATE_NAME)
    except DamagedObjectError as error:
        raise _NotWholeError(f"The checkpoint of {where} is damaged: {error.cause}") from error
    except ValueError as error:
        raise _NotWholeError(f"The checkpoint of {where} cannot be read: {error}.") from error
    except JobError as error:
        if error.code == ExitCode.CONFLICT:
            raise _NotWholeError(f"The checkpoint of {where} cannot be read: {error.cause}") from error
        raise


def collect_garbage(run: RunFolder, member: Member, keep: int, always: Iterable[int]) -> None:
    """Remove a member's checkpoints but for the newest `keep` and those of the steps in `always`."""
    steps = checkpoints.committed_steps(run, member)
    for step in steps[:-keep]:
        if step not in set(always):
            checkpoints.remove(run, member, step)
