"""Words for error messages: short lists of names, and long texts made short."""

from ventaja.errors import clipped, kind, listed

__all__ = ["clipped", "kind", "listed"]
