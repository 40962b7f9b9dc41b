"""Writes `report/rate.html`, the pictures that it shows, and nothing else that could tell whose they are."""

import io
import os
from functools import partial
from pathlib import Path

from job import layout
from job.report.elements import json_in_script, policy_hash
from job.report.findings import Findings
from job.report.page.beside import publish_beside, remove_others
from job.report.rating.drawn import Rating, Sample, read_rating
from job.report.samples import read_picture
from job.report.templating import TEMPLATES, environment
from job.storage import is_remote
from job.storage.files import local_errors
from job.storage.folder import RunFolder
from job.storage.uris import local_path
from lora_engine.evaluation.ratings.trials import Trials
from lora_engine.text import printable

_QUALITY = 90  # of WebP, from 0 to 100
_SCRIPTS = ("sha256.js", "votes.js", "rate.js")  # one after the other


def publish_rating(found: Findings) -> None:
    """Write the page for blind rating, its pictures first; remove what an earlier one showed and this one does not.

    Raises:
        JobError: 46 when a sample is missing or damaged.
    """
    run = found.run
    rating = read_rating(run, found.resolved, found.pictures)
    if rating is None:
        if run.exists(layout.RATING_PAGE):
            run.delete(layout.RATING_PAGE)
        remove_others(run, layout.RATED, ())
        return
    _publish_pictures(found, rating)
    run.write(layout.RATING_PAGE, render_rating(rating.trials))
    remove_others(run, layout.RATED, rating.samples)


def _publish_pictures(found: Findings, rating: Rating) -> None:
    """Have the pictures beside the page: all of them made anew where one is missing, and as old as the run.

    Pictures of a training that went on would else be newer than the base model's, and so be told from them.
    """
    run, names = found.run, sorted(rating.samples)
    there = {key for key, _ in run.list(layout.RATED)}
    if not there.issuperset(layout.rated_picture(name) for name in names):
        remove_others(run, layout.RATED, ())
    makers = {name: partial(_picture, run, rating.samples[name]) for name in names}
    publish_beside(run, layout.RATED, makers, found.check)
    if not is_remote(run.root):
        for name in names:
            _date(local_path(run.uri(layout.rated_picture(name))), int(found.resolved.started_at))


def _date(path: Path, seconds: int) -> None:
    """Have a file be of that time, in seconds since 1970; what a link leads to is somebody else's."""
    with local_errors(path):
        if path.lstat().st_mtime != seconds:
            os.utime(path, (seconds, seconds), follow_symlinks=False)


def _picture(run: RunFolder, sample: Sample) -> bytes:
    """A sample as WebP of its own size, and nothing besides the pixels. Raises JobError 46 where it is damaged."""
    image = read_picture(run, sample.key, "PNG", sha256=sample.sha256)
    image.info.clear()  # A colour profile would be written, too.
    data = io.BytesIO()
    image.save(data, "WEBP", quality=_QUALITY)
    return data.getvalue()


def render_rating(trials: Trials) -> bytes:
    """The page. It holds no name of a contender, and not which trials are catch trials."""
    folder = TEMPLATES / "rating"
    style = (folder / "rate.css").read_text()
    script = "\n".join((folder / name).read_text() for name in _SCRIPTS)
    policy = (
        f"default-src 'none'; script-src '{policy_hash(script)}'; style-src '{policy_hash(style)}'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'"
    )
    study = {
        "run": trials.run,
        "run_id": trials.run_id,
        "page": trials.page_sha256,
        "question": trials.question,
        "folder": layout.RATED.removeprefix(f"{layout.REPORT}/"),
        "prompts": [printable(prompt) for prompt in trials.prompts],
        "trials": [
            {"prompt": trial.prompt, "pictures": [picture.name for picture in trial.pictures]}
            for trial in trials.trials
        ],
    }
    page = (
        environment()
        .get_template("rating/rate.html.j2")
        .render(
            question=trials.question,
            count=len(trials.trials),
            folder=study["folder"],
            style=style,
            script=script,
            policy=policy,
            study=json_in_script(study),
        )
    )
    return page.encode()
