"""What of a configuration says what the loss is: of which errors, at which timesteps, and with what noise."""

from collections.abc import Sequence
from typing import Any

from job.convert.settings import Reading

_LOSS, _WEIGHTING, _NOISE, _TIMESTEPS = (f"training.{part}" for part in ("loss", "weighting", "noise", "timesteps"))
_HUBER_C = 0.1
_ALL_TIMESTEPS = (0, 1000)
_LARGEST_SNR = 1000  # that sd-scripts count with where they divide by a function of it
_MULTIRES = ("multires_noise_iterations", "multires_noise_discount")
_MOST_SIZES = 10  # of noise; latents of an image of 1024 pixels have 1 value in the 8th
_ONE_WEIGHTING = "there is one weighting, and min_snr_gamma goes before it"
_NOISE_ALONE = "the last timestep is noise alone, where sampling begins with plain noise"


def objective(reading: Reading, *, zero_terminal_snr: bool) -> dict[str, Any]:
    """The keys of the manifest's `training` that say what is learned, without those that would say the default.

    Args:
        zero_terminal_snr: whether the base model is trained so.
    """
    weighting = _weighting(reading)
    if weighting is not None and zero_terminal_snr:
        reading.remarks.append(
            "sd-scripts weight timesteps by their signal-to-noise ratios as they were before zero_terminal_snr changed "
            "them; here they are those that are trained with."
        )
    made = {
        "loss": _loss(reading),
        "weighting": weighting,
        "noise": _noise(reading, zero_terminal_snr=zero_terminal_snr),
        "timesteps": _timesteps(reading),
    }
    return {key: value for key, value in made.items() if value}


def _loss(reading: Reading) -> dict[str, Any] | None:
    named = reading.text("loss_type", f"{_LOSS}.name") if reading.program.is_kohya else None
    if named in (None, "l2"):
        return None
    if named == "l1":
        return {"name": "l1"}
    if named not in ("huber", "smooth_l1"):
        reading.lose("loss_type", "the loss is the mean squared error")
        return None
    if named == "smooth_l1":
        reading.lose("loss_type", "huber is the nearest: smooth_l1 divided by its c of each timestep")
    c = reading.number("huber_c", f"{_LOSS}.c")
    kind = reading.text("huber_schedule", f"{_LOSS}.schedule") or "snr"
    return {"name": "huber", "c": _scaled(reading, _HUBER_C if c is None else c, kind), "schedule": kind}


def _scaled(reading: Reading, c: float, schedule: str) -> float:
    """The constant c with `huber_scale`, where that is a factor of all of it."""
    if schedule == "constant":
        scale = reading.number("huber_scale", f"{_LOSS}.c")
        return c if scale is None else float(f"{c * scale:.12g}")
    if reading.setting("huber_scale") is not None and reading.number("huber_scale", f"{_LOSS}.c") != 1:
        reading.lose(
            "huber_scale", "with huber_schedule snr it does nothing" if schedule == "snr" else "c falls from 1"
        )
    return c


def _weighting(reading: Reading) -> dict[str, Any] | None:
    gamma = reading.number("min_snr_gamma" if reading.program.is_kohya else "snr_gamma", f"{_WEIGHTING}.gamma")
    made = {"name": "min_snr", "gamma": gamma} if gamma else None
    if not reading.program.is_kohya:
        return made
    if reading.flag("debiased_estimation_loss", f"{_WEIGHTING}.name"):
        if made is None:
            made = {"name": "debiased"}
        else:
            reading.lose("debiased_estimation_loss", _ONE_WEIGHTING)
    if reading.flag("scale_v_pred_loss_like_noise_pred", f"{_WEIGHTING}.name"):
        if made is None:
            made = {"name": "min_snr", "gamma": _LARGEST_SNR}
            reading.remarks.append(
                "scale_v_pred_loss_like_noise_pred becomes min_snr with a gamma that only the first timestep is above: "
                "SNR / (SNR + 1)."
            )
        else:
            reading.lose("scale_v_pred_loss_like_noise_pred", "there is one weighting, which another setting has named")
    return made


def _noise(reading: Reading, *, zero_terminal_snr: bool) -> dict[str, Any]:
    offset = reading.number("noise_offset", f"{_NOISE}.offset")
    if not reading.program.is_kohya:
        return {"offset": offset} if offset else {}
    iterations = reading.whole("multires_noise_iterations", f"{_NOISE}.multires.iterations")
    made: dict[str, Any] = {}
    if zero_terminal_snr and (offset or iterations):
        _lose(reading, ("noise_offset", *_MULTIRES), _NOISE_ALONE)
    elif offset:
        made["offset"] = offset
        if iterations:
            _lose(reading, _MULTIRES, "noise has an offset or several sizes, and noise_offset goes before it")
    elif iterations:
        made["multires"] = _multires(reading, iterations)
    perturbation = reading.number("ip_noise_gamma", f"{_NOISE}.input_perturbation")
    return made | ({"input_perturbation": perturbation} if perturbation else {})


def _lose(reading: Reading, names: Sequence[str], why: str) -> None:
    for name in filter(reading.has, names):
        reading.lose(name, why)


def _multires(reading: Reading, iterations: int) -> dict[str, Any]:
    reading.remarks.append(
        "Noise of several sizes is scaled by the deviation of each image's own; sd-scripts scale it by the batch's."
    )
    discount = reading.number("multires_noise_discount", f"{_NOISE}.multires.discount")
    return {"iterations": min(iterations, _MOST_SIZES)} | ({} if discount is None else {"discount": discount})


def _timesteps(reading: Reading) -> dict[str, Any] | None:
    """The range of timesteps, of which sd-scripts draw the last where it is not above the first."""
    if not reading.program.is_kohya:
        return None
    lowest = reading.whole("min_timestep", f"{_TIMESTEPS}.from")
    highest = reading.whole("max_timestep", f"{_TIMESTEPS}.to")
    first, last = lowest or _ALL_TIMESTEPS[0], _ALL_TIMESTEPS[1] if highest is None else highest
    if first >= last:
        first, last = last, last + 1
    return None if (first, last) == _ALL_TIMESTEPS else {"from": first, "to": last}
