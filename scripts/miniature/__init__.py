"""Trains the miniature models that lora_engine/miniature holds, on drawings of scripts/drawings.py."""
