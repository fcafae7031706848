"""Trackers get each round once, in whatever tool they show it."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from ventaja.errors import ConfigError
from ventaja.tracking import TensorBoardTracker, make_trackers


def shown(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_the_numbers(tmp_path: Path) -> None:
    (tracker,) = make_trackers(["tensorboard"], tmp_path)
    tracker.log({"reward": 0.5, "kl": torch.tensor(0.25), "samples": 8, "text": "x", "loss": None}, 1)
    tracker.log({"reward": 1.0, "loss": math.nan}, 2)
    tracker.close()
    tracker.close()
    assert shown(tmp_path) == {"reward": [(1, 0.5), (2, 1.0)], "kl": [(1, 0.25)], "samples": [(1, 8.0)]}


def test_tensorboard_shows_replayed_steps_once(tmp_path: Path) -> None:
    first = TensorBoardTracker(tmp_path)
    for step in range(1, 6):
        first.log({"reward": float(step)}, step)
    first.close()
    # Killed after round 5 with its checkpoint at 3: rounds 4 and 5 are played again.
    (resumed,) = make_trackers(["tensorboard"], tmp_path, first_step=4)
    for step in range(4, 7):
        resumed.log({"reward": step * 10.0}, step)
    resumed.close()
    assert shown(tmp_path)["reward"] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0), (5, 50.0), (6, 60.0)]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_that_is_not_installed(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent:
        def find_spec(self, asked: str, *_: object) -> None:
            if asked == name:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    with pytest.raises(ConfigError, match=rf"not installed: pip install 'ventaja\[{name}\]'"):
        make_trackers(["tensorboard", name], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_tracker(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no tracker 'TensorBord'\. Did you mean 'tensorboard'"):
        make_trackers(["TensorBord"], tmp_path)
    with pytest.raises(ConfigError, match="knows tensorboard, wandb, trackio"):
        make_trackers(["mlflow"], tmp_path)
    assert make_trackers([], tmp_path) == []


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_resumed_run_goes_on_in_the_same_run(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[dict[str, Any]] = []
    logged: list[tuple[int, dict[str, Any]]] = []

    def init(**settings: Any) -> Any:
        begun.append(settings)
        return SimpleNamespace(
            log=lambda metrics, step: logged.append((step, dict(metrics))), finish=lambda: None
        )

    module = ModuleType(name)
    vars(module)["init"] = init
    monkeypatch.setitem(sys.modules, name, module)
    for steps in ((1, 2, 3), (2, 3, 4)):
        (tracker,) = make_trackers([name], tmp_path, {"model": "tiny"}, project="sums")
        for step in steps:
            tracker.log({"reward": float(step), "text": "x"}, step)
        tracker.close()
    assert logged == [(step, {"reward": float(step)}) for step in (1, 2, 3, 4)]
    assert begun[0] == begun[1]
    assert begun[0]["project"] == "sums"
    assert begun[0]["resume"] == "allow"
    assert begun[0]["config"] == {"model": "tiny"}
