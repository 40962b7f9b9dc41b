"""Prompts for sampling: sd-scripts' lines and YAML, right, wrong in every way, and hostile."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from job.manifest.problems import Problem, PromptsError
from job.manifest.prompt_file import read_prompts
from job.manifest.prompt_line import read_prompt
from job.manifest.yaml_reader import write_yaml
from lora_engine.config.evaluation import MOST_PROMPTS, PromptConfig, SamplesConfig

CONTROLS = [chr(code) for code in [*range(0x20), *range(0x7F, 0xA0)] if chr(code) not in "\t\n\r"]


def read(content: str | bytes, name: str = "p.txt") -> tuple[PromptConfig, ...]:
    return read_prompts(content.encode() if isinstance(content, str) else content, name)


def texts(content: str | bytes, name: str = "p.txt") -> list[str]:
    return [prompt.prompt for prompt in read(content, name)]


def refusal(content: str | bytes, name: str = "p.txt") -> tuple[Problem, ...]:
    with pytest.raises(PromptsError) as caught:
        read(content, name)
    return checked(caught.value)


def refused_text(text: str) -> tuple[Problem, ...]:
    with pytest.raises(PromptsError) as caught:
        read_prompt(text)
    return checked(caught.value)


def checked(error: PromptsError) -> tuple[Problem, ...]:
    """The problems, of an error that is fit to be shown."""
    lines = str(error).split("\n")
    assert error.code == 40
    assert error.problems
    assert all(line.isprintable() for line in lines)
    assert len(str(error)) < 60_000
    assert lines[0].startswith("The prompts have ")
    assert lines[-1].startswith("Mend the prompts; ")
    assert all(problem.found and problem.allowed for problem in error.problems)
    return error.problems


def only(problems: tuple[Problem, ...]) -> Problem:
    assert len(problems) == 1, [str(problem) for problem in problems]
    return problems[0]


# A line a prompt


def test_the_example_of_sd_scripts_is_read() -> None:
    example = (
        "# prompt 1\n"
        "masterpiece, best quality, (1girl), in white shirts, upper body --n low quality, worst quality,bad anatomy"
        " --w 768 --h 768 --d 1 --l 7.5 --s 28\n"
        "\n"
        "# prompt 2\n"
        "masterpiece, best quality, 1boy, standing at street --n (low quality) --w 576 --h 832 --d 2 --l 5.5 --s 40\n"
    )
    assert read(example) == (
        PromptConfig(
            prompt="masterpiece, best quality, (1girl), in white shirts, upper body",
            negative="low quality, worst quality,bad anatomy",
            size=768,
            seed=1,
            guidance=7.5,
            steps=28,
        ),
        PromptConfig(
            prompt="masterpiece, best quality, 1boy, standing at street",
            negative="(low quality)",
            size=(576, 832),
            seed=2,
            guidance=5.5,
            steps=40,
        ),
    )


def test_what_is_read_is_what_samples_take() -> None:
    prompts = read("a cat\na dog --d 0 --w 64 --h 2048")
    assert SamplesConfig(prompts=prompts).prompts == prompts
    assert prompts[1].seed == 0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a cat", {}),
        ("  a cat\t ", {}),
        ("a cat --N Bad", {"negative": "Bad"}),
        ("a cat --n bad, --s 3", {"negative": "bad,", "steps": 3}),
        ("a cat --n  so bad \t --s   3  ", {"negative": "so bad", "steps": 3}),
        ("a cat --n bad -- worse --- worst --d 1", {"negative": "bad -- worse --- worst", "seed": 1}),
        ("a cat --n", {"negative": ""}),
        ("a cat --n --s 3", {"negative": "", "steps": 3}),
        ("a cat --n w 512 -w 3", {"negative": "w 512 -w 3"}),
        ("a cat\t--s\t3", {"steps": 3}),
        ("a cat\u3000--s\u30003", {"steps": 3}),
        ("a cat\u00a0--S 3", {"steps": 3}),
        ("a cat --l 7", {"guidance": 7.0}),
        ("a cat --l 7.", {"guidance": 7.0}),
        ("a cat --l .5", {"guidance": 0.5}),
        ("a cat --l 0", {"guidance": 0.0}),
        ("a cat --d 0", {"seed": 0}),
        ("a cat --d +7", {"seed": 7}),
        ("a cat --d 007", {"seed": 7}),
        ("a cat --d 9223372036854775807", {"seed": 2**63 - 1}),
        ("a cat --am -1.5", {"strength": -1.5}),
        ("a cat --AM 0", {"strength": 0.0}),
        ("a cat --h 64 --s 1 --w 72", {"size": (72, 64), "steps": 1}),
        ("a cat --w 512 --h 512", {"size": 512}),
    ],
)
def test_options_are_read_in_any_order_and_case(line: str, expected: dict[str, Any]) -> None:
    assert read_prompt(line) == PromptConfig(prompt="a cat", **expected)
    assert read(line) == (PromptConfig(prompt="a cat", **expected),)


@pytest.mark.parametrize(
    "text",
    [
        "a cat -- dog",
        "a cat -- w 512",
        "a cat --",
        "a cat --- dog",
        "a cat ---w 512",
        "a cat--w 512",
        "a cat --, dog",
        "a cat --1",
        "a cat -w 512",
        "a cat \u2014w 512",
        "w 512",
        "n dog",
        "d 3, s 4",
        "a #tag",
        "[a|b] {c}",
        "a \U0001f600 \u732b",
        "a\u2028b",
        "a\tb",
        "-- a",
        "%s %n {0} \\n $HOME `id`",
    ],
)
def test_a_prompt_may_hold_what_only_looks_like_an_option(text: str) -> None:
    assert read_prompt(text) == PromptConfig(prompt=text)
    assert texts(text) == [text]


def test_only_hash_in_the_first_column_begins_a_comment() -> None:
    assert texts("#a\n# b --w\n #c\nd # e\n\n   \n\t\n") == ["#c", "d # e"]
    assert read_prompt("#c --s 3") == PromptConfig(prompt="#c", steps=3)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lines_of_every_system_are_read_and_counted(ending: str, mark: str) -> None:
    lines = ["# one", "a", "", "b --n c", "d"]
    assert texts(mark + ending.join(lines)) == ["a", "b", "d"]
    assert texts(mark + ending.join(lines) + ending) == ["a", "b", "d"]
    assert only(refusal(mark + ending.join([*lines, "e --s"]))).line == 6


def test_a_mark_before_a_comment_leaves_it_one() -> None:
    assert texts("\ufeff# a\nb") == ["b"]


@pytest.mark.parametrize("end", ["\x0b", "\x0c", "\x1c", "\x85"])
def test_what_python_takes_for_a_line_end_is_refused(end: str) -> None:
    assert "control character" in only(refusal(f"a{end}b")).found


WRONG_LINES = {
    "a --w 512": ("--w", "no --h", "both --w and --h"),
    "a --h 512": ("--h", "no --w", "both --w and --h"),
    "a --w 512 --h": ("--h", "nothing", "a number after it"),
    "a --w 770 --h 512": ("--w", "770", "multiple of 8"),
    "a --w 512 --h 7": ("--h", "7", "multiple of 8"),
    "a --w 56 --h 512": ("--w", "56", "greater than or equal to 64"),
    "a --w 512 --h 2056": ("--h", "2056", "less than or equal to 2048"),
    "a --w 0 --h 512": ("--w", "0", "greater than or equal to 64"),
    "a --w -512 --h 512": ("--w", "-512", "greater than or equal to 64"),
    "a --w 512.0 --h 512": ("--w", "512.0", "whole number"),
    "a --w 512x512 --h 512": ("--w", '"512x512"', "whole number"),
    "a --w \uff15\uff11\uff12 --h 512": ("--w", '"\uff15\uff11\uff12"', "whole number"),
    "a --s": ("--s", "nothing", "a number after it"),
    "a --s 0": ("--s", "0", "greater than or equal to 1"),
    "a --s 1001": ("--s", "1001", "less than or equal to 1000"),
    "a --s 7.5": ("--s", "7.5", "whole number"),
    "a --s 3, masterpiece": ("--s", '"3, masterpiece"', "whole number"),
    "a --s 1_0": ("--s", '"1_0"', "whole number"),
    "a --s 0x10": ("--s", '"0x10"', "whole number"),
    "a --s true": ("--s", '"true"', "whole number"),
    "a --s 3 --S 4": ("--s", "a second time", "once"),
    "a --n b --n c": ("--n", "a second time", "once"),
    "a --d -1": ("--d", "-1", "greater than or equal to 0"),
    f"a --d {2**63}": ("--d", str(2**63), "less than 9223372036854775808"),
    f"a --d {'9' * 300}": ("--d", "999", "less than"),
    f"a --d {'9' * 4900}": ("--d", "999", "whole number"),
    "a --l 50.5": ("--l", "50.5", "less than or equal to 50"),
    "a --l -1": ("--l", "-1", "greater than or equal to 0"),
    "a --l 7,5": ("--l", '"7,5"', "a number"),
    "a --l 7.5.1": ("--l", '"7.5.1"', "a number"),
    "a --l 1e1": ("--l", '"1e1"', "a number"),
    "a --l nan": ("--l", '"nan"', "a number"),
    "a --l inf": ("--l", '"inf"', "a number"),
    f"a --l {'9' * 4000}.0": ("--l", "Infinity", "finite number"),
    "a --am 4.5": ("--am", "4.5", "less than or equal to 4"),
    "a --am 0.5,0.8": ("--am", '"0.5,0.8"', "a number"),
    "a --ss euler_a": ("--ss", "an option that no prompt has here", "one sampler serves all prompts"),
    "a --SS euler_a": ("--ss", "an option that no prompt has here", "--n NEGATIVE, --w WIDTH"),
    "a --cn edges.png": ("--cn", "an option that no prompt has here", "no ControlNet"),
    "a --fs 3": ("--fs", "an option that no prompt has here", "flow models"),
    "a --g 3.5": ("--g", "an option that no prompt has here", "guidance is --l"),
    "a --dog": ("--dog", "an unknown option", "a dash has a space on both sides"),
    "a --ar 16:9": ("--ar", "an unknown option", "--n NEGATIVE, --w WIDTH, --h HEIGHT, --d SEED"),
    "--n bad": ("", "no prompt", "a prompt, and options after it"),
    "  --s 3": ("", "no prompt", "a prompt, and options after it"),
    "x" * 2001: ("", "xxx", "at most 2000 characters"),
    f"a --n {'x' * 2001}": ("--n", "xxx", "at most 2000 characters"),
    "x" * 5001: ("", "5001 characters", "at most 5000"),
}  # fmt: skip


@pytest.mark.parametrize("line", WRONG_LINES, ids=[line[:40] for line in WRONG_LINES])
def test_each_wrong_option_is_named_with_its_line_and_what_is_allowed(line: str) -> None:
    option, found, allowed = WRONG_LINES[line]
    problem = only(refusal(f"# first\nfine --s 3\n{line}\nfine --s 4\n"))
    assert (problem.origin, problem.line, problem.path) == ("p.txt", 3, option)
    assert found in problem.found
    assert allowed in problem.allowed
    assert str(problem).startswith(f"p.txt:3: {option}: found" if option else "p.txt:3: found")
    alone = only(refused_text(line))
    assert (alone.origin, alone.line, alone.path) == ("--prompt", None, option)


@pytest.mark.parametrize(
    ("options", "suggestion"),
    [
        ("--w 770 --h 512", "768"),
        ("--w 7 --h 512", "64"),
        ("--w 2049 --h 512", "2048"),
        ("--w 2060 --h 512", None),
        (f"--w {'9' * 300} --h 512", None),
        ("--w=512", "--w 512"),
        ("--W512", "--w 512"),
        ("--l:7.5", "--l 7.5"),
        ("--am=1", "--am 1"),
        ("--x512", None),
        ("--width 512", "--w"),
        ("--height 512", "--h"),
        ("--seed 3", "--d"),
        ("--steps 3", "--s"),
        ("--cfg 3", "--l"),
        ("--scale 3", "--l"),
        ("--negative_prompt bad", "--n"),
        ("--neg bad", "--n"),
        ("--strength 1", "--am"),
        ("--dog", None),
    ],
)
def test_what_was_probably_meant_is_said(options: str, suggestion: str | None) -> None:
    assert only(refused_text(f"a cat {options}")).suggestion == suggestion


def test_all_problems_are_said_at_once_in_the_order_of_lines() -> None:
    content = "a\nb --w 3\na\nc --s 0 --ss x --dog --l x\n\n--d -1\n"
    found = [(problem.line, problem.path) for problem in refusal(content)]
    assert found == [
        (2, "--w"),
        (3, ""),
        (4, "--ss"),
        (4, "--dog"),
        (4, "--s"),
        (4, "--l"),
        (6, ""),
        (6, "--d"),
    ]


@pytest.mark.parametrize("second", ["a --n b --w 64 --h 64", "a  --h 64 --w 64   --N b", " a --n  b --w 064 --h +64"])
def test_a_prompt_with_equal_settings_stands_once(second: str) -> None:
    problem = only(refusal(f"a --n b --w 64 --h 64\na --n b\n{second}"))
    assert problem.line == 3
    assert problem.found == "the prompt of line 1 with the same settings"


def test_a_prompt_with_other_settings_may_stand_again() -> None:
    assert texts("a\na --d 0\na --d 1\na --n\nA\n") == ["a", "a", "a", "a", "A"]


def test_as_many_prompts_are_read_as_samples_may_have() -> None:
    lines = [f"a --d {seed}" for seed in range(MOST_PROMPTS)]
    assert len(read("\n".join(lines))) == MOST_PROMPTS
    problem = only(refusal("#\n" + "\n".join([*lines, "b", "c"])))
    assert (problem.line, problem.found, problem.allowed) == (258, "258 prompts", "at most 256")


# Bytes


@pytest.mark.parametrize(
    ("content", "line", "found"),
    [
        (b"", None, "no prompt"),
        (b"\xef\xbb\xbf", None, "no prompt"),
        (b"\n \n\r\n\t\n# a cat\n", None, "no prompt"),
        (b"a\nb\xff\n", 2, "not UTF-8"),
        (b"a\n\xe9t\xe9\n", 2, "not UTF-8"),
        (b"a\n\xed\xa0\x80\n", 2, "not UTF-8"),
        (b"a\n\xc0\x80\n", 2, "not UTF-8"),
        ("a cat\n".encode("utf-16"), 1, "not UTF-8"),
        ("a cat\nb\n".encode("utf-16-le"), 1, "zero byte"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), 1, "not UTF-8"),
        (b"a\nb\nc\0d\n", 3, "zero byte"),
        (bytes(2000), 1, "zero byte"),
        (b"a\n\x1b[31mb", 2, "control character '\\x1b'"),
        (b"a" * (2**20 + 1), None, "more than 1048576 bytes"),
    ],
)
@pytest.mark.parametrize("name", ["p.txt", "<stdin>"])
def test_bytes_that_are_no_prompts_are_refused(content: bytes, line: int | None, found: str, name: str) -> None:
    problem = only(refusal(content, name))
    assert problem.line == line
    assert found in problem.found


@pytest.mark.parametrize("control", CONTROLS, ids=ascii)
def test_no_control_character_comes_through(control: str) -> None:
    refusal(f"a{control}b --d 1\n")
    refused_text(f"a --n b{control}")
    refusal(json.dumps([f"a{control}b"]), "p.json")


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "a\rb", "\na", "a\udcffb", "", " ", "\t"])
def test_a_text_of_the_command_line_is_one_line_of_text(text: str) -> None:
    assert only(refused_text(text)).origin == "--prompt"


HUGE = {
    "spaces": " " * 2**20,
    "spaces and a letter": " " * (2**20 - 1) + "a",
    "dashes": "-" * 2**20,
    "dashes and spaces": " --" * (2**20 // 3),
    "options on one line": " --x" * 2**18,
    "options on many lines": ("a" + " --x" * 1200 + "\n") * 200,
    "empty lines": "\n" * 2**20,
    "comments": "#\n" * 2**19,
    "short lines": "a\n" * 2**19,
    "brackets": "[" * 2**20,
    "digits": ("a --d " + "9" * 4900 + "\n") * 200,
    "points": ("a --l " + "9" * 2400 + "." + "9" * 2400 + ".\n") * 200,
}


@pytest.mark.parametrize("name", ["p.txt", "<stdin>"])
@pytest.mark.parametrize("content", HUGE)
def test_no_file_takes_long_to_refuse(content: str, name: str) -> None:
    started = time.process_time()
    refusal(HUGE[content], name)
    assert time.process_time() - started < 10


def test_credentials_in_a_name_are_not_repeated() -> None:
    assert "SECRET" not in str(refusal("a --s", "s3://ID:SECRET@b/p.txt")[0])


# YAML and JSON

YAML = """\
# three prompts
- a cat -- dog
- prompt: a cat --w 512
  negative: bad
  seed: 0
  size: [512, 768]
  steps: 28
  guidance: 7.5
  strength: 0.5
- {prompt: "a\\nb", size: 64, negative: ""}
"""
EXPECTED = (
    PromptConfig(prompt="a cat -- dog"),
    PromptConfig(
        prompt="a cat --w 512", negative="bad", seed=0, size=(512, 768), steps=28, guidance=7.5, strength=0.5
    ),
    PromptConfig(prompt="a\nb", size=64, negative=""),
)  # fmt: skip


@pytest.mark.parametrize("name", ["p.yaml", "P.YML", "p.json", "<stdin>", "-", "prompts", "s3://bucket/p.yaml"])
@pytest.mark.parametrize("start", ["", "\ufeff", "prompts:\n", "---\n", "\n\n# c\n", "prompts: # c\n"])
def test_a_list_is_read_bare_or_under_its_key(name: str, start: str) -> None:
    assert read(start + YAML, name) == EXPECTED
    assert read((start + YAML).replace("\n", "\r\n"), name) == EXPECTED


@pytest.mark.parametrize("indent", [None, 0, 2, "\t"])
@pytest.mark.parametrize("escaped", [False, True])
def test_json_is_read(indent: int | str | None, escaped: bool) -> None:
    first, second = "a \U0001f600 \u732b", "b/\\\t\"'"
    data = [first, {"prompt": second, "size": [64, 72], "guidance": 7.5, "negative": None}]
    expected = (PromptConfig(prompt=first), PromptConfig(prompt=second, size=(64, 72), guidance=7.5))
    for content in (data, {"prompts": data}):
        assert read(json.dumps(content, indent=indent, ensure_ascii=escaped), "p.json") == expected
        if indent != "\t":
            assert read(json.dumps(content, indent=indent, ensure_ascii=escaped), "<stdin>") == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a cat", ["a cat"]),
        ("[cat:dog:0.5] on a [mat]", ["[cat:dog:0.5] on a [mat]"]),
        ("{red|blue} hat", ["{red|blue} hat"]),
        ("-a cat", ["-a cat"]),
        ("prompts: what are they", ["prompts: what are they"]),
        ("a\n- b", ["a", "- b"]),
        ("- a\n- b", ["a", "b"]),
        ("-\n  a\n-\n  b", ["a", "b"]),
        ("['a', \"b\"]", ["a", "b"]),
        ("[\n a,\n b\n]", ["a", "b"]),
        ("# c\nprompts: [a, b]", ["a", "b"]),
    ],
)
def test_a_text_without_a_telling_name_is_what_it_begins_like(content: str, expected: list[str]) -> None:
    assert texts(content, "<stdin>") == expected
    assert texts(content, "prompts.list") == expected


def test_a_name_in_txt_says_lines_whatever_they_begin_like() -> None:
    assert texts("- a\n[\nprompts:") == ["- a", "[", "prompts:"]


def test_a_toml_file_is_not_taken_for_prompts() -> None:
    assert "TOML" in only(refusal('[prompt]\nwidth = 512\n[[prompt.subset]]\nprompt = "a"\n', "p.toml")).found


WRONG_YAML = {
    "- a\n- 7": ("prompts[1]", 2, "7", "text or a mapping"),
    "- a\n-": ("prompts[1]", 2, "null", "text or a mapping"),
    "- a\n- [b]": ("prompts[1]", 2, '["b"]', "text or a mapping"),
    "- a\n- {}": ("prompts[1].prompt", 2, "nothing", "required"),
    "- a\n- size: 64": ("prompts[1].prompt", 2, "nothing", "required"),
    "- prompt: a\n  prompt: b": ("prompts[0].prompt", 2, "a second time (first on line 1)", "each key once"),
    "- prompt: a\n  sede: 3": ("prompts[0].sede", 2, "unknown key", "guidance, negative, prompt, seed, size"),
    "- prompt: [a]": ("prompts[0].prompt", 1, '["a"]', "text"),
    "- prompt: a\n  seed: x": ("prompts[0].seed", 2, '"x"', "whole number"),
    "- prompt: a\n  seed: [1, 2]": ("prompts[0].seed", 2, "[1, 2]", "whole number"),
    "- prompt: a\n  seed: -1": ("prompts[0].seed", 2, "-1", "greater than or equal to 0"),
    "- prompt: a\n  seed: true": ("prompts[0].seed", 2, "true", "whole number"),
    "- prompt: a\n  size: 7": ("prompts[0].size", 2, "7", "multiple of 8"),
    "- prompt: a\n  size: 512x768": ("prompts[0].size", 2, '"512x768"', "a whole number or a list"),
    "- prompt: a\n  size: [64, 7]": ("prompts[0].size[1]", 2, "7", "multiple of 8"),
    "- prompt: a\n  size:\n  - 64\n  - x": ("prompts[0].size[1]", 4, '"x"', "whole number"),
    "- prompt: a\n  size: [64]": ("prompts[0].size[1]", 2, "nothing", "required"),
    "- prompt: a\n  size: [64, 64, 64]": ("prompts[0].size", 2, "3 items", "at most 2"),
    "- prompt: a\n  steps: 0": ("prompts[0].steps", 2, "0", "greater than or equal to 1"),
    "- prompt: a\n  guidance: .nan": ("prompts[0].guidance", 2, ".nan", "finite"),
    "- prompt: a\n  strength: 5": ("prompts[0].strength", 2, "5", "less than or equal to 4"),
    f"- {'x' * 2001}": ("prompts[0]", 1, "xxx", "at most 2000 characters"),
    "- a\n- a": ("prompts[1]", 2, "the prompt of line 1", "each prompt once"),
    "- a\n- b\n- {prompt: a, seed: null}": ("prompts[2]", 3, "the prompt of line 1", "each prompt once"),
    "- {prompt: a, size: 64}\n- {prompt: a, size: [64, 64]}": ("prompts[1]", 2, "the prompt of line 1", "once"),
    "- a --w 512 --ss x": ("prompts[0]", 1, "--w, --ss in a text", "a mapping {prompt: ..., size: ...}"),
    "- |\n  a\n  --N bad": ("prompts[0]", 1, "--n in a text", "a mapping {prompt: ..., negative: ...}"),
    "prompts: a": ("prompts", 1, '"a"', "a list"),
    "prompts: []": ("prompts", 1, "0 items", "at least 1"),
    "prompts:": ("prompts", 1, "null", "a list"),
    "prompts: [a]\nsteps: 3": ("steps", 2, "unknown key", "prompts"),
    "[]": ("prompts", 1, "0 items", "at least 1"),
    "a": ("", None, "no single list or mapping", "a list of prompts"),
    "": ("", None, "no single list or mapping", "a list of prompts"),
    "# a": ("", None, "no single list or mapping", "a list of prompts"),
    "- a\n---\n- b": ("", 3, "no single list or mapping", "one document"),
    "- &a b\n- *a": ("", 1, "anchor or alias", "written out"),
    "- !!python/name:os.system": ("", 1, "the tag", "untagged"),
    "- a\n- 'b": ("", 2, "unexpected end", "YAML"),
    "- a\n\t- b": ("", 2, "'\\t'", "spaces, not tabs"),
    '- "a\\x1b[31m"': ("prompts[0]", 1, "control character", "text"),
    '- "a\\ud83d"': ("prompts[0]", 1, "control character", "text"),
    "[" * 1000: ("", 1, "more than 32 levels", "at most 32"),
}  # fmt: skip


@pytest.mark.parametrize("content", WRONG_YAML, ids=[content[:30] for content in WRONG_YAML])
def test_each_wrong_item_is_named_with_its_line_and_what_is_allowed(content: str) -> None:
    path, line, found, allowed = WRONG_YAML[content]
    problem = refusal(content, "p.yaml")[0]
    assert (problem.path, problem.line) == (path, line)
    assert found in problem.found
    assert allowed in problem.allowed


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("negative_prompt", "negative"),
        ("width", "size"),
        ("height", "size"),
        ("scale", "guidance"),
        ("cfg_scale", "guidance"),
        ("sample_steps", "steps"),
        ("sede", "seed"),
        ("promt", "prompt"),
        ("sampler", None),
    ],
)
def test_a_key_of_sd_scripts_is_translated(key: str, suggestion: str | None) -> None:
    assert only(refusal(f"- {{prompt: a, {key}: 3}}", "p.yaml")).suggestion == suggestion


def test_all_problems_of_a_list_are_said_at_once() -> None:
    found = [problem.path for problem in refusal("- a --s 3\n- {prompt: a, seed: x, sise: 3}\n- 7\nx", "p.yaml")]
    assert len(found) == 1  # it is no YAML
    found = [problem.path for problem in refusal("- a --s 3\n- {prompt: a, seed: x, sise: 3}\n- 7\n- {}", "p.yaml")]
    assert found == ["prompts[0]", "prompts[1].seed", "prompts[1].sise", "prompts[2]", "prompts[3].prompt"]


def test_a_list_of_too_many_is_refused() -> None:
    content = "\n".join(f"- a{at}" for at in range(MOST_PROMPTS + 1))
    problem = only(refusal(content, "p.yaml"))
    assert (problem.found, problem.allowed) == ("257 items", "at most 256")


# Anything

SIDES = st.integers(8, 256).map(lambda eighth: 8 * eighth)
SIZES = SIDES | st.tuples(SIDES, SIDES).filter(lambda size: size[0] != size[1])
CHARACTERS = st.characters(exclude_categories=["Cc", "Cs"]) | st.sampled_from("-- \tnwhdls#=0123")
DECIMALS = st.integers(0, 5000).map(lambda hundredths: hundredths / 100)


def is_plain(text: str) -> bool:
    """Whether a line can hold the text: without spaces at its ends, and without what would be an option."""
    return text == text.strip() and not any(word[:2] == "--" and word[2:3].isalpha() for word in text.split())


LINE_TEXTS = st.text(CHARACTERS, max_size=30).filter(is_plain)
PROMPTS = st.builds(
    PromptConfig,
    prompt=LINE_TEXTS.filter(lambda text: bool(text) and text[0] != "#"),
    negative=st.none() | LINE_TEXTS,
    seed=st.none() | st.integers(0, 2**63 - 1),
    size=st.none() | SIZES,
    steps=st.none() | st.integers(1, 1000),
    guidance=st.none() | DECIMALS,
    strength=st.none() | st.integers(-400, 400).map(lambda hundredths: hundredths / 100),
)
LISTS = st.lists(PROMPTS, min_size=1, max_size=5, unique_by=lambda prompt: prompt.model_dump_json())


def written(prompt: PromptConfig) -> str:
    """The prompt as a line."""
    size = (prompt.size, prompt.size) if isinstance(prompt.size, int) else prompt.size or (None, None)
    options = {
        "n": prompt.negative,
        "w": size[0],
        "h": size[1],
        "d": prompt.seed,
        "l": prompt.guidance,
        "s": prompt.steps,
        "am": prompt.strength,
    }
    return prompt.prompt + "".join(f" --{letters} {value}" for letters, value in options.items() if value is not None)


@settings(max_examples=200, deadline=None)
@given(LISTS)
def test_lines_are_read_back_as_they_were(prompts: list[PromptConfig]) -> None:
    lines = [written(prompt) for prompt in prompts]
    assert read("\n".join(lines)) == tuple(prompts)
    assert read("# c\r\n" + "\r\n\r\n".join(lines) + "\r\n") == tuple(prompts)
    assert tuple(map(read_prompt, lines)) == tuple(prompts)


@settings(max_examples=50, deadline=None)
@given(LISTS)
def test_lists_are_read_back_as_they_were(prompts: list[PromptConfig]) -> None:
    data = [prompt.model_dump(mode="json", exclude_none=True) for prompt in prompts]
    assert read(write_yaml(data), "p.yaml") == tuple(prompts)
    assert read(json.dumps({"prompts": data}), "p.json") == tuple(prompts)


@settings(max_examples=200, deadline=None)
@given(
    st.text(CHARACTERS | st.sampled_from("\0\n\r\x1b:[]{}'\"|&*!"), max_size=60), st.sampled_from(["txt", "yaml", ""])
)
def test_any_text_is_read_or_refused(text: str, suffix: str) -> None:
    try:
        prompts = read(text, f"p.{suffix}")
    except PromptsError as error:
        checked(error)
    else:
        SamplesConfig(prompts=prompts)


OPTION_VALUES = st.tuples(
    st.sampled_from(["n", "w", "h", "d", "l", "s", "am", "ss", "x", "W", "-w"]),
    st.sampled_from(["", "512", "64", "7", "-1", "0.5", "1e3", "x", "9" * 25, "9" * 500, "nan"]) | st.text(max_size=5),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(OPTION_VALUES, max_size=6))
def test_any_options_are_read_or_refused(options: list[tuple[str, str]]) -> None:
    text = "a" + "".join(f" --{letters} {value}" for letters, value in options)
    problems: tuple[Problem, ...] = ()
    try:
        prompt = read_prompt(text)
    except PromptsError as error:
        problems = checked(error)
    else:
        PromptConfig.model_validate_json(prompt.model_dump_json())
    assert all(not problem.path or problem.path.startswith("--") for problem in problems)


def test_settings_that_are_equal_to_samples_are_left_to_them() -> None:
    with pytest.raises(ValidationError, match="prompts holds one twice"):
        SamplesConfig(prompts=("a", *read("a")))
