"""What is added to a reward before it is credited."""

from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["soft_overlong_punishment"]


def soft_overlong_punishment(
    length_B: Int[Tensor, "B"], *, max_length: int, buffer: int
) -> Float[Tensor, "B"]:
    """0 for a short answer, then linearly down to −1:  clip((L_max − L_cache − |y|) / L_cache, −1, 0).

    DAPO (arXiv:2503.14476), eq. 13: L_max is `max_length`, L_cache is `buffer`, in tokens. An answer is punished as
    soon as it is longer than L_max − L_cache; at L_max it gets −1. Raises ValueError unless
    0 < `buffer` ≤ `max_length`.
    """
    if not 0 < buffer <= max_length:
        raise ValueError(f"buffer must be from 1 to max_length ({max_length}), got {buffer}.")
    return ((max_length - buffer - length_B) / buffer).clamp(-1, 0)
