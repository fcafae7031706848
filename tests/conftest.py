"""Shapes and types are checked here, and only here: the hook must come before the first import of ventaja."""

import torch
from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook("ventaja", "beartype.beartype")

settings.register_profile("ventaja", deadline=None, derandomize=True)
settings.load_profile("ventaja")

torch.set_num_threads(1)  # tiny models gain nothing from more, and several test runs may share the cores
