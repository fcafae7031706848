"""What is asked of the Hugging Face hub, and when it is better not to ask."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS_TO_ANSWER = 5.0
"""A hub that has not answered a first knock by then is not there."""

NOT_HERE = "there is no such file or folder here"
"""What is said first of a name that is not on this machine, whatever a hub says of it."""

_FOLDERS = ("runs", "data")
"""Words for local folders that nobody's name on a hub is meant by."""


class HubError(OSError):
    """Something is not here, and the hub cannot be asked for it. The text says why and what to do."""


def is_meant_locally(name: str, *, holding: tuple[str, ...]) -> bool:
    """True if `first/rest`, which does not exist here, is a path that went wrong and no `org/name` of a hub.

    That is so if `first` is `runs` or `data`, or a folder here that holds something matching one of the patterns
    `holding`. A folder that only shares its name with an organisation leaves the hub reachable.
    """
    first, _, rest = name.partition("/")
    return bool(rest) and (first in _FOLDERS or any(True for p in holding for _ in Path(first).glob(p)))


@contextmanager
def quick(name: str) -> Iterator[None]:
    """Inside, `name` is loaded from the hub or from what was downloaded before, without half a minute of retries.

    The hub is knocked at once. If it does not answer, transformers and datasets are told so for as long as this
    lasts: what was downloaded before still loads, and all else is a HubError in place of their own.
    """
    from huggingface_hub import constants

    reason = _unreachable()
    if reason is None:
        yield
        return
    datasets: Any = getattr(sys.modules.get("datasets"), "config", None)
    hub: Any = constants
    before = [(module, module.HF_HUB_OFFLINE) for module in (hub, datasets) if module is not None]
    for module, _ in before:
        module.HF_HUB_OFFLINE = True
    try:
        yield
    except OSError as error:
        detail = str(error).strip().split("\n")[0]
        raise HubError(
            f"{reason}, and {name} is not all there in what was downloaded before ({detail.rstrip('.')})."
        ) from error
    finally:
        for module, value in before:
            module.HF_HUB_OFFLINE = value


def _unreachable() -> str | None:
    """Why the hub cannot be asked, or None if it can. Proxies and HF_ENDPOINT are those of huggingface_hub."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.is_offline_mode():
        switch = next(
            (n for n in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(n)), "offline mode"
        )
        return f"the hub is not asked ({switch} is set)"
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS_TO_ANSWER)
    except (
        Exception
    ) as error:  # of whichever HTTP package this huggingface_hub is built on; any answer is one
        return f"the hub {constants.ENDPOINT} cannot be reached from here ({error})"
    return None
