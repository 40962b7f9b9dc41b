"""The caption strategies that are timed, in a manifest's words and as what they make of an image's own caption."""

from collections.abc import Callable

_PROMPT, _HINTS = "a tattoo design", "clean line tattoo, stencil, high contrast"

STRATEGIES: dict[str, Callable[[str], str]] = {
    "vanilla": lambda _: _PROMPT,
    "own": lambda caption: caption,
    "own_plus": lambda caption: f"{caption}, {_HINTS}",
}
VARIANTS = [
    {"name": "vanilla", "captions": {"strategy": "constant", "text": _PROMPT}},
    {"name": "own", "captions": {"strategy": "existing"}},
    {"name": "own_plus", "captions": {"strategy": "existing", "style_hints": _HINTS}},
]
