"""The program around `lora_engine`: manifest, storage, stages in order, report, exit code."""
