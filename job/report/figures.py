"""Settings that all plots of the report share."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def plain_labels() -> Iterator[None]:
    """Have labels plotted as they are written: a dollar begins no formula, and a character without a glyph is a box."""
    import matplotlib as mpl

    with mpl.rc_context({"text.parse_math": False, "text.usetex": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        yield
