"""Models here are so small that threads would only wait for each other."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny_task import model_folder


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model's folder."""
    return model_folder(tmp_path_factory.mktemp("tiny") / "model")
