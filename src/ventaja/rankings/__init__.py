"""What people said of answers, and its files. It knows no model."""

from ventaja.rankings.files import read_rankings, write_pairs, write_rankings

__all__ = ["read_rankings", "write_pairs", "write_rankings"]
