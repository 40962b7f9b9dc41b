"""The picture that a manifest gives the adapters, small enough to stand in their files."""

import io

from PIL import Image

from job.errors import ExitCode, JobError
from job.run.context import Attempt
from job.run.downloads import fetch_object
from job.storage import is_remote
from job.storage.uris import local_path
from lora_engine.config.data import PreprocessConfig
from lora_engine.images.decode import decode_image
from lora_engine.images.unread import RejectedImageError

_SIDE = 256  # pixels of the longer side
_QUALITY = 85


def read_thumbnail(attempt: Attempt) -> bytes | None:
    """A small JPEG of the picture that `output.thumbnail` names; None where it names none.

    Raises:
        JobError: 41 when it is no image that can be read, 42 when there is none.
    """
    source = attempt.manifest.output.thumbnail
    if source is None:
        return None
    path = local_path(source)
    if is_remote(source):
        settings = attempt.manifest.output_storage()
        path = fetch_object(attempt, source, settings, attempt.workdir / "thumbnail")
    try:
        image = decode_image(path, PreprocessConfig(resolution=_SIDE))
    except FileNotFoundError as error:
        raise JobError(
            ExitCode.STORAGE_ACCESS, f"output.thumbnail: there is no file at {path}.", "Correct output.thumbnail."
        ) from error
    except (RejectedImageError, OSError) as error:
        raise JobError(
            ExitCode.DATA, f"output.thumbnail: {path.name} cannot be used: {error}.", "Name another picture."
        ) from error
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
