"""The kinds of adapters that are trained here, and why others are not."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

ELSEWHERE = "LyCORIS trains it with kohya's sd-scripts: https://github.com/KohakuBlueleaf/LyCORIS"
_WHOLE = "so every adapter of a pack would need weights of its own in place of the base's, and diffusers loads none"

# By the name that trainers have for a kind, in small letters without punctuation: why it is not trained.
_REFUSED: Mapping[str, str] = {
    "loha": f"LoHa multiplies two low-rank updates value by value, {_WHOLE}",
    "lokr": f"LoKr is a Kronecker product, {_WHOLE}",
    "oft": f"OFT rotates the base's weights, {_WHOLE}",
    "boft": f"BOFT rotates the base's weights, {_WHOLE}",
    "ia3": "IA3 scales what layers give, and has no matrices to train or to merge as LoRA's are",
    "glora": f"GLoRA multiplies and moves the base's weights, {_WHOLE}",
    "dylora": "DyLoRA trains at another rank in every update; lora-job export makes a LoRA smaller",
    "full": "LyCORIS' full trains whole weights, and no adapter",
}
_ALIASES = {"diagoft": "oft", "oft2": "oft", "oftv2": "oft", "native": "full", "lohatucker": "loha"}


def why_not(kind: str) -> str | None:
    """Why adapters of a kind that others train are not trained here, and where they are; None for any other word."""
    squeezed = "".join(filter(str.isalnum, kind.lower()))
    name = _ALIASES.get(squeezed, squeezed)
    reason = _REFUSED.get(name)
    return None if reason is None else f"{reason}; {ELSEWHERE}"


def _of_two_matrices(value: Any) -> Any:
    """The kind as it is written.

    Raises:
        ValueError: it is one that is trained elsewhere.
    """
    if isinstance(value, str):
        if (reason := why_not(value)) is not None:
            raise ValueError(f"lora or dora, since {reason}")
        if value.lower() == "locon":
            raise ValueError("lora, with target_modules: full for LoCon's layers, which are those of convolutions, too")
    return value


Kind = Annotated[Literal["lora", "dora"], BeforeValidator(_of_two_matrices)]
