#!/bin/bash
# don't run this: it is read
export MODEL="models/sd.safetensors"   # a checkpoint
NAME='ink'
OUT="out/${NAME}"
STAMP=$(date +%s)

CUDA_VISIBLE_DEVICES=0 accelerate launch --num_cpu_threads_per_process 8 --num_processes=2 "sd-scripts/train_network.py" \
  --pretrained_model_name_or_path="$MODEL" \
  --train_data_dir=img --resolution=512 \
  --output_dir "$OUT" --output_name $NAME \
  --network_module=networks.lora --network_dim=8 --network_alpha 4 --network_train_unet_only \
  --network_args "conv_dim=4" "conv_alpha=1" \
  --learning_rate=1e-4 --lr_scheduler=constant --lr_warmup_steps=100 \
  --max_train_steps=1000 --train_batch_size=2 \
  --mixed_precision=bf16 --caption_extension=.txt --logging_dir="logs/$STAMP" \
  --flip_aug > train.log 2>&1
