"""Several raters at once, and a server that is killed again and again: a short form of bench/ranking.py."""

import importlib.util
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "ranking.py"


@pytest.mark.slow
def test_nothing_is_lost_or_doubled(tmp_path):
    spec = importlib.util.spec_from_file_location("bench_ranking", BENCH)
    bench = importlib.util.module_from_spec(spec)
    sys.modules["bench_ranking"] = bench
    spec.loader.exec_module(bench)
    result = bench.storm(tmp_path, seconds=200.0, raters=8, kill_every=2.0, items=3000, most_kills=4)
    assert result["kills"] == 4
    assert result["confirmed"] >= 4
    assert (result["lost"], result["doubled"], result["too many raters"]) == (0, 0, 0)
    assert result["wrong answers"] == []
