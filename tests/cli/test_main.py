import subprocess
import sys
from importlib.metadata import version

import pytest

from ventaja.cli import commands
from ventaja.cli import main as main_function
from ventaja.cli.main import COMMANDS
from ventaja.errors import ConfigError, ModelError
from ventaja.models import memory


def failing(monkeypatch, error):
    def command(argv):
        raise error

    monkeypatch.setitem(COMMANDS, "report", ("", command))
    return main_function(["report"])


def test_without_a_command_it_lists_them(capsys):
    assert main_function([]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)


def test_version(capsys):
    with pytest.raises(SystemExit) as exit_:
        main_function(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"ventaja {version('ventaja')}\n"


def test_unknown_command(capsys):
    assert main_function(["algorithm"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "ConfigError: algorithm: no such command. Did you mean 'algorithms'? There are: rl,"
    )


@pytest.mark.parametrize(("error", "status"), [(ConfigError("x: y"), 2), (ModelError("x: y"), 1)])
def test_our_errors_are_a_message_and_a_status(monkeypatch, capsys, error, status):
    assert failing(monkeypatch, error) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"{type(error).__name__}: x: y\n"


def test_messages_are_printed_as_they_are(monkeypatch, capsys):
    failing(monkeypatch, ConfigError(f"stop: [red] :smile: {'long ' * 100}end"))
    assert capsys.readouterr().err == f"ConfigError: stop: [red] :smile: {'long ' * 100}end\n"


def test_traceback_on_request(monkeypatch, capsys):
    monkeypatch.setenv("VENTAJA_TRACEBACK", "1")
    assert failing(monkeypatch, ModelError("gone")) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.endswith("\nModelError: gone\n")


def test_interrupted(monkeypatch, capsys):
    assert failing(monkeypatch, KeyboardInterrupt()) == 130
    assert capsys.readouterr() == ("", "")


def test_a_bug_keeps_its_traceback(monkeypatch):
    with pytest.raises(ZeroDivisionError):
        failing(monkeypatch, ZeroDivisionError())


def test_help_does_not_wait_for_torch():
    code = "import sys; from ventaja.cli import main; main([]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")


def test_as_a_program(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "ventaja", "report", str(tmp_path / "none")], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"RunError: {tmp_path / 'none'}: there is no such folder.")


def test_a_command_that_gets_what_it_does_not_know(capsys):
    assert main_function(["report", "a", "b"]) == 2
    assert capsys.readouterr().err == "ConfigError: unrecognized arguments: b. See ventaja report --help.\n"
    assert main_function(["algorithms", "--markdwon"]) == 2
    assert main_function(["report"]) == 2


def test_freed_memory_is_kept():
    # Ten blocks of 64 MiB, one after another. A block has 16384 pages of 4 KiB: one block touches as many, ten
    # new ones touch 163840.
    code = """if True:
        import platform, resource, runpy, sys
        kept = runpy.run_path(sys.argv[1])["keep_freed_memory"]()
        assert kept == (platform.libc_ver()[0] == "glibc")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            block = bytearray(b"x") * 2**26
            del block
        assert not kept or resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 2 * 16384
    """
    subprocess.run([sys.executable, "-c", code, memory.__file__], check=True)


def test_transformers_is_quiet():
    from transformers.utils import logging

    before = logging.get_verbosity()
    try:
        commands.prepare_process()
        assert logging.get_verbosity() == logging.ERROR
        assert not logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()
