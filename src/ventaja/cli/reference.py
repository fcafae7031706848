"""docs/configuration.md: every setting of every run file, made from the classes that check them.

python -m ventaja.cli.reference > docs/configuration.md
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable

from pydantic import BaseModel

from ventaja.cli.fields import A_FUNCTION, CHOICE_OR_FUNCTION, Setting, groups_of, settings_of
from ventaja.cli.rank import RankConfig
from ventaja.training.config import EvaluationConfig, RlConfig, SftConfig
from ventaja.training.ranking_config import DpoConfig, RewardModelConfig
from ventaja.training.sampling_config import SampleConfig

_INTRODUCTION = """\
# Configuration

Every setting of a run file, and of the command line. This page is made from the code:
`python -m ventaja.cli.reference > docs/configuration.md`.

A run file is YAML, one mapping per group. Every setting is a flag too, with its dotted name, and a flag wins:

```yaml
model: smollm2-135m
data:
  source: reasoning_gym:chain_sum
  options: {min_terms: 2, max_terms: 3}
algorithm: grpo
run: {folder: runs/sums}
```

```
ventaja rl sums.yaml --algorithm dapo --optimiser.learning_rate 2e-5 --data.options.max_terms 4
```

- `model`, `data`, `algorithm`, `reward`, `engine` and `environment` may be given by a bare value: `algorithm: grpo` is short for
  `algorithm: {name: grpo}`, and `--algorithm grpo` for `--algorithm.name grpo`.
- On the command line, a LIST is one item or a YAML list (`'[a, b]'`), and the flag may be given again for one
  item more. A MAPPING is YAML (`'{a: 1}'`) and takes the place of the file's; an entry of it can be set by
  itself (`--data.options.a 1`).
- `null` unsets a setting whose type says "or null".
- A BOOL flag without a value means true. So does `--model.lora`, and true means LoRA with its defaults.
- YAML is read by the rules of version 1.2: `1e-5` is a number, and `no` and `on` are text.
- A setting that does not exist, a key that is there twice and a value of the wrong type are errors.
"""

COMMANDS = (
    ("rl", RlConfig),
    ("sft", SftConfig),
    ("reward", RewardModelConfig),
    ("dpo", DpoConfig),
    ("eval", EvaluationConfig),
    ("sample", SampleConfig),
    ("rank", RankConfig),
)
_SAME = "As for `ventaja rl`."


def reference() -> str:
    """The page, as Markdown."""
    parts = [_INTRODUCTION]
    known: dict[str, list[Setting]] = {}
    for command, kind in COMMANDS:
        parts.append(f"## ventaja {command}\n\n{inspect.cleandoc(kind.__doc__ or '')}\n")
        parts += _sections(kind, known)
    return "\n".join(parts)


def _sections(kind: type[BaseModel], known: dict[str, list[Setting]]) -> Iterable[str]:
    """One table per group. A group that an earlier command has too is written once."""
    settings = list(settings_of(kind))
    for group, text in {**groups_of(kind), "": ""}.items():
        own = [setting for setting in settings if setting.group == group]
        if not own:
            continue
        title = f"### {group}\n" if group else "### the command itself\n"
        if known.get(group) == own:
            yield f"{title}\n{_SAME}\n"
        else:
            known.setdefault(group, own)
            yield "\n".join([title, *([f"{text}\n"] if text else []), *_table(own), ""])


def _table(settings: Iterable[Setting]) -> Iterable[str]:
    yield "| setting | type | default | |"
    yield "|---|---|---|---|"
    for setting in settings:
        yield _row(setting)
        yield from map(_row, setting.entries)


def _row(setting: Setting) -> str:
    if setting.default is None:
        default = "*must be set*"
    elif setting.default == "null":
        default = ""
    else:
        default = f"`{setting.default}`" if setting.default else '`""`'
    cells = [f"`{setting.name}`", _type(setting), default, setting.help]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _type(setting: Setting) -> str:
    if setting.choices:
        text = ", ".join(f"`{choice}`" for choice in setting.choices)
        text += f", {A_FUNCTION}" if setting.type == CHOICE_OR_FUNCTION else ""
    else:
        text = " ".join(part for part in (setting.type, setting.limits) if part)
    return f"{text} or null" if setting.can_be_null else text


if __name__ == "__main__":
    print(reference(), end="")
