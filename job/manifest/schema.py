"""The manifest's models: every key that may stand in it, and what its values may be."""

import os
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from job.errors import JobError
from job.manifest.limits import LimitsConfig
from job.manifest.models import BaseModelConfig, CaptionerModelConfig, ScoredEvaluationConfig
from job.manifest.names import part_name, run_name, variant_name
from job.manifest.overrides import schemas_of_keys
from job.manifest.places import DataSource, Destination, Endpoint, Region
from job.manifest.trackers import Trackers
from job.storage.base import StorageSettings
from job.storage.uris import as_folder, local_path, scheme_of
from lora_engine.captions.strategies import captioners_of
from lora_engine.config.adapter import LoraConfig
from lora_engine.config.base import Config
from lora_engine.config.captions import CAPTIONER, CaptionsConfig, PromptTemplate
from lora_engine.config.data import PreprocessConfig, SplitConfig
from lora_engine.config.models import DeviceChoice
from lora_engine.config.training import TrainingConfig
from lora_engine.models.accepted import is_single_file

MOST_VARIANTS = 64
START = "lora.init_from"  # the key of a LoRA's file that an adapter starts from
MANIFEST_VARIABLE = "LORA_JOB_MANIFEST"  # a variable of the environment that holds a manifest's place or its text


class StorageConfig(Config):
    """How to reach an S3 store. Credentials come from the AWS chain."""

    endpoint_url: Endpoint | None = Field(
        default=None, description="Of a store that is not AWS, e.g. http://minio:9000."
    )
    region: Region | None = None
    addressing_style: Literal["auto", "path", "virtual"] = "auto"


class DatasetConfig(SplitConfig):
    """The images, and how many of them are held out."""

    source: DataSource = Field(
        description="A folder, prefix, .zip, .tar or .tar.gz: a local path or s3://...; or miniature://drawings. "
        "In a folder, links to files are followed; links to other folders are ignored, and said."
    )
    follow_links: bool = Field(
        default=False,
        description="Read captions through links that lead out of the folder, too. Without it such a link is followed "
        "where its image's leads into the same folder, or the same store of git-annex or DVC, and else left out.",
    )
    storage: StorageConfig | None = Field(default=None, description="Keys that differ from the manifest's `storage`.")

    @property
    def split(self) -> SplitConfig:
        """The keys that decide which images are held out."""
        return SplitConfig(validation_fraction=self.validation_fraction, validation_min=self.validation_min)


class OutputConfig(Config):
    """Where results go."""

    destination: Destination = Field(
        description="A folder or s3://... The run's files go below <destination>/<name>/, which must not lie in the "
        "dataset's folder."
    )
    storage: StorageConfig | None = Field(default=None, description="Keys that differ from the manifest's `storage`.")
    cache: Destination | None = Field(default=None, description="Default: <destination>/.cache, shared by all runs.")
    unfenced: bool = Field(
        default=False,
        description="Go on where the store ignores conditional writes, so that two processes could write one run.",
    )
    keep_checkpoints: int | None = Field(
        default=None,
        ge=2,
        description="Of each adapter, keep the newest so many, the best, the one with the lowest loss, and those of "
        "steps at which another of its pack ends; without it, all.",
    )
    license: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="Under which the adapters may be used, such as CC-BY-4.0; written into their files.",
    )
    description: str | None = Field(
        default=None,
        min_length=1,
        max_length=2000,
        description="What the adapters are, for people who see them in a program; written into their files.",
    )
    thumbnail: Destination | None = Field(
        default=None,
        description="A picture, a path or s3://..., that programs show beside the adapters; a small copy is written "
        "into their files.",
    )


class VariantConfig(Config):
    """One adapter's captions, and what it does differently."""

    name: Annotated[str, AfterValidator(variant_name)]
    captions: CaptionsConfig
    lora: dict[str, Any] = Field(default={}, description="Keys of `lora` that differ.")
    training: dict[str, Any] = Field(default={}, description="Keys of `training` that differ.")
    sweep: dict[str, tuple[Any, ...]] = Field(
        default={},
        exclude=True,
        description="In place of this variant, one for each combination of these values of dotted keys, such as "
        "`{training.optimizer.learning_rate: [1e-4, 2e-4], lora.rank: [8, 16]}`. They are named after them: "
        "`blip-lr1e-4-r8`. These names stand in all else, as in evaluation.pairs; `--set` takes this one's: "
        "`variants.blip.sweep.lora.rank=[4]`.",
    )
    prompt_template: PromptTemplate | None = Field(
        default=None,
        description="How samples prompt the adapter as it was trained, with {prompt} and {trigger}: "
        "`{prompt}, clean line tattoo`. Default: trigger, constant text and style hints where they stand in training.",
    )
    seed_offset: int = Field(
        default=0,
        ge=0,
        lt=2**63,
        description="Added to `seeds` for this variant alone. Beside a variant of the same captions it shows how much "
        "two trainings differ by chance.",
    )


class ModelPlace(NamedTuple):
    """A model that the study reads: the manifest's key that names it, and the values there."""

    key: str
    source: str
    allow_pickle: bool = False
    is_lora: bool = False  # whether it is the file of a LoRA


class Manifest(Config):
    """One study: the same images, one adapter per variant and seed."""

    apiVersion: Literal["lora-job/v1"]  # spelt as in Kubernetes
    name: Annotated[str, AfterValidator(run_name)] = Field(
        description="The run's folder under the destination; the same manifest again resumes it."
    )
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field(
        default=(1337,), min_length=1, max_length=64, description="Every variant is trained once per seed."
    )
    device: DeviceChoice = Field(
        default="auto",
        description="auto is a GPU where there is one; cuda ends with exit code 44 without one. No part of what the "
        "run is: it may go on with another, in the precision that it began with.",
    )
    storage: StorageConfig = StorageConfig()
    base_model: BaseModelConfig
    dataset: DatasetConfig
    preprocess: PreprocessConfig = PreprocessConfig()
    captioner: CaptionerModelConfig | None = Field(
        default=None, description="The one that strategies ask which name no other; its name is `captioner`."
    )
    captioners: dict[Annotated[str, AfterValidator(part_name)], CaptionerModelConfig] = Field(
        default={},
        max_length=16,
        description="More captioners by name, which `captions: {strategy: captioner, captioner: NAME}` asks.",
    )
    variants: tuple[VariantConfig, ...] = Field(min_length=1, max_length=MOST_VARIANTS)
    split_packs_by: tuple[Literal["variant", "seed"], ...] = Field(
        default=(),
        description="Make smaller packs, of one variant or one seed each, that several machines can train at a time.",
    )
    lora: LoraConfig = LoraConfig()
    training: TrainingConfig
    evaluation: ScoredEvaluationConfig = ScoredEvaluationConfig()
    limits: LimitsConfig = LimitsConfig()
    output: OutputConfig
    trackers: Trackers = Field(
        default=(),
        max_length=3,
        description="Programs that show the run as it goes on: names, or mappings with a name and options. No part of "
        "what the run is, and none can hold it up.",
    )

    @model_validator(mode="after")
    def _check_names(self) -> "Manifest":
        names = [variant.name for variant in self.variants]
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise ValueError(f"variants: two are named {double!r}; each needs a name of its own")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {list(self.seeds)} holds one twice; each seed once")
        return self

    @model_validator(mode="after")
    def _check_triggers(self) -> "Manifest":
        for variant in self.variants:
            if "{trigger}" in (variant.prompt_template or "") and not variant.captions.trigger:
                raise ValueError(
                    f"variants: the prompt_template of {variant.name!r} holds {{trigger}}, but its captions have none; "
                    "write captions.trigger"
                )
        return self

    @model_validator(mode="after")
    def _check_seed_offsets(self) -> "Manifest":
        offset_of = dict.fromkeys(self.seeds, 0)
        for variant in self.variants:
            for seed in self.seeds:
                moved = seed + variant.seed_offset
                if offset_of.setdefault(moved, variant.seed_offset) != variant.seed_offset or moved >= 2**63:
                    raise ValueError(
                        f"variants: with seed_offset {variant.seed_offset}, {variant.name!r} trains with seed {moved}, "
                        "which is another's in this study or too large; a seed_offset that keeps them apart"
                    )
        return self

    @model_validator(mode="after")
    def _check_captioner(self) -> "Manifest":
        if self.captioner is not None and CAPTIONER in self.captioners:
            raise ValueError(f"captioners: {CAPTIONER} is the name of what stands under captioner; another name")
        for variant in self.variants:
            for name in captioners_of([variant.captions]):
                if name not in self.named_captioners():
                    wanted = (
                        "captioner: {source: ...}" if name == CAPTIONER else f"captioners: {{{name}: {{source: ...}}}}"
                    )
                    known = f" (there are {', '.join(self.named_captioners())})" if self.named_captioners() else ""
                    raise ValueError(
                        f"variants: {variant.name!r} asks the captioner {name!r}, but there is no such one{known}; "
                        f"write {wanted}"
                    )
        return self

    @model_validator(mode="after")
    def _check_evaluation(self) -> "Manifest":
        curve, final = self.evaluation.timesteps, self.evaluation.final_timesteps
        if final % curve:
            raise ValueError(
                f"evaluation: final_timesteps {final} is not a multiple of timesteps {curve}, "
                "so the curve would not be a part of the final grid"
            )
        names, compared = {variant.name for variant in self.variants}, self.evaluation.pairs
        for pair in compared if isinstance(compared, tuple) else ():
            if not names >= set(pair) or pair[0] == pair[1]:
                raise ValueError(
                    f"evaluation: pairs holds {list(pair)}; two names of variants: {', '.join(sorted(names))}"
                )
        if isinstance(compared, tuple) and len({frozenset(pair) for pair in compared}) < len(compared):
            raise ValueError("evaluation: pairs holds a pair twice; each pair once")
        return self

    @model_validator(mode="after")
    def _check_places(self) -> "Manifest":
        source = self.dataset.source
        places = {"destination": f"{as_folder(self.output.destination)}{self.name}", "cache": self.output.cache}
        for key, place in places.items():
            if place is not None and self._is_in_dataset(place):
                raise ValueError(
                    f"output.{key}: a place outside of dataset.source {source!r}, for what a run writes to {place!r} "
                    "would be taken for images"
                )
        return self

    def _is_in_dataset(self, place: str) -> bool:
        """Whether a place of the output lies in the dataset's folder or prefix."""
        source, scheme = self.dataset.source, scheme_of(place)
        if scheme != scheme_of(source):
            return False
        if scheme == "file":
            try:
                folder, within = (as_folder(os.path.realpath(local_path(uri))) for uri in (source, place))
            except JobError:  # one of them names no path, which is reported when it is opened
                return False
            return within.startswith(folder)
        same_store = self.dataset_storage().endpoint_url == self.output_storage().endpoint_url
        return same_store and as_folder(place).startswith(as_folder(source))

    def named_captioners(self) -> dict[str, CaptionerModelConfig]:
        """All captioners by their names; `captioner` comes first."""
        return ({} if self.captioner is None else {CAPTIONER: self.captioner}) | self.captioners

    def captioner_key(self, name: str) -> str:
        """The manifest's key of the captioner of that name, for messages."""
        return CAPTIONER if name == CAPTIONER and self.captioner is not None else f"captioners.{name}"

    def models(self) -> Iterator[ModelPlace]:
        """The models that the study reads. A base model in one file needs `components`, which come before it."""
        base, samples = self.base_model, self.evaluation.samples
        if is_single_file(base.source):
            yield ModelPlace("base_model.components", base.components)
        yield ModelPlace("base_model.source", base.source, base.allow_pickle)
        if base.vae is not None:
            yield ModelPlace("base_model.vae", base.vae, base.allow_pickle)
        for at, merged in enumerate(base.merge):
            yield ModelPlace(f"base_model.merge[{at}].source", merged.source, is_lora=True)
        for name, captioner in self.named_captioners().items():
            yield ModelPlace(f"{self.captioner_key(name)}.source", captioner.source, captioner.allow_pickle)
        if samples is not None and samples.clip is not None:
            yield ModelPlace("evaluation.samples.clip.source", samples.clip.source, samples.clip.allow_pickle)
        for source in dict.fromkeys(self.starts().values()):
            yield ModelPlace(START, source, is_lora=True)

    def starts(self) -> dict[str, str]:
        """The LoRA's file that each variant starts from, of those that start from one."""
        named = {variant.name: variant.lora.get("init_from", self.lora.init_from) for variant in self.variants}
        return {name: source for name, source in named.items() if source is not None}

    @model_serializer(mode="wrap")
    def _as_given(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """With a start from a file, settings that are not given are not written: the file says them."""
        values: dict[str, Any] = dump(self)
        if self.starts() and isinstance(values.get("lora"), dict):
            given = self.lora.model_fields_set
            values["lora"] = {key: value for key, value in values["lora"].items() if key in given}
        return values

    def dataset_storage(self) -> StorageSettings:
        """The settings of the store that holds the dataset."""
        return self._storage(self.dataset.storage)

    def output_storage(self) -> StorageSettings:
        """The settings of the store that holds the destination and the cache."""
        return self._storage(self.output.storage)

    def model_storage(self) -> StorageSettings:
        """The settings of the store that holds the models."""
        return self._storage(None)

    def _storage(self, own: StorageConfig | None) -> StorageSettings:
        """The manifest's `storage` with the keys of a part's own laid over it."""
        settings = self.storage.model_dump(exclude_unset=True)
        if own is not None:
            settings |= own.model_dump(exclude_unset=True)
        return StorageSettings(**settings)


def manifest_schema() -> dict[str, Any]:
    """JSON Schema of the manifest, for editors."""
    schema = Manifest.model_json_schema()
    definitions = schema["$defs"]
    for name, model in (("lora", LoraConfig), ("training", TrainingConfig)):
        partial = dict(definitions[model.__name__], required=[])
        definitions[f"{model.__name__}Override"] = partial
        definitions["VariantConfig"]["properties"][name] = {"$ref": f"#/$defs/{model.__name__}Override"}
    _close_sweeps(definitions)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "lora-job manifest"} | schema


def _close_sweeps(definitions: dict[str, Any]) -> None:
    """Have the schema of a variant's `sweep` allow the keys alone that there are, each with a list of its values."""
    sweep = definitions["VariantConfig"]["properties"]["sweep"]
    lists = {
        key: {"type": "array", "minItems": 1, "uniqueItems": True, "items": items}
        for key, items in schemas_of_keys().items()
    }
    sweep |= {"additionalProperties": False, "properties": lists}
