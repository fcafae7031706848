"""What happened in a run: its folder, opened again as a `Run`, shown live, in other tools and as a page."""

from ventaja.tracking.folder import RunFolder
from ventaja.tracking.progress import (
    EVAL_COLUMNS,
    RANKING_COLUMNS,
    RL_COLUMNS,
    SFT_COLUMNS,
    Column,
    Progress,
    loading,
    sparkline,
    table,
)
from ventaja.tracking.report import reward_curve_svg, write_report
from ventaja.tracking.run import Run
from ventaja.tracking.trackers import (
    TRACKERS,
    TensorBoardTracker,
    Tracker,
    TrackioTracker,
    WandbTracker,
    check_trackers,
    make_trackers,
)

__all__ = [
    "EVAL_COLUMNS",
    "RANKING_COLUMNS",
    "RL_COLUMNS",
    "SFT_COLUMNS",
    "TRACKERS",
    "Column",
    "Progress",
    "Run",
    "RunFolder",
    "TensorBoardTracker",
    "Tracker",
    "TrackioTracker",
    "WandbTracker",
    "check_trackers",
    "loading",
    "make_trackers",
    "reward_curve_svg",
    "sparkline",
    "table",
    "write_report",
]
