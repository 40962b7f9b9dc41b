"""Keeps the model libraries' own bars and advice out of the job's output."""


def quiet_libraries() -> None:
    """Let diffusers, transformers and huggingface_hub print errors only, and no progress bars."""
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    disable_progress_bars()
