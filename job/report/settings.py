"""The settings of a run in words. Pure."""

import json
from collections.abc import Mapping, Sequence

_TEXT_ENCODER = "lora.text_encoder"
_LAYERS = {
    "attention": "attention's layers",
    "attention+mlp": "attention's and MLP layers",
    "kohya": "kohya's layers",
    "full": "all layers",
}
_KINDS = {"lora": "LoRA", "dora": "DoRA"}
_OF_SECTION = ("offset", "from", "to", "decay", "c", "gamma", "power", "schedule")  # that say nothing by themselves
_WORDS = {"training.ema": "EMA", "training.noise.multires": "multires noise"}  # settings that may be there or not


def shown(value: object) -> str:
    """A setting's value in words: texts as they are, what is switched off or not given as such, else JSON."""
    match value:
        case None:
            return "none"
        case bool():
            return "on" if value else "off"
        case str():
            return value or '""'
        case float():
            return f"{value:g}"
        case list() if all(isinstance(each, str | int) for each in value):
            return ", ".join(str(each) for each in value)
    return json.dumps(value, ensure_ascii=False)


def setting_words(key: str, value: object) -> str:
    """A setting with its value as a sentence names it, `rank 16`; what has but a name is called after what it is."""
    match key:
        case "lora.kind":
            return _KINDS.get(str(value), str(value))
        case "lora.target_modules":
            return f"the adapter of {_LAYERS.get(str(value), f'layers {shown(value)}')}"
        case "lora.text_encoder":
            return f"the adapter {'without' if value is None else 'with'} the text encoder"
        case "lora.patterns":
            return f"the adapter {_blocks(value) if isinstance(value, Mapping) and value else 'alike in all blocks'}"
    if key.startswith(f"{_TEXT_ENCODER}."):
        return f"the text encoder's {setting_words(key.removeprefix(f'{_TEXT_ENCODER}.'), value)}"
    parts = key.split(".")
    if key in _WORDS:
        settings = [f"{name.replace('_', ' ')} {shown(each)}" for name, each in _items(value)]
        return f"{_WORDS[key]} with {listed(settings)}" if settings else f"no {_WORDS[key]}"
    named = value["name"] if isinstance(value, Mapping) and "name" in value else value
    if parts[-1] == "name":
        words = parts[-2:-1]
    else:
        words = parts[-2:] if parts[-1] in _OF_SECTION and len(parts) > 2 else parts[-1:]
    return f"{' '.join(words).replace('_', ' ').replace('ema ', 'EMA ')} {shown(named)}"


def _items(value: object) -> Sequence[tuple[str, object]]:
    return tuple(value.items()) if isinstance(value, Mapping) else ()


def _blocks(patterns: Mapping[str, object]) -> str:
    """What blocks have of their own, `with mid_block rank 16`."""
    told = []
    for begin, own in patterns.items():
        values = own.items() if isinstance(own, Mapping) else ()
        told.append(" ".join([begin, *(f"{name} {shown(value)}" for name, value in values if value is not None)]))
    return f"with {listed(told)}"


def listed(phrases: Sequence[str]) -> str:
    """Phrases as a sentence lists them."""
    return " and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)
