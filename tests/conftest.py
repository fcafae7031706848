"""Shapes and types are checked here, and only here: the hook must come before the first import of ventaja."""

from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook("ventaja", "beartype.beartype")

settings.register_profile("ventaja", deadline=None, derandomize=True)
settings.load_profile("ventaja")
