"""Keys that other trainers have are refused with what they are called here, or why there is none."""

import subprocess
import sys

import pytest

from job.manifest.load import load_manifest
from job.manifest.problems import ManifestError, Problem
from tests.job.small_run import PLAIN


def only_problem(text: str = PLAIN, *sets: str) -> Problem:
    with pytest.raises(ManifestError) as caught:
        load_manifest(text, "m.yaml", sets)
    assert len(caught.value.problems) == 1, str(caught.value)
    return caught.value.problems[0]


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("learning_rate", "training.optimizer.learning_rate"),
        ("training.unet_lr", "training.optimizer.learning_rate"),
        ("network_dim", "lora.rank"),
        ("lora.network_alpha", "lora.alpha"),
        ("train_batch_size", "training.batch_size"),
        ("training.max_train_steps", "training.steps"),  # not max_skipped_steps, which looks more like it
        ("resolution", "preprocess.resolution"),
        ("trigger_word", "variants.NAME.captions.trigger"),
        # OneTrainer, SimpleTuner, ai-toolkit, and diffusers' other scripts
        ("training.learning_rate_scheduler", "training.schedule.name"),
        ("training.offset_noise_weight", "training.noise.offset"),
        ("training.loss_weight_strength", "training.weighting.gamma"),
        ("training.clip_grad_norm", "training.max_grad_norm"),
        ("lora.linear_alpha", "lora.alpha"),
        ("training.snr_gamma", "training.weighting.gamma"),
        ("training.use_soft_min_snr", "training.weighting.name"),
        ("training.max_denoising_steps", "training.timesteps.to"),
        ("training.optimizer.prodigy_d_coef", "training.optimizer.d_coef"),
        ("training.ema_decay", "training.ema.decay"),
        ("text_encoder_lr", "lora.text_encoder.learning_rate"),
        ("training.learning_rate_te", "lora.text_encoder.learning_rate"),
        ("lora.network_train_unet_only", "lora.text_encoder"),
        ("train_text_encoder", "lora.text_encoder"),
        ("training.stop_text_encoder_training_pct", "lora.text_encoder.stop_after"),
        ("train_text_encoder_frac", "lora.text_encoder.stop_after"),
        ("lora.conv_dim", "lora.conv_rank"),
        ("lora.conv", "lora.conv_rank"),  # ai-toolkit
        ("lora.block_dims", "lora.patterns"),
        ("lora.rank_pattern", "lora.patterns"),  # PEFT
        ("lora.preset", "lora.target_modules"),
        ("lora.layer_filter", "lora.target_modules"),  # OneTrainer
        ("lora.peft_type", "lora.kind"),  # OneTrainer
        ("lora.lora_type", "lora.kind"),  # SimpleTuner
        ("lora.use_dora", "lora.kind"),
        ("lora.lora_decompose", "lora.kind"),  # OneTrainer
        ("network_module", "lora.kind"),
        ("network_weights", "lora.init_from"),
        ("lora.init_lora", "lora.init_from"),  # SimpleTuner
        ("lora.pretrained_lora_path", "lora.init_from"),  # ai-toolkit
        ("base_weights", "base_model.merge"),
        ("lora.rnak", "rank"),  # a slip is no other trainer's
    ],
)
def test_a_key_of_another_trainer_is_named_as_here(key: str, meant: str) -> None:
    problem = only_problem(PLAIN, f"{key}=3")
    assert problem.found == "an unknown key"
    assert problem.suggestion == meant
    assert f'Did you mean "{meant}"?' in str(problem)


def test_epochs_say_what_they_are() -> None:
    assert str(only_problem(PLAIN, "epochs=3")).endswith(
        'Did you mean "training.epochs"? An epoch shows every image that is trained on once.'
    )


def test_a_key_of_nothing_here_says_what_there_is_instead() -> None:
    problem = only_problem(f"{PLAIN}scale_weight_norms: 1\n")
    assert (problem.line, problem.suggestion) == (8, None)
    assert "There is no such setting: weights may grow" in str(problem)
    assert "There is no such setting: an adapter has layers of the UNet" in str(
        only_problem(PLAIN, "network_train_text_encoder_only=true")
    )
    for key in ("gradient_checkpointing", "training.gradient_checkpointing", "training.cache_latents"):
        assert "No such setting is needed: " in str(only_problem(PLAIN, f"{key}=true"))


def test_a_prompts_keys_are_its_own() -> None:
    problem = only_problem(PLAIN, "evaluation.samples={prompts: [{prompt: a, resolution: 512}]}")
    assert problem.suggestion is None
    assert not problem.note


def test_neither_the_table_nor_converting_needs_torch() -> None:
    code = "import sys, job.convert.convert; sys.exit(any(name in sys.modules for name in ('torch', 'boto3')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("variant", '"variants"'),
        ("evaluation.samples.guidance_scale", '"guidance"'),
        ("evaluation.samples.num_steps", '"steps"'),
        ("output.cache_dir", '"cache"'),
        ("captioner.max_token_length", '"max_new_tokens"'),
    ],
)
def test_where_a_name_means_something_else_the_nearest_key_is_the_hint(key: str, hint: str) -> None:
    sets = ("captioner.source=miniature://blip", "evaluation.samples={prompts: [a]}", f"{key}=1")
    with pytest.raises(ManifestError) as refused:
        load_manifest(PLAIN, "m.yaml", sets)
    assert f"Did you mean {hint}" in str(refused.value)


def test_the_keys_of_a_section_are_listed_once() -> None:
    text = PLAIN.replace("training: {steps: 10}", "training: {steps: 10, nonesuch: 1, nothing: 2}\nunknown: 3")
    with pytest.raises(ManifestError) as raised:
        load_manifest(text, "m.yaml")
    allowed = {problem.path: problem.allowed for problem in raised.value.problems}
    assert "batch_size" in allowed["training.nonesuch"]
    assert allowed["training.nothing"] == "as for training.nonesuch"
    assert "base_model" in allowed["unknown"]
