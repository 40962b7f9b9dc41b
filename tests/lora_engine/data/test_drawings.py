import subprocess
import sys
from itertools import combinations
from pathlib import Path

from PIL import Image, ImageChops

from lora_engine.config.data import PreprocessConfig
from lora_engine.data.perceptual_hash import perceptual_hash
from lora_engine.data.sidecars import read_sidecars
from lora_engine.data.sources import list_files

ROOT = Path(__file__).parents[3]
SAMPLES = ROOT / "samples" / "drawings"


def test_the_script_draws_the_samples_again(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "scripts" / "make_drawings.py"), str(tmp_path)], check=True)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in SAMPLES.iterdir()}
    for path in SAMPLES.glob("*.png"):
        with Image.open(path) as shipped, Image.open(tmp_path / path.name) as drawn:
            assert ImageChops.difference(shipped, drawn).getbbox() is None, path.name
    for path in SAMPLES.glob("*.txt"):
        assert (tmp_path / path.name).read_text() == path.read_text()


def test_samples_are_small_captioned_and_all_different() -> None:
    assert sum(path.stat().st_size for path in SAMPLES.iterdir()) < 250_000
    captions = read_sidecars(list(list_files(SAMPLES)))
    assert len(captions) == 48
    hashes = {}
    for key, caption in captions.items():
        assert caption.endswith(key.split("-")[0])
        with Image.open(SAMPLES / key) as image:
            hashes[key] = int.from_bytes(perceptual_hash(image))
    closest = min((a ^ b).bit_count() for a, b in combinations(hashes.values(), 2))
    assert closest > 4 * PreprocessConfig().near_duplicate_distance
