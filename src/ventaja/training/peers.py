"""Where a familiar name of another library's has gone: what an error about an unknown setting says of it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from ventaja.training.peer_names import PEERS, Peer


def peer_hint(name: str, names: Iterable[str], value: Any = None, *, whole: bool = False) -> str:
    """` TRL's 'beta' is 'algorithm.kl_coef' here: …` (with the leading space), or nothing.

    `names` are the settings that a command has, or its flags. A name in one of their groups that comes close to
    another of that group is rather a slip of the pen. `value` is what the name was given: in a mapping, the names
    that are known are explained one by one. With `whole` only a name that is written out as its library has it is known.
    """
    names = list(names)
    known = [setting.removeprefix("--") for setting in names]
    key = name.removeprefix("--").replace("-", "_")
    found = [peer for peer in PEERS if _is(key, peer)]
    if not found and isinstance(value, Mapping):
        hints = (peer_hint(f"{name}.{inside}", names, of, whole=whole) for inside, of in value.items())
        return "".join(dict.fromkeys(hints))
    group, _, last = key.rpartition(".")
    if not found and (whole or _is_slip(group, last, known)):
        return ""
    for fits in (_ends_alike, _has_last_part):
        # half a name is rather the policy's than its critic's
        found = found or [
            peer for peer in PEERS if len(key) > 1 and fits(key, peer) and not peer.name.startswith("critic.")
        ]
    if (
        len({(peer.settings, peer.settings or peer.note) for peer in found}) != 1
    ):  # nobody's, or several things
        return ""
    peer = found[0]
    theirs = f" {peer.library}'s {(key if '*' in peer.name else peer.name)!r}"
    if not peer.settings:
        return f"{theirs} has no counterpart here, because {peer.note}."
    setting = next((setting for setting in peer.settings if setting in known), None)
    if setting is None:
        return f"{theirs} is {peer.settings[0]!r} here, a setting of another command."
    dashes = "--" if name.startswith("--") else ""
    return f"{theirs} is {dashes + setting!r} here{f': {peer.note}' if peer.note else ''}."


def _is(key: str, peer: Peer) -> bool:
    return fnmatchcase(key, peer.name) or key == peer.name.removesuffix(".*")


def _ends_alike(key: str, peer: Peer) -> bool:
    """True if one of the two is the other without the groups that it stands in."""
    parts = peer.name.split(".")
    ends = [".".join(parts[first:]) for first in range(len(parts)) if parts[first] != "*"]
    return any(fnmatchcase(key, end) for end in ends) or f".{key}".endswith(f".{peer.name}")


def _has_last_part(key: str, peer: Peer) -> bool:
    last = key.rpartition(".")[2]
    return len(last) > 1 and peer.name.rpartition(".")[2] == last


def _is_slip(group: str, last: str, known: Iterable[str]) -> bool:
    """True if a setting of that group, which is one of ours, is nearly called `last`."""
    beside = [setting.rpartition(".")[2] for setting in known if setting.rpartition(".")[0] == group]
    return bool(group) and bool(difflib.get_close_matches(last, beside, n=1, cutoff=0.8))
