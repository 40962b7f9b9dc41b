"""The ranks and alphas that sd-scripts give to blocks of the UNet, as `lora.patterns` says them."""

from collections.abc import Iterator, Mapping
from typing import Any

from job.convert.arguments import numbers

_BLOCKS = 25  # of which number 12 is the middle
_MIDDLE = 12
Size = tuple[float | None, float | None]  # rank and alpha


def patterns(said: Mapping[str, str], usual: Size, of_convolutions: Size) -> tuple[dict[str, Any], str]:
    """What layers of blocks have in place of the settings for all.

    Args:
        said: `block_dims`, `block_alphas`, `conv_block_dims` and `conv_block_alphas`, those of them that are written.
        usual: of all layers.
        of_convolutions: of those of 3x3; a rank of None for none.

    Returns:
        The patterns; and why there are none, or "".
    """
    lists = {name: numbers(text) for name, text in said.items()}
    if any(len(found) != _BLOCKS for found in lists.values()):
        return {}, f"it has no {_BLOCKS} numbers"
    made: dict[str, Any] = {}
    has_convolutions = of_convolutions[0] is not None or "conv_block_dims" in lists
    for number, begin, is_attention in _begins():
        prefix, wanted = ("", usual) if is_attention else ("conv_", of_convolutions)
        if not is_attention and not has_convolutions:
            continue
        rank = lists[f"{prefix}block_dims"][number] if f"{prefix}block_dims" in lists else wanted[0]
        alpha = lists[f"{prefix}block_alphas"][number] if f"{prefix}block_alphas" in lists else wanted[1]
        if not rank:
            return {}, "a block of rank 0 is left out there, which lora.target_modules says here, by names of layers"
        if (rank, alpha) != wanted:
            made[begin] = {"rank": rank, "alpha": alpha}
    return made, ""


def _begins() -> Iterator[tuple[int, str, bool]]:
    """The number of each part of a block, the beginning of its layers' names, and whether it is of attention."""
    for at in range(4):
        for part in range(3):
            if part < 2:
                yield 1 + 3 * at + part, f"down_blocks.{at}.resnets.{part}", False
            elif at < 3:
                yield 1 + 3 * at + part, f"down_blocks.{at}.downsamplers", False
            if part < 2 and at < 3:
                yield 1 + 3 * at + part, f"down_blocks.{at}.attentions.{part}", True
    yield _MIDDLE, "mid_block.attentions", True
    yield _MIDDLE, "mid_block.resnets", False
    for at in range(4):
        for part in range(3):
            yield _MIDDLE + 1 + 3 * at + part, f"up_blocks.{at}.resnets.{part}", False
            if at:
                yield _MIDDLE + 1 + 3 * at + part, f"up_blocks.{at}.attentions.{part}", True
        if at < 3:
            yield _MIDDLE + 1 + 3 * at + 2, f"up_blocks.{at}.upsamplers", False
