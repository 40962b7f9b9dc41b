"""How large an adapter's updates are, by block, as its last checkpoint holds them."""

from pathlib import Path
from tempfile import TemporaryDirectory

from job import layout
from job.errors import ExitCode, JobError
from job.report.schema import AdapterNorms
from job.run import checkpoints
from job.run.checkpoints import RESTORE, Commit
from job.storage.files import DamagedObjectError, MissingObjectError
from job.storage.folder import RunFolder
from lora_engine.adapters.lora_file import read_lora
from lora_engine.adapters.names import kohya_name
from lora_engine.adapters.updates import WHOLE, norms
from lora_engine.errors import ModelError


def read_norms(run: RunFolder, commit: Commit) -> AdapterNorms | None:
    """The norms of a checkpoint's updates, from its file in kohya's format; None where it has layers of no known UNet.

    Raises:
        JobError: 46 when the file is not what the commit lists.
    """
    name = kohya_name(commit.variant)
    try:
        with TemporaryDirectory() as folder:
            checkpoints.fetch_file(run, commit, name, Path(folder) / name)
            found = norms(read_lora(Path(folder) / name))
    except ModelError:
        return None
    except (DamagedObjectError, MissingObjectError) as error:
        uri = run.uri(f"{layout.checkpoint(commit.member, commit.step)}/{name}")
        raise JobError(ExitCode.CONFLICT, f"{uri} is not as it was committed: {error.cause}", RESTORE) from error
    return AdapterNorms(whole=found.pop(WHOLE), blocks=found)
