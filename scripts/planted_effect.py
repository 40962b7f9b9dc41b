"""Make the folder of manifests/planted-effect.yaml, a study of which the answer is known.

Usage: planted_effect.py FOLDER. It gets the miniature drawings, each beside the caption that the manifest's
captioner gives another one.
"""

import argparse
import random
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from job.manifest.load import load_manifest
from job.manifest.schema import Manifest
from job.storage.uris import local_path
from lora_engine import miniature
from lora_engine.captions.rules import clean
from lora_engine.config.captions import BlipCaptions
from lora_engine.evaluation.components import shuffle
from lora_engine.images.prepare import preprocess_images
from lora_engine.images.sidecars import split_sidecars
from lora_engine.images.sources import list_files
from lora_engine.images.split import assign
from lora_engine.models.captioner import load_captioner
from lora_engine.models.files import LocalModel
from lora_engine.records import ImageRecord
from lora_engine.system.device import find_device
from lora_engine.system.quiet import quiet_libraries

ROOT = Path(__file__).resolve().parents[1]
MANIFEST = ROOT / "manifests" / "planted-effect.yaml"
DRAWINGS = miniature.folder("drawings")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    quiet_libraries()
    records, texts = captioned(load_manifest(MANIFEST.read_bytes(), MANIFEST.name))
    others = shuffled(texts, [record.id for record in records])
    write(folder, records, others)
    kept = sum(text == other for text, other in zip(texts, others, strict=True))
    held_out = [pair for pair in zip(records, others, strict=True) if pair[0].split == "validation"]
    naming = sum(subject(record) in other.split() for record, other in held_out)
    print(f"{folder}: {len(records)} drawings with {len(set(texts))} different captions; {kept} keep their own.")
    print(f"{naming} of the {len(held_out)} that are held out have a caption that names what they show.")
    print(f"Next: lora-job run {MANIFEST.relative_to(ROOT)} --set dataset.source={folder}")


def captioned(manifest: Manifest) -> tuple[list[ImageRecord], list[str]]:
    """The drawings as the job records them, and the text that strategy blip gives to each."""
    config = manifest.captioner
    assert config is not None, "a study with strategy blip names a captioner"
    pictures, _ = split_sidecars(list(list_files(DRAWINGS)))
    with tempfile.TemporaryDirectory() as scratch:
        prepared = list(preprocess_images(pictures, manifest.preprocess, Path(scratch)))
        records = [record for record in assign(prepared, manifest.preprocess, manifest.dataset.split) if record.used]
        paths = {image.id: image.path for image in prepared if image.path is not None}
        captioner = load_captioner(LocalModel(local_path(config.source)), config, find_device())
        raw = dict(captioner.caption((record.id, paths[record.id]) for record in records))
    cleaning = BlipCaptions(strategy="blip").cleaning
    return records, [clean(raw[record.id], cleaning).text for record in records]


def shuffled(texts: Sequence[str], ids: Sequence[str]) -> list[str]:
    """The texts, each at another image: no image has its own text, unless more than half of the texts are equal."""
    order = sorted(range(len(texts)), key=lambda at: (texts[at], ids[at]))
    result = list(shuffle(texts, ids))
    # So far images that shared a text share one again, and training can learn new names for the same subjects. Random
    # exchanges leave it nothing to learn.
    dice = random.Random("planted effect")
    for one in order:
        other = dice.choice(order)
        if result[other] != texts[one] and result[one] != texts[other]:
            result[one], result[other] = result[other], result[one]
    return result


def subject(record: ImageRecord) -> str:
    """What a drawing shows, which its file is named after."""
    return record.source.partition("-")[0]


def write(folder: Path, records: Sequence[ImageRecord], texts: Sequence[str]) -> None:
    """Write the drawings with these texts beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for record, text in zip(records, texts, strict=True):
        shutil.copy(DRAWINGS / record.source, folder)
        (folder / record.source).with_suffix(".txt").write_text(f"{text}\n")


if __name__ == "__main__":
    main()
