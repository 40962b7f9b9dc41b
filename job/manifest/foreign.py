"""What becomes of the settings of other trainers: kohya's sd-scripts, their GUI, and diffusers' example scripts.

One table, which `lora-job convert` follows and which says what an unknown key of a manifest was probably meant to be.
"""

import re
from typing import Literal, NamedTuple

Becomes = Literal["key", "nothing", "needless"]


class Fate(NamedTuple):
    """What becomes of a setting.

    `key`: a key of the manifest says it. `nothing`: it is not taken, which changes what is trained or written.
    `needless`: it is not taken, and the adapter is none the worse.
    """

    becomes: Becomes
    key: str = ""  # of the manifest
    why: str = ""  # what not to take it changes, or how the key's value comes from it: a clause
    off: tuple[object, ...] = ()  # values with which it does nothing, beside false, 0, an empty text and an empty list


# By the key of the manifest, the settings that say the same.
_KEYS = {
    "name": "output_name",
    "seeds": "seed",
    "base_model.source": "pretrained_model_name_or_path",
    "base_model.vae": "vae",
    "base_model.merge": "base_weights base_weights_multiplier",
    "base_model.zero_terminal_snr": (
        "zero_terminal_snr rescale_noise_scheduler_to_zero_terminal_snr rescale_betas_zero_snr"
    ),
    "base_model.clip_skip": "clip_skip",
    "dataset.source": "train_data_dir image_dir instance_data_dir data_dir",
    "dataset.validation_fraction": "validation_split",
    "preprocess.resolution": "resolution max_resolution",
    "lora.rank": "network_dim network_rank lora_rank rank dim linear",
    "lora.alpha": "network_alpha lora_alpha alpha linear_alpha",
    "lora": "network_args",
    "lora.kind": (
        "network_module network_type LoRA_type lora_type peft_type algo lycoris_algo use_dora dora_wd decompose "
        "lora_decompose weight_decompose"
    ),
    "lora.target_modules": "preset LyCORIS_preset layer_filter layer_filter_preset lora_layers lora_target",
    "lora.conv_rank": "conv_dim conv conv_rank_dim lycoris_conv_dim",
    "lora.conv_alpha": "conv_alpha",
    "lora.patterns": "rank_pattern alpha_pattern network_reg_dims",
    "lora.text_encoder.learning_rate": (
        "text_encoder_lr text_encoder_lr1 learning_rate_te learning_rate_te1 text_encoder_learning_rate text_lr"
    ),
    "lora.init_from": (
        "network_weights lora_network_weights dim_from_weights init_lora pretrained_lora_path init_from_existing "
        "lora_model_name"
    ),
    "lora.dropout": "network_dropout lora_dropout dropout dropout_probability",
    "lora.plus_ratio": "loraplus_lr_ratio loraplus_unet_lr_ratio",
    "lora.rank_stabilized": "use_rslora rs_lora rslora",
    "training.steps": "max_train_steps train_steps max_steps num_steps steps",
    "training.batch_size": "train_batch_size batch_size",
    "training.gradient_accumulation": "gradient_accumulation_steps num_processes",
    "training.optimizer.name": (
        "optimizer_type optimizer use_8bit_adam use_lion_optimizer optimizer_args optimizer_params optimizer_config"
    ),
    "training.optimizer.learning_rate": "learning_rate unet_lr scale_lr lr",
    "training.optimizer.weight_decay": "adam_weight_decay weight_decay",
    "training.optimizer.beta1": "adam_beta1 optimizer_beta1",
    "training.optimizer.beta2": "adam_beta2 optimizer_beta2",
    "training.optimizer.beta3": "prodigy_beta3",
    "training.optimizer.epsilon": "adam_epsilon eps",
    "training.optimizer.decouple": "prodigy_decouple decouple",
    "training.optimizer.d0": "d0 prodigy_d0",
    "training.optimizer.d_coef": "d_coef prodigy_d_coef",
    "training.optimizer.growth_rate": "growth_rate prodigy_growth_rate",
    "training.optimizer.use_bias_correction": "prodigy_use_bias_correction use_bias_correction",
    "training.optimizer.safeguard_warmup": "prodigy_safeguard_warmup safeguard_warmup",
    "training.optimizer.momentum": "momentum",
    "training.optimizer.nesterov": "nesterov",
    "training.schedule.name": "lr_scheduler learning_rate_scheduler",
    "training.schedule.cycles": "lr_scheduler_num_cycles lr_num_cycles learning_rate_cycles",
    "training.schedule.power": "lr_scheduler_power lr_power",
    "training.schedule.timescale_steps": "lr_scheduler_timescale",
    "training.schedule.warmup_steps": "lr_warmup_steps lr_warmup warmup_steps learning_rate_warmup_steps",
    "training.schedule.warmup_share": "lr_warmup_ratio warmup_ratio",
    "training.loss.name": "loss_type mse_strength mae_strength huber_strength",
    "training.loss.c": "huber_c huber_delta",
    "training.loss.schedule": "huber_schedule",
    "training.weighting.name": "loss_weight_fn",
    "training.noise.offset": "noise_offset offset_noise offset_noise_weight",
    "training.noise.multires": "multires_noise pyramid_noise",
    "training.noise.multires.iterations": "multires_noise_iterations",
    "training.noise.multires.discount": "multires_noise_discount",
    "training.noise.input_perturbation": "ip_noise_gamma input_perturbation",
    "training.timesteps.from": "min_timestep min_denoising_steps timestep_bias_begin",
    "training.timesteps.to": "max_timestep max_denoising_steps timestep_bias_end",
    "training.ema": "use_ema ema_config",
    "training.ema.decay": "ema_decay ema_max_decay",
    "training.max_grad_norm": "max_grad_norm clip_grad_norm",
    "training.random_flip": "flip_aug random_flip",
    "training.precision": "mixed_precision",
    "variants.NAME.captions.strategy": "caption_extension caption_extention",
    "variants.NAME.captions.text": "class_tokens instance_prompt",
    "variants.NAME.captions.caption_dropout": "caption_dropout_rate",
    "variants.NAME.captions.trigger": "caption_prefix trigger_word",
    "variants.NAME.captions.style_hints": "caption_suffix",
    "evaluation.every": "save_every_n_steps save_every_n_epochs save_n_epoch_ratio checkpointing_steps save_every",
    "evaluation.samples.prompts": "sample_prompts validation_prompt",
    "evaluation.samples.seeds": "num_validation_images",
    "evaluation.samples.sampler": "sample_sampler",
    "evaluation.samples.when": "sample_every_n_steps sample_every_n_epochs sample_at_first validation_epochs",
    "output.destination": "output_dir",
    "output.keep_checkpoints": "save_last_n_epochs checkpoints_total_limit",
    "output.license": "metadata_license",
    "output.description": "metadata_description",
}

# Settings whose value a key's is computed from, by how.
_COMPUTED = {
    ("training.epochs", "an epoch shows every image that is trained on once"): (
        "max_train_epochs num_train_epochs num_epochs epochs epoch dataset_repeats num_repeats repeats"
    ),
    ("base_model.revision", "which version of a model from a hub"): "revision",
    ("base_model.prediction_type", "epsilon or v_prediction"): (
        "v_parameterization prediction_type force_v_prediction force_epsilon_prediction is_v_pred"
    ),
    ("lora.text_encoder", "null trains the UNet alone, a mapping, such as {}, the text encoder as well"): (
        "network_train_unet_only train_text_encoder"
    ),
    ("lora.text_encoder.stop_after", "in updates"): (
        "stop_text_encoder_training stop_text_encoder_training_pct train_text_encoder_frac stop_training_after"
    ),
    ("lora.patterns", "the beginnings of layers' names say which blocks are meant"): (
        "block_dims block_alphas conv_block_dims conv_block_alphas"
    ),
    ("training.loss.c", "c is huber_c x huber_scale where the schedule is constant"): "huber_scale",
    ("training.weighting.gamma", "it is of {name: min_snr}"): "min_snr_gamma snr_gamma loss_weight_strength",
    ("training.weighting.name", "it is soft_min_snr"): "use_soft_min_snr soft_min_snr soft_min_snr_sigma_data",
    ("training.weighting.name", "it is debiased"): "debiased_estimation_loss",
    ("training.weighting.name", "it is nearly min_snr with a gamma of 1000"): "scale_v_pred_loss_like_noise_pred",
    ("training.timesteps.from", "in thousandths"): "min_noising_strength",
    ("training.timesteps.to", "in thousandths"): "max_noising_strength",
    ("training.noise.input_perturbation", "what is learned has none of it"): "perturbation_noise_weight",
}

# By what is lost, the settings that are not taken.
_NOTHING = {
    "training.weighting says how much a timestep's loss counts": "v_pred_like_loss snr_weight cep_gamma",
    "the loss is mse, huber or l1, and no sum of them": "log_cosh_strength vb_loss_strength",
    "the offset of noise is the same at all timesteps and for all images, whatever they show": (
        "adaptive_noise_scale generalized_offset_noise"
    ),
    "the noise of every image has all of the strength that training.noise says": (
        "noise_offset_random_strength ip_noise_gamma_random_strength noise_offset_probability input_perturbation_steps"
    ),
    "noise is plain, or has an offset or several sizes": "perlin_noise noise_multiplier",
    "all timesteps from training.timesteps.from on and before its to are equally probable": (
        "timestep_bias_strategy timestep_bias_multiplier timestep_bias_portion timestep_distribution noising_weight "
        "noising_bias timestep_type content_or_style"
    ),
    "the average follows every update, and is what is scored and exported": (
        "ema_update_step_interval ema_update_interval ema_validation non_ema_sampling ema_inv_gamma ema_power"
    ),
    "an SD 2.x model is known by its files; one in a single file needs base_model.components of its kind": "v2",
    "only SD 1.x and 2.x are trained here": "sdxl",
    "an adapter has layers of the UNet, and of the text encoder where lora.text_encoder says so": (
        "network_train_text_encoder_only"
    ),
    "SD 1.x and 2.x have one text encoder": "text_encoder_lr2 learning_rate_te2 text_encoder_lr3",
    "lora.plus_ratio is of all up weights": "loraplus_text_encoder_lr_ratio",
    "an adapter is a LoRA or a DoRA, of two matrices a layer": (
        "unit factor use_cp use_tucker use_scalar train_norm decompose_both train_on_input bypass_mode constrain "
        "constraint rescaled block_size train_lora_ggpo ggpo_sigma ggpo_beta wd_on_output"
    ),
    "single values between down and up are dropped, by lora.dropout, no ranks and no layers": (
        "rank_dropout module_dropout rank_dropout_scale"
    ),
    "weights may grow: what a norm holds back is another adapter than its gradients and decay make": (
        "scale_weight_norms"
    ),
    "all blocks of the UNet have one learning rate; lora.patterns says ranks of blocks": (
        "block_lr_zero_threshold down_lr_weight mid_lr_weight up_lr_weight block_lr network_reg_lrs"
    ),
    "optimizers begin anew; lora.init_from starts an adapter from a file": (
        "resume resume_from_huggingface resume_from_checkpoint initial_epoch initial_step skip_until_initial_step"
    ),
    "the base model is trained on as it is": "variant tokenizer_name",
    "images are cropped to squares, not sorted by their shape": (
        "enable_bucket min_bucket_reso max_bucket_reso bucket_reso_steps bucket_no_upscale"
    ),
    "the crop is the middle of an image": "random_crop face_crop_aug_range center_crop",
    "colours stay": "color_aug",
    "images are resized by the program's own filter": "resize_interpolation image_interpolation_mode",
    "the loss counts all of an image, and transparent pixels are what preprocess.background says": (
        "masked_loss alpha_mask conditioning_data_dir"
    ),
    "no pictures of a class are trained beside the others": (
        "reg_data_dir prior_loss_weight is_reg class_data_dir class_prompt with_prior_preservation num_class_images "
        "prior_generation_precision sample_batch_size"
    ),
    "tags keep their order, and all of them are seen": (
        "shuffle_caption keep_tokens keep_tokens_separator caption_separator secondary_separator "
        "caption_tag_dropout_rate token_warmup_min token_warmup_step"
    ),
    "a caption is read as it is written; which of several lines is seen, captions.lines says": (
        "enable_wildcard weighted_captions"
    ),
    "caption_dropout is drawn for every image, not for whole epochs": "caption_dropout_every_n_epochs",
    "a caption ends at 77 tokens": (
        "max_token_length tokenizer_max_length text_encoder_use_attention_mask no_token_padding"
    ),
    "captions are read from files beside the images, or metadata.jsonl or .csv with file_name and text": (
        "in_json metadata_file caption_column image_column caption_metadata_filename"
    ),
    "images are read from a folder, an archive or S3": "dataset_name dataset_config_name dataset_class",
    "all images of the folder are used": "max_train_samples",
    "training.schedule.name says what the rate follows, which ends at 0 where it falls": (
        "lr_scheduler_type lr_scheduler_args lr_scheduler_params lr_decay_steps lr_scheduler_min_lr_ratio "
        "learning_rate_min_factor custom_learning_rate_scheduler lr_end"
    ),
    "images are held out by what they show; every evaluation scores all of them": (
        "validation_seed validate_every_n_steps validate_every_n_epochs max_validation_steps"
    ),
    "samples are drawn from texts alone": "validation_images class_labels_conditioning",
    "the base may be in half precision, an adapter stays in single": (
        "full_fp16 full_bf16 fp8_base fp8_base_unet fp16_master_weights_and_gradients"
    ),
    "a checkpoint has files for A1111, ComfyUI and diffusers, in single precision": (
        "save_model_as save_precision use_safetensors"
    ),
    "a checkpoint stays unless output.keep_checkpoints is set": (
        "save_last_n_steps save_last_n_steps_state save_last_n_epochs_state"
    ),
    "nothing is pushed to a hub": (
        "push_to_hub hub_token hub_model_id huggingface_repo_id huggingface_repo_type huggingface_repo_visibility "
        "huggingface_path_in_repo huggingface_token save_state_to_huggingface async_upload"
    ),
    "the adapter's files have metadata of the program's own": (
        "no_metadata training_comment metadata_title metadata_author "
        "metadata_tags metadata_usage_hint metadata_thumbnail metadata_merged_from metadata_trigger_phrase "
        "metadata_preprocessor metadata_is_negative_embedding"
    ),
    "this is a LoRA of the plain kind": "train_inpainting network_multiplier custom_attributes",
    "it is not read": "additional_parameters extra_accelerate_launch_args",
}

# By the reason why they are not needed, settings without which the adapter is none the worse.
_NEEDLESS = {
    "memory is planned for by training.memory": (
        "gradient_checkpointing cpu_offload_checkpointing lowram lowvram highvram mem_eff_attn xformers sdpa "
        "enable_xformers_memory_efficient_attention vae_batch_size fused_backward_pass no_half_vae blocks_to_swap "
        "optimizer_offload fused_optimizer_groups blockwise_fused_optimizers ema_device ema_cpu_only "
        "ema_foreach_disable offload_ema"
    ),
    "latents and embeddings are always cached": (
        "cache_latents cache_latents_to_disk skip_cache_check cache_info cache_text_encoder_outputs "
        "cache_text_encoder_outputs_to_disk pre_compute_text_embeddings cache_dir tokenizer_cache_dir"
    ),
    "training.compile and training.cuda_graph say how kernels run": (
        "torch_compile dynamo_backend dynamo_mode dynamo_use_fullgraph dynamo_use_dynamic allow_tf32"
    ),
    "images are read by as many processes as there are cores": (
        "max_data_loader_n_workers persistent_data_loader_workers dataloader_num_workers"
    ),
    "processes are started by torchrun or by the platform": (
        "num_machines num_cpu_threads_per_process multi_gpu gpu_ids main_process_port main_process_ip machine_rank "
        "local_rank ddp_timeout ddp_gradient_as_bucket_view ddp_static_graph deepspeed zero_stage zero3_init_flag "
        "offload_optimizer_device offload_optimizer_nvme_path offload_param_device offload_param_nvme_path "
        "zero3_save_16bit_model gpus num_cpu_threads"
    ),
    "trackers names TensorBoard, Weights & Biases and MLflow": (
        "log_with log_tracker_name log_tracker_config log_config report_to use_wandb"
    ),
    "runs of trackers are named after the adapters, and keys come from the environment": "wandb_run_name wandb_api_key",
    "a run writes metrics.jsonl, validation.jsonl and a report": (
        "logging_dir log_prefix console_log_level console_log_file console_log_simple"
    ),
    "every checkpoint can be continued from": "save_state save_state_on_train_end",
    "it is for trying out the other program": "debug_dataset output_config show_timesteps",
    "its file is read with this one": "config_file dataset_config",
    "it is for models of other kinds": (
        "sdxl_cache_text_encoder_outputs sdxl_no_half_vae disable_mmap_load_safetensors "
        "ae apply_t5_attn_mask discrete_flow_shift enable_all_linear guidance_scale in_dims logit_mean logit_std "
        "mem_eff_save mode_scale model_prediction_type model_type pos_emb_random_crop_rate save_clip save_t5xxl "
        "show_timesteps_resolution split_mode split_qkv timestep_sampling train_blocks train_double_block_indices "
        "train_single_block_indices train_t5xxl weighting_scheme sigmoid_scale"
    ),
    "the model is named by another setting": "model_list",
    "the settings of offsets and of several sizes say which of both it is": "noise_offset_type",
    "it is the GUI's own": "save_as_bool",
}

# Values with which settings do nothing, beside those that are empty.
_OFF: dict[str, tuple[object, ...]] = {
    "lr_scheduler_num_cycles": (1,),
    "lr_scheduler_power": (1,),
    "loss_type": ("l2",),
    "clip_skip": (1,),
    "max_token_length": (75,),
    "max_timestep": (1000,),
    "caption_separator": (",",),
    "token_warmup_min": (1,),
    "network_module": ("networks.lora",),
    "LoRA_type": ("Standard",),
    "stop_text_encoder_training": (-1,),
    "factor": (-1,),
    "unit": (1,),
    "LyCORIS_preset": ("full",),
    "prior_loss_weight": (1,),
    "max_validation_steps": (-1,),
    "caption_column": ("text", "caption"),
    "image_column": ("image",),
    "huber_c": (0.1,),
    "huber_scale": (1,),
    "huber_schedule": ("snr",),
    "multires_noise_discount": (0.3,),
    "save_model_as": ("safetensors",),
    "num_processes": (1,),
    "network_multiplier": (1,),
}

_OTHER_MODELS = re.compile(r"(flux|sd3|hunyuan|anima|lumina|t5|clip_[gl]|txt_|img_|single_|double_)[A-Za-z0-9_]*")

FATES: dict[str, Fate] = {
    **{name: Fate("key", key, "", _OFF.get(name, ())) for key, names in _KEYS.items() for name in names.split()},
    **{
        name: Fate("key", key, why, _OFF.get(name, ()))
        for (key, why), names in _COMPUTED.items()
        for name in names.split()
    },
    **{name: Fate("nothing", "", why, _OFF.get(name, ())) for why, names in _NOTHING.items() for name in names.split()},
    **{name: Fate("needless", "", why) for why, names in _NEEDLESS.items() for name in names.split()},
}


def fate_of(name: str) -> Fate | None:
    """What becomes of a setting of another trainer; None for a word that is none."""
    fate = FATES.get(name)
    if fate is None and _OTHER_MODELS.fullmatch(name):
        return Fate("needless", "", "it is for models of other kinds")
    return fate
