"""A hub that cannot be asked: a clear error at once, and what is on the disk still loads."""

from __future__ import annotations

import sys
import time

import pytest
from huggingface_hub import constants, is_offline_mode

from ventaja import hub
from ventaja.environments import load_prompts
from ventaja.errors import ConfigError, DataError, ModelError
from ventaja.models import load_policy
from ventaja.models.load import resolve_model

NOWHERE = "http://127.0.0.1:9"  # the port of "discard", at which nobody listens


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """As on a machine without a network, and with nothing downloaded before."""
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def test_a_model_of_a_hub_that_does_not_answer(no_hub):
    start = time.monotonic()
    with pytest.raises(ModelError) as error:
        load_policy("nobody/nothing-of-this-name")
    assert time.monotonic() - start < 10  # transformers would try for half a minute and more
    assert f"the hub {NOWHERE} cannot be reached from here (" in str(error.value)
    assert str(error.value).startswith(
        "model 'nobody/nothing-of-this-name' could not be loaded: there is no such file or folder here, and the hub"
    )
    assert "nobody/nothing-of-this-name is not all there in what was downloaded before" in str(error.value)
    assert not is_offline_mode()  # the next one is asked for again


@pytest.mark.filterwarnings("ignore")  # other people's
@pytest.mark.parametrize("name", ["nobody/nothing-of-this-name", "empty/data"])
def test_a_data_set_of_a_hub_that_does_not_answer(name, no_hub, tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    start = time.monotonic()
    with pytest.raises(DataError) as error:
        load_prompts(name, options={"cache_dir": str(tmp_path / "cache")})
    assert str(error.value).startswith(
        f"{name}: there is no such file or folder here, and the data set cannot be"
    )
    assert time.monotonic() - start < 10
    assert f"the hub {NOWHERE} cannot be reached from here (" in str(error.value)
    assert "Without the hub, download it elsewhere and give its files or folder." in str(error.value)


def test_a_switch_that_says_offline_is_named(no_hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"the hub is not asked \(HF_HUB_OFFLINE is set\)"):
        load_policy("nobody/nothing-of-this-name")
    assert is_offline_mode()


def test_a_hub_that_answers_is_left_alone(monkeypatch):
    monkeypatch.setattr(hub, "_unreachable", lambda: None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with hub.quick("org/name"):
        assert not is_offline_mode()

    def fails():
        with hub.quick("org/name"):
            raise OSError("its own error")

    with pytest.raises(OSError, match="^its own error$"):
        fails()


@pytest.mark.parametrize("name", ["runs/x", "experiments/x"])
def test_a_missing_run_is_not_looked_for_on_a_hub(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments" / "y").mkdir(parents=True)
    (tmp_path / "experiments" / "y" / "config.yaml").touch()
    (tmp_path / "org").mkdir()
    with pytest.raises(ModelError, match=f"model '{name}' does not exist: it is no local folder"):
        resolve_model(name)
    assert resolve_model("org/name") == "org/name"  # a folder that is only called so hides no organisation


@pytest.mark.filterwarnings("ignore")  # other people's
def test_a_data_set_that_a_hub_does_not_have(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def not_found(*args, **kwargs):
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'nothere/data' doesn't exist on the Hub.")

    monkeypatch.setattr(hub, "_unreachable", lambda: None)
    monkeypatch.setattr(datasets, "load_dataset", not_found)
    with pytest.raises(
        DataError, match="^nothere/data: there is no such file or folder here, and .*on the Hub"
    ):
        load_prompts("nothere/data")


def test_without_the_package_datasets(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        ConfigError, match="^nothere/data: there is no such file or folder here, and for the name"
    ):
        load_prompts("nothere/data")
