"""`report.html`: one page about one run that needs nothing but itself, and pictures of reward curves."""

from ventaja.tracking.report.curves import reward_curve_svg
from ventaja.tracking.report.page import write_report

__all__ = ["reward_curve_svg", "write_report"]
