"""Feeds damaged checkpoints to their reader: it raises ValueError and nothing else."""

import json
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save

from lora_engine.adapters.formats import read_adapter, read_state
from mutate import fuzz


def seeds() -> list[bytes]:
    """Real files, and headers that lie."""
    weights = {f"unet.a.{part}.weight": torch.ones(2, 3) for part in ("lora_A", "lora_B")}
    kinds = [torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.float8_e4m3fn]
    mixed = {f"{kind}": torch.ones(4).to(kind) for kind in kinds} | {"step": torch.tensor(3), "none": torch.zeros(0, 5)}
    result = [save(weights, {"format": "pt"}), save(mixed)]
    names = ("F4", "F6_E2M3", "F8_E8M0", "C64", "U64", "X", "", "F32")
    for dtype in names:
        for shape, end in (([1], 4), ([2**62, 4], 16), ([0], 0), ([-1], 4), ([1.5], 4), ([], 4)):
            header = json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}}).encode()
            result.append(len(header).to_bytes(8, "little") + header + bytes(end))
    return result + [size.to_bytes(8, "little") + b"{}" for size in (0, 2, 2**32, 2**63, 2**64 - 1)]


def read(data: bytes, path: Path) -> str:
    """Read as an adapter and as a state, which agree."""
    path.write_bytes(data)
    outcomes = set()
    for reader in (read_adapter, read_state):
        try:
            reader(path)
            outcomes.add("read")
        except ValueError:
            outcomes.add("ValueError")
    assert len(outcomes) == 1, "both readers agree"
    return outcomes.pop()


def main() -> int:
    """Fuzz for a while."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        for data in seeds():
            read(data, path)
        return fuzz(lambda data: read(data, path), seeds(), Path("fuzz-crashes/checkpoint_reader"))


if __name__ == "__main__":
    sys.exit(main())
