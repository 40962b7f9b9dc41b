"""What the report's pictures share."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def plain_labels() -> Iterator[None]:
    """Labels show as they are written: a dollar begins no formula, a sign that the font lacks is a box."""
    import matplotlib as mpl

    with mpl.rc_context({"text.parse_math": False, "text.usetex": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        yield
