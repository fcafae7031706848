"""The base of everything that a run file can set."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Frozen, typed and validated; an unknown name is an error; attribute docstrings are the help texts."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
