"""What people said of answers: the store that keeps it, who is asked what, and how far they agree. It knows no model."""

from ventaja.rankings.agreement import Agreement, agreement
from ventaja.rankings.assigning import Plan, Progress, next_showing, progress
from ventaja.rankings.files import read_rankings, write_pairs, write_rankings
from ventaja.rankings.items import Item, Order, SetAside, read_items
from ventaja.rankings.store import Added, Judged, Rater, Showing, StaleError, Store

__all__ = [
    "Added",
    "Agreement",
    "Item",
    "Judged",
    "Order",
    "Plan",
    "Progress",
    "Rater",
    "SetAside",
    "Showing",
    "StaleError",
    "Store",
    "agreement",
    "next_showing",
    "progress",
    "read_items",
    "read_rankings",
    "write_pairs",
    "write_rankings",
]
