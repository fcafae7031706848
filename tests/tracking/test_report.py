"""The report is one page that needs nothing else, and whatever the model said stays text."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ventaja.errors import RunError
from ventaja.records import (
    Completion,
    Fault,
    Group,
    Judgement,
    Message,
    Prompt,
    StopReason,
    Trajectory,
    write_groups,
)
from ventaja.tracking import Run, RunFolder, reward_curve_svg, write_report
from ventaja.tracking.report.curves import _moving_average

EVIL = "<script>alert('x')</script> & \x00\x1b[31m $x_1^{"


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(path: Path) -> Tags:
    tags = Tags()
    tags.feed(path.read_text(encoding="utf-8"))
    assert tags.open == []
    return tags


def a_run(path: Path, *, rounds: int = 60) -> RunFolder:
    folder = RunFolder.create(
        path, {"model": EVIL, "rl": {"kl_coef": 0.1, "none": None}}, command=f"ventaja {EVIL}"
    )
    for number in range(1, rounds + 1):
        folder.append_metrics(
            number,
            {
                "reward": number / rounds + (number % 3) / 10,
                "reward_std": 0.2,
                "kl": 0.01 * number,
                "clip_ratio/low": 0.1,
                "clip_ratio/high": 0.2,
                "rewards/exact/mean": 0.5,
                f"rewards/{EVIL}/mean": 0.5,
            }
            | ({"eval/accuracy_greedy": 0.5, "eval/mine": 3} if number % 10 == 0 else {}),
        )
    return folder


def a_group(content: str | tuple[Message, ...]) -> Group:
    texts = ("middling", EVIL, "the worst", "long " * 2000)
    return Group(
        prompt=Prompt(id="1", content=content),
        prompt_ids=(1,),
        trajectories=tuple(
            Trajectory.of(
                Completion(
                    token_ids=(1,), logprobs=(-1.0,), text=text, stop=StopReason.LENGTH, weight_version=0
                )
            )
            for text in texts
        ),
        judgements=(
            Judgement.outcome(0.5, length=1),
            Judgement.outcome(1.0, length=1, components={EVIL: 1.0, "none": None}),
            Judgement.outcome(-1.0, length=1),
            Judgement(faults=(Fault(function="exact", error=EVIL, detail=""),)),
        ),
    )


def test_the_report_is_self_contained_and_escaped(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run")
    chat = (Message(role="user", content=EVIL),)
    write_groups(folder.rollout_path(1), [a_group("2 + 2?")])
    write_groups(folder.rollout_path(60), [a_group(chat)])
    path = Run(folder.path).report()
    assert path == folder.report_path

    page = path.read_text(encoding="utf-8")
    tags = parsed(path)
    assert "script" not in tags.tags
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp;" in page
    assert "\x00" not in page
    assert "\x1b" not in page
    assert all(link.startswith("#") for link in tags.links)
    assert not re.search(r"url\((?!['\"]?#)|@import", page)
    # Reward, both reward functions, held out, KL, clip fractions and a metric of the user's own.
    assert tags.tags.count("svg") == 6
    assert "eval/mine" in page
    assert "ended by length" in page
    assert "Round 1<" in page
    assert "Round 60<" in page
    assert "characters left out" in page
    assert "rl.kl_coef" in page
    assert len(page) < 400_000
    before = path.read_bytes()
    assert write_report(folder.path).read_bytes() == before


def test_a_report_before_the_first_round_and_after_it(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {}, command="")
    assert "No round has ended yet" in write_report(folder.path).read_text()
    parsed(folder.report_path)
    folder.append_metrics(1, {"reward": 0.5, "reward_std": None, "loss": float("nan")})
    tags = parsed(write_report(folder.path))
    assert tags.tags.count("svg") == 1


def test_a_long_run_makes_a_page_of_ordinary_size(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {}, command="")
    folder.metrics_path.write_text(
        "".join(f'{{"round": {n}, "reward": {n % 17}, "reward_std": 0.5}}\n' for n in range(1, 20_001))
    )
    assert write_report(folder.path).stat().st_size < 500_000


def test_no_run_no_report(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such folder"):
        write_report(tmp_path / "none")


def test_reward_curves_of_several_runs(tmp_path: Path) -> None:
    runs = {
        name: Run(a_run(tmp_path / f"run{index}").path) for index, name in enumerate(("GRPO", "_$x_1^{ 报"))
    }
    path = reward_curve_svg(runs, tmp_path / "curves.svg")
    root = ElementTree.parse(path).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert b"<script" not in path.read_bytes()
    assert b"<text" not in path.read_bytes()
    again = reward_curve_svg(runs, tmp_path / "again.svg")
    assert again.read_bytes() == path.read_bytes()
    with pytest.raises(RunError, match="no round has the metric"):
        reward_curve_svg(runs, tmp_path / "loss.svg", metric="loss")
    assert not (tmp_path / "loss.svg").exists()


def test_the_bold_line_is_the_mean_around_each_round() -> None:
    # Three values around each, two at the ends: (0+3)/2, (0+3+6)/3, (3+6+0)/3, (6+0)/2.
    assert _moving_average([0.0, 3.0, 6.0, 0.0], 3) == [1.5, 3.0, 3.0, 3.0]
    assert _moving_average([1.0, 2.0], 0) == [1.0, 2.0]


def test_advice_for_a_report_is_not_that_for_a_run(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", {}, command="")
    folder.report_path.mkdir()
    with pytest.raises(
        RunError, match=r"report\.html: cannot be written: .*mend the permissions\.$"
    ) as error:
        write_report(folder.path)
    assert "--run.folder" not in str(error.value)
    with pytest.raises(RunError, match=r"there is no such folder") as error:
        write_report(tmp_path / "rnu")
    assert "--run.resume" not in str(error.value)
