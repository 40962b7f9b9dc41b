"""Renders the page: templates, one a section, filled with the comparison and with what the run holds beside it."""

from collections.abc import Mapping
from typing import Any

from job import layout
from job.report.charts import curves, forest, svg, timestep_losses, win_rates
from job.report.elements import json_in_script, policy_hash
from job.report.findings import Findings
from job.report.page.beside import embedded, publish_beside, relative, remove_others
from job.report.page.gallery import read_gallery
from job.report.page.images import read_images
from job.report.page.matrix import matrix_of
from job.report.page.numbers import Numbers
from job.report.schema import Comparison
from job.report.sides import beats_of, cells_of, share_captions
from job.report.table import adapters
from job.report.templating import TEMPLATES, environment
from job.report.usage import usage_of, use_in_a1111, use_in_comfyui, use_in_diffusers, use_in_forge
from lora_engine.text import shortened

_LARGEST = 4_500_000  # bytes of the page, as far as that depends on the pictures that it holds itself
_LONGEST_MANIFEST = 60_000  # characters of it that are shown
_MOST_PAIRS = 100  # of which all numbers are shown
_MOST_POINTS = 1000  # of held-out curves, likewise
_OF_THUMBNAILS = 0.3  # of the room for pictures, at most
_ROWS_AT_FIRST = 8  # of the table of pictures
_WEB_UIS = {"A1111": use_in_a1111, "Forge": use_in_forge, "ComfyUI": use_in_comfyui}
_SECTIONS = (
    ("answer", "Answer"),
    ("pictures", "Pictures"),
    ("people", "People"),
    ("differences", "Differences"),
    ("losses", "Curves"),
    ("captions", "Captions and images"),
    ("use", "Use it"),
    ("making", "How it was made"),
)


def publish_page(found: Findings) -> None:
    """Write the page, its pictures first; then remove those that an earlier page showed.

    Raises:
        JobError: 46 when a file of the run is missing or damaged.
    """
    run, comparison = found.run, found.comparison
    gallery, images = read_gallery(run, found.pictures), read_images(run, found.resolved, comparison)
    pictures = gallery.copies(run) | images.thumbnails(run)
    publish_beside(run, layout.REPORT_PICTURES, pictures, found.check)
    data, chosen = comparison.model_dump(mode="json"), comparison.verdict.recommended
    used = next(i for i, m in enumerate(comparison.members) if (m.variant, m.seed) == (chosen.variant, chosen.seed))
    judged = [at for at, pair in enumerate(comparison.pairs) if pair.verdict is not None]
    has = {"pictures": bool(gallery.rows), "people": comparison.ratings is not None}
    values = {
        "c": comparison,
        "n": Numbers(data),
        "table": adapters(comparison),
        "matrix": matrix_of(comparison),
        "gallery": gallery,
        "has_rating": run.exists(layout.RATING_PAGE),
        "images": images,
        "beside": relative,
        "name_of_sample": {key: name for name, key in gallery.files.items()},
        "manifest": shortened((run.read(layout.MANIFEST) or b"").decode(errors="replace"), _LONGEST_MANIFEST),
        "sections": [section for section in _SECTIONS if has.get(section[0], True)],
        "training_seeds": len({member.seed for member in comparison.members}),
        "judged": judged[:_MOST_PAIRS],
        "more_pairs": len(judged) > _MOST_PAIRS,
        "all_points": sum(len(member.validation) for member in comparison.members) <= _MOST_POINTS,
        "charts": _charts(comparison),
        "blocks": list(dict.fromkeys(block for m in comparison.members if m.norms for block in m.norms.blocks)),
        "adapters": [entry.kohya.path for entry in found.adapters.adapters],
        "to_use": found.recommended,
        "used_member": used,
        "used_choice": "final" if comparison.members[used].best is None else "best",
        "usage": usage_of(found.resolved, found.recommended),
        "use_in_diffusers": use_in_diffusers,
        "web_uis": _WEB_UIS,
    }

    def page(held: Mapping[str, str], thumbnails: Mapping[str, str]) -> bytes:
        return _page(
            gallery_json=json_in_script(gallery.as_json(held)),
            picture_of=lambda name: thumbnails.get(name) or held.get(name) or relative(name),
            **values,
        )

    room = _LARGEST - len(page({}, {}))
    thumbnails = embedded(run, images.names.values(), int(room * _OF_THUMBNAILS))
    held = embedded(run, gallery.first, room - sum(map(len, thumbnails.values())))
    run.write(layout.PAGE, page(held, thumbnails))
    remove_others(run, layout.REPORT_PICTURES, pictures)


def _charts(comparison: Comparison) -> dict[str, str]:
    """The charts as elements of the page; empty where there is nothing to show."""
    found = {
        "curves": (
            curves(comparison),
            "Loss curves",
            "Held-out loss as trained and training loss of every adapter, by step; the table has the held-out ones.",
            "members",
        ),
        "forest": (
            forest(comparison),
            "Differences",
            "The differences of every pair with their intervals, prompted in each way; the tables have the numbers.",
            "pairs",
        ),
        "timesteps": (
            timestep_losses(comparison),
            "Loss by timestep",
            "Loss less the base model's in ranges of timesteps; the table below has the numbers.",
            "members",
        ),
        "votes": (
            win_rates(comparison),
            "Votes",
            "The share of votes for the first of every pair with its interval; the table has the numbers.",
            "ratings",
        ),
    }
    return {name: "" if chart[0] is None else svg(chart[0], *chart[1:]) for name, chart in found.items()}


def _page(**values: Any) -> bytes:
    """The page with the values that its templates name."""
    style, script = ((TEMPLATES / "page" / name).read_text() for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; script-src '{policy_hash(script)}'; style-src '{policy_hash(style)}'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'"
    )
    page = (
        environment()
        .get_template("page/page.html.j2")
        .render(
            style=style,
            script=script,
            policy=policy,
            rows_at_first=_ROWS_AT_FIRST,
            cells_of=cells_of,
            beats_of=beats_of,
            share_captions=share_captions,
            **values,
        )
    )
    return page.encode()
