"""`resolved.json`: what was decided for a run that its manifest leaves open, as later attempts and reports read it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ConfigDict, Field, model_validator

from job import layout
from job.layout import Member
from job.manifest.packs import BY_PASS, BY_SETTINGS, Pack, Starts, packs_of, resolve_variants
from job.run.context import Attempt
from job.run.identity import (
    Identity,
    merged_name,
    model_name,
    start_name,
)
from job.storage.stored import StoredJson
from lora_engine.config.captions import CAPTIONER, PromptTemplate
from lora_engine.config.evaluation import EvaluationConfig, Pairs, Question, RatingConfig
from lora_engine.config.models import DtypeName, PredictionType
from lora_engine.models.files import LocalModel


class PackDecision(StoredJson):
    """The decisions about one pack."""

    index: int
    members: tuple[Member, ...] = Field(min_length=1)
    differs: tuple[str, ...] = ()  # dotted fields in which the pack is not like pack 0
    precision: DtypeName  # that the frozen base model computes in


class ModelDecision(StoredJson):
    """A frozen model that the run was begun with."""

    source: str
    sha256: str  # of its files, see `model_sha256`


class BaseModelDecision(ModelDecision):
    """The base model that the run was begun with."""

    prediction_type: PredictionType | None = None  # what it was trained to predict; None where that is not known
    zero_terminal_snr: bool = False  # whether its last timestep was noise alone


class MergeDecision(ModelDecision):
    """A LoRA that is merged into the base model."""

    strength: float


class StartDecision(ModelDecision):
    """The file that a variant's adapters start from."""

    lora: dict[str, Any] = {}  # the settings of the adapter that the file decides


class ModelDecisions(StoredJson):
    """The frozen models that decide what is trained."""

    base: BaseModelDecision
    vae: ModelDecision | None = None  # the one that the base model is used with; None for its own
    captioner: ModelDecision | None = None  # the one of that name
    captioners: dict[str, ModelDecision] = {}  # the others by their names
    merge: tuple[MergeDecision, ...] = ()  # what is merged into the base model
    starts: dict[str, StartDecision] = {}  # variant to what its adapters start from, of those that start from a file

    def are_of(self, base: LocalModel, starts: Mapping[str, Path] = MappingProxyType({})) -> bool:
        """Whether the base model, the VAE that it is used with, and what is merged into it are these.

        Args:
            starts: the files that variants start from, which have to be these, too.
        """
        vae = None if base.vae is None else base.part("vae").sha256
        same = (self.base.sha256, None if self.vae is None else self.vae.sha256) == (base.sha256, vae)
        begun = {variant: LocalModel(path).sha256 for variant, path in starts.items()}
        same_starts = {variant: start.sha256 for variant, start in self.starts.items()} == begun
        return same and same_starts and self.are_merged_into(base)

    def are_merged_into(self, base: LocalModel) -> bool:
        """Whether what is merged into the base model are these files, at these strengths."""
        merged = [(LocalModel(merge.path).sha256, merge.strength) for merge in base.merge]
        return [(merge.sha256, merge.strength) for merge in self.merge] == merged

    def hashes(self) -> dict[str, str]:
        """The hashes of the models' files, as `identity` takes them."""
        others = {model_name(name): model.sha256 for name, model in self.captioners.items()}
        only = {} if self.captioner is None else {CAPTIONER: self.captioner.sha256}
        vae = {} if self.vae is None else {"vae": self.vae.sha256}
        merged = {merged_name(at): merge.sha256 for at, merge in enumerate(self.merge)}
        starts = {start_name(variant): start.sha256 for variant, start in self.starts.items()}
        return {"base": self.base.sha256} | vae | only | others | merged | starts

    def start_settings(self) -> Starts:
        """The settings that the files decide which variants start from, as `resolve_variants` takes them."""
        return {variant: start.lora for variant, start in self.starts.items()}


# How adapters are scored, see `HeldOut`. A run that does not say it was begun by a version that did it otherwise.
SCORING = 2


class SampleDecision(StoredJson):
    """Which samples are the study's own."""

    set: str  # the name of their folder; empty for the first that the run asked for
    key: str  # see `samples_key`


class SeenRating(StoredJson):
    """The manifest's `evaluation.rating`, of which reports ask for this key and keep the rest."""

    model_config = ConfigDict(extra="allow")

    question: Question = RatingConfig().question


class SeenEvaluation(StoredJson):
    """The manifest's `evaluation`, of which later attempts and reports ask for these keys and keep the rest."""

    model_config = ConfigDict(extra="allow")

    timesteps: int = Field(ge=1)
    final_timesteps: int = Field(ge=1)
    pairs: Pairs | None = None
    equivalence_margin: float = EvaluationConfig().equivalence_margin
    samples: dict[str, Any] | None = None
    rating: SeenRating = SeenRating()


class SeenVariant(StoredJson):
    """A variant of the manifest, of which later attempts and reports ask for these keys and keep the rest."""

    model_config = ConfigDict(extra="allow")

    name: str
    prompt_template: PromptTemplate | None = None


class SeenOutput(StoredJson):
    """The manifest's `output`, of which reports ask for this key and keep the rest."""

    model_config = ConfigDict(extra="allow")

    license: str | None = None


class SeenManifest(StoredJson):
    """The manifest as an attempt read it, with all defaults. Keys that only another version knows are kept."""

    model_config = ConfigDict(extra="allow")

    name: str
    variants: tuple[SeenVariant, ...] = Field(min_length=1)
    base_model: dict[str, Any]
    captioner: dict[str, Any] | None = None
    captioners: dict[str, dict[str, Any]] = {}
    evaluation: SeenEvaluation
    output: SeenOutput = SeenOutput()


class Resolved(StoredJson):
    """`resolved.json`: the decisions about all that the manifest leaves open, and the identity of the run."""

    schema_version: int = Field(default=1, alias="schema")
    run_id: str | None = None  # by which its checkpoints know it; None where an earlier version began it
    # When the first attempt was here, in seconds since 1970 and before the year 10000.
    started_at: float = Field(ge=0, lt=253_402_300_800)
    manifest: SeenManifest
    identity: Identity
    scoring: int = Field(default=1, ge=1, le=SCORING)  # of the version that began the run, kept to its end
    fenced: bool = True  # whether the store keeps a second writer out
    data_sha256: str
    caption_sets: tuple[str, ...]
    set_of_variant: dict[str, str]  # variant to caption set
    packing: int = Field(default=BY_SETTINGS, ge=BY_SETTINGS, le=BY_PASS)  # by which rule adapters were put together
    packs: tuple[PackDecision, ...] = Field(min_length=1)
    models: ModelDecisions
    samples: SampleDecision | None = None  # None where no attempt asked for samples, or an earlier version did
    earlier_samples: tuple[SampleDecision, ...] = ()  # that attempts asked for before

    @property
    def sample_set(self) -> str:
        """The name of the folder of the study's own samples."""
        return self.samples.set if self.samples else ""

    @model_validator(mode="after")
    def _check_variants(self) -> "Resolved":
        members = {member for pack in self.packs for member in pack.members}
        trained, seeds = {member.variant for member in members}, {member.seed for member in members}
        if not trained <= self.identity.variants.keys() & self.set_of_variant.keys():
            raise ValueError("a variant that is trained has no identity, or no caption set")
        if len(members) < len(trained) * len(seeds):
            raise ValueError("a variant is not trained with every seed")
        pairs = self.manifest.evaluation.pairs
        if isinstance(pairs, tuple) and not all(a != b and {a, b} <= trained for a, b in pairs):
            raise ValueError("a pair that is compared is not of two variants that are trained")
        return self

    def precision(self, pack: Pack) -> DtypeName:
        """The dtype that the pack's frozen base model computes in."""
        return self.packs[pack.index].precision


def read_resolved(attempt: Attempt) -> Resolved | None:
    """The decisions of earlier attempts; None where no attempt has come so far."""
    return attempt.run.read_stored(layout.RESOLVED, Resolved)


def with_packs_as_begun(attempt: Attempt) -> Attempt:
    """The attempt with the variants and packs that its run was begun with.

    An earlier version may have put the packs together, and files that variants start from say what these are like.
    """
    resolved = read_resolved(attempt)
    if resolved is None:
        return attempt
    return _with_packs(attempt, resolved.packing, None, resolved.models.start_settings())


def with_counted_steps(attempt: Attempt, resolved: Resolved, images: int) -> Attempt:
    """The attempt once it is known how many images are trained on, by which epochs are steps."""
    return _with_packs(attempt, resolved.packing, images, resolved.models.start_settings())


def with_starts(attempt: Attempt, starts: Starts) -> Attempt:
    """The attempt once it is known what the files decide that variants start from, see `resolve_variants`."""
    resolved = read_resolved(attempt)
    return _with_packs(attempt, BY_PASS if resolved is None else resolved.packing, None, starts)


def _with_packs(attempt: Attempt, packing: int, images: int | None, starts: Starts) -> Attempt:
    starts = {name: settings for name, settings in starts.items() if name in attempt.manifest.starts()}
    variants = resolve_variants(attempt.manifest, images, starts)
    return replace(attempt, variants=variants, packs=packs_of(attempt.manifest, packing, images, starts))
