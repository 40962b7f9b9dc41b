"""`lora-job sample`: makes of the options what is to be drawn."""

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from job import env
from job.errors import ExitCode, JobError
from job.manifest.limits import LimitsConfig
from job.manifest.places import ModelSource
from job.manifest.prompt_file import read_prompts
from job.manifest.prompt_line import read_prompt
from job.process.cores import settle_threads
from job.process.deadline import end_in_time
from job.process.progress import Progress
from job.process.stop import StopFlag
from job.run.status import require_run
from job.storage import open_from_environment
from job.storage.folder import RunFolder
from lora_engine.config.captions import PromptTemplate
from lora_engine.config.evaluation import SamplesConfig
from lora_engine.config.models import DeviceChoice
from lora_engine.system.cores import Load

_NAME = r"[a-z0-9]([-_.a-z0-9]{0,61}[a-z0-9])?"


@dataclass(frozen=True)
class SampleOptions:
    """The options of the command, as they were given; None where one was not."""

    prompts: str | None
    prompt: tuple[str, ...]
    name: str | None
    best: bool
    base: bool
    seeds: tuple[int, ...]
    size: str | None
    steps: int | None
    guidance: float | None
    negative_prompt: str | None
    sampler: str | None
    strength: float | None
    base_model: str | None
    vae: str | None
    clip: str | None
    device: DeviceChoice | None
    template: str | None
    output: str | None
    workdir: Path | None


def sample_command(target: str, options: SampleOptions, stop: StopFlag) -> str:
    """Draw what the options ask for; give the URI of the set of samples.

    Args:
        target: a run's folder, or an adapter's file.

    Raises:
        JobError: 2 for options that do not fit; else as `sample_run` and `sample_file`.
    """
    end_in_time(stop, LimitsConfig().stop_seconds)
    config, is_file = _config(options), target.lower().endswith(".safetensors")
    _check(options, is_file=is_file)
    if not is_file:
        require_run(_folder(target))
    with Progress(sys.stderr) as progress, progress.doing("Loading the model libraries"):
        settle_threads(os.environ, Load())
        stop.at_once(_import_libraries)
    from job.sampling import Order, sample_file, sample_run

    order = Order(
        config=config,
        stem=Path(options.prompts).stem if options.prompts and options.prompts != "-" else "prompt",
        name=options.name,
        best=options.best,
        base=options.base,
        base_model=options.base_model,
        vae=options.vae,
        clip=options.clip,
        device=options.device,
        template=options.template,
    )
    scratch = env.workdir(os.environ, options.workdir, "sample")
    if not is_file:
        return sample_run(_folder(target), order, scratch, stop)
    parent = target.rpartition("/")[0] or ("/" if target.startswith("/") else ".")
    return sample_file(target, _folder(options.output or parent), order, scratch, stop)


def _import_libraries() -> None:
    """Import torch and the model libraries, which takes seconds."""
    import job.sampling  # noqa: F401
    from lora_engine.system.quiet import quiet_libraries

    quiet_libraries()


def _config(options: SampleOptions) -> SamplesConfig:
    """The settings of the samples."""
    if (options.prompts is None) == (not options.prompt):
        raise JobError(ExitCode.USAGE, "What to draw is not given, or twice.", "Give --prompts FILE or --prompt TEXT.")
    if options.prompts is not None:
        prompts = read_prompts(*env.read_text(options.prompts, "prompt file", os.environ, sys.stdin))
    else:
        prompts = tuple(read_prompt(text) for text in options.prompt)
    given: dict[str, Any] = {
        "prompts": prompts,
        "seeds": options.seeds or None,
        "size": _size(options.size),
        "steps": options.steps,
        "guidance": options.guidance,
        "negative_prompt": options.negative_prompt,
        "sampler": options.sampler,
        "strength": options.strength,
    }
    try:
        return SamplesConfig.model_validate({key: value for key, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = str(first["loc"][0]).replace("_prompt", "") if first["loc"] else ""
        message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
        what = f"--{'seed' if option == 'seeds' else option}: " if option else ""
        raise JobError(ExitCode.USAGE, f"{what}{message}.", "See lora-job sample --help.") from error


def _size(text: str | None) -> int | tuple[int, int] | None:
    """The size that `N` or `WxH` gives."""
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,5})(?:x([0-9]{1,5}))?", text)
    if match is None:
        raise JobError(ExitCode.USAGE, f"--size: {text!r}.", "Give a side or WIDTHxHEIGHT, such as 512 or 512x768.")
    width, height = match[1], match[2]
    return int(width) if height is None else (int(width), int(height))


def _check(options: SampleOptions, *, is_file: bool) -> None:
    """Refuse options that cannot be meant."""
    if options.name is not None and (not re.fullmatch(_NAME, options.name) or options.name.startswith("study-")):
        raise JobError(
            ExitCode.USAGE,
            f"--name: {options.name!r}.",
            "Give 1 to 63 lower-case letters, digits, hyphens, underscores and dots, a letter or digit at both ends; "
            "study-... is for the study's own.",
        )
    for option, value, kind in (
        ("base-model", options.base_model, ModelSource),
        ("vae", options.vae, ModelSource),
        ("clip", options.clip, ModelSource),
        ("template", options.template, PromptTemplate),
    ):
        try:
            if value is not None:
                TypeAdapter(kind).validate_python(value)
        except ValidationError as error:
            message = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            raise JobError(ExitCode.USAGE, f"--{option}: {value!r}.", f"Give {message}.") from error
    of_run, of_file = (
        {"--best": options.best, "--base": options.base},
        {"--template": options.template, "--output": options.output},
    )
    wrong = next((option for option, value in (of_run if is_file else of_file).items() if value), None)
    if wrong is not None:
        what = "an adapter's file" if is_file else "a run"
        raise JobError(ExitCode.USAGE, f"{wrong} is not for {what}.", "Leave it out.")


def _folder(uri: str) -> RunFolder:
    return RunFolder(open_from_environment(uri, os.environ), uri)
