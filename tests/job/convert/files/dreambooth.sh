accelerate launch train_dreambooth_lora.py \
  --pretrained_model_name_or_path=stable-diffusion-v1-5/stable-diffusion-v1-5 \
  --instance_data_dir=dog --instance_prompt="a photo of sks dog" \
  --output_dir=lora-dog --resolution=512 --train_batch_size=1 --gradient_accumulation_steps=2 \
  --rank=16 --learning_rate=1e-4 --lr_scheduler=cosine --lr_warmup_steps=10 --max_train_steps=500 \
  --with_prior_preservation --class_prompt="a photo of a dog" --adam_beta2=0.99 --snr_gamma=5 \
  --validation_prompt="a photo of sks dog in a bucket" --num_validation_images=3 --validation_epochs=50 --seed=0
