"""Things that a user names: found, loaded, and named again."""

import functools

import pytest

from ventaja.errors import ConfigError
from ventaja.functional import kl_k3
from ventaja.named import load_named, own_name, spec_of, where


def at_home(x):
    return x


class Judge:
    def __call__(self, x):
        return x


def test_a_file_is_executed_once_unless_it_changes(tmp_path):
    path = tmp_path / "things.py"
    path.write_text("class Inner:\n    def f(): ...\ng = 3\n")
    assert load_named(f"{path}:g", "an engine") == 3
    inner = load_named(f"{path}:Inner.f")
    assert inner is load_named(f"{path}:Inner.f")
    assert spec_of(inner) == f"{path}:Inner.f"
    assert load_named(spec_of(inner)) is inner
    path.write_text("g = 4\n# changed\n")
    assert load_named(f"{path}:g") == 4


@pytest.mark.parametrize(("what", "the"), [("an engine", "the engine"), ("a reward", "the reward")])
def test_an_error_says_what_was_looked_for(what, the, tmp_path):
    with pytest.raises(ConfigError, match=f"^{the} 'math:sqr': there is no 'sqr' in it. Did you mean 'sqrt'"):
        load_named("math:sqr", what)
    with pytest.raises(ConfigError, match=rf"^{the} '.*nothing\.py:f': there is no file .*nothing\.py\.$"):
        load_named(f"{tmp_path}/nothing.py:f", what)
    (tmp_path / "broken.py").write_text("x = 1\nx / 0\n")
    with pytest.raises(ConfigError, match=rf"^{the} .* cannot be loaded: .*broken\.py:2: ZeroDivisionError"):
        load_named(f"{tmp_path}/broken.py:f", what)


def test_a_function_is_named_so_that_it_is_found_again():
    assert spec_of(kl_k3) == "ventaja.functional.kl:kl_k3"
    assert load_named(spec_of(at_home)) is at_home


def test_what_cannot_be_found_again_says_so(monkeypatch):
    def nested():
        pass

    for thing, name in (
        (nested, "nested"),
        (lambda: 0, "lambda"),
        (functools.partial(at_home, 1), "at_home"),
    ):
        assert spec_of(thing) == f"{name} (given in Python)"
    assert spec_of(Judge()) == "Judge (given in Python)"
    monkeypatch.setattr(at_home, "__module__", "__main__")
    assert spec_of(at_home) == "at_home (given in Python)"
    assert own_name(functools.partial(functools.partial(at_home))) == "at_home"


def test_where_a_function_is_written():
    line = at_home.__code__.co_firstlineno
    assert where(at_home) == where(functools.partial(at_home)) == f"{__file__}:{line}"
    assert where(Judge()) == f"{__file__}:{line + 5}"
    assert where(len) == ""
