"""What an adapter was trained with beside plain MSE on plain noise, by which all are scored; in words."""

from collections.abc import Iterator, Mapping
from typing import Any

from job.report.settings import shown

_WEIGHTINGS = {
    "min_snr": "min-SNR weighting",
    "soft_min_snr": "soft min-SNR weighting",
    "debiased": "debiased weighting",
}
_LOSSES = {"huber": "Huber loss", "l1": "L1 loss"}
SCORED = "plain MSE on plain noise"


def trained_with(training: Mapping[str, Any]) -> str | None:
    """What of the loss, its weighting, the noise and the timesteps is not plain; None where all of it is.

    Args:
        training: the settings of a variant, of whatever version; what is not there is plain.
    """
    return ", ".join(_unlike_plain(training)) or None


def _unlike_plain(training: Mapping[str, Any]) -> Iterator[str]:
    weighting, loss, noise, timesteps = (_mapping(training, key) for key in ("weighting", "loss", "noise", "timesteps"))
    if (name := weighting.get("name", "none")) != "none":
        yield _WEIGHTINGS.get(name, f"{name} weighting") + _details(weighting)
    if (name := loss.get("name", "mse")) != "mse":
        yield _LOSSES.get(name, f"{name} loss") + _details(loss)
    if noise.get("offset"):
        yield f"noise offset {shown(noise['offset'])}"
    if noise.get("multires"):
        yield "multires noise" + _details(_mapping(noise, "multires"))
    if noise.get("input_perturbation"):
        yield f"input perturbation {shown(noise['input_perturbation'])}"
    first, end = timesteps.get("from", 0), timesteps.get("to", 1000)
    if (first, end) != (0, 1000):
        yield f"timesteps from {shown(first)} to {shown(end)}"


def _mapping(settings: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = settings.get(key)
    return found if isinstance(found, Mapping) else {}


def _details(settings: Mapping[str, Any]) -> str:
    """The values beside the name, in brackets after a space."""
    told = [f"{key.replace('_', ' ')} {shown(value)}" for key, value in settings.items() if key != "name"]
    return f" ({', '.join(told)})" if told else ""
