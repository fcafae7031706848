"""`ventaja rl`, `sft`, `eval`: from the command line to the config that training gets."""

from types import SimpleNamespace

import pytest

from ventaja import training
from ventaja.cli import main
from ventaja.settings import LoraSettings
from ventaja.training import Evaluation, Sampled

ALL = ["--model", "m", "--data", "d.jsonl", "--run.folder", "runs/x"]

FILE = """\
model: smollm2-135m
data:
  source: reasoning_gym:chain_sum
  options: {min_terms: 2, rate: 1e-3, word: no}
reward: exact_match
sampling: {stop: ["\\n"]}
algorithm: grpo
optimiser:
  learning_rate: 1e-5
run:
  folder: runs/x
"""


@pytest.fixture
def seen(monkeypatch):
    """What training was asked to do; it does nothing."""
    calls = SimpleNamespace(config=None, command=None)

    def train(config, *, command):
        calls.config, calls.command = config, command
        return SimpleNamespace(path=config.run.folder)

    def evaluate(config):
        calls.config = config
        return Evaluation(
            problems=3, accuracy_sampled=0.5, accuracy_greedy=1 / 3, pass_at={1: 0.5, 4: 0.75},
            mean_reward=0.6, truncated_fraction=0.25, seconds=1.25,
        )  # fmt: skip

    monkeypatch.setattr(training, "train_rl", train)
    monkeypatch.setattr(training, "train_sft", train)
    monkeypatch.setattr(training, "evaluate", evaluate)
    return calls


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(FILE)
    return str(path)


def rejected(capsys, *argv):
    """The lines of the error that a command line ends with."""
    assert main(list(argv)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ConfigError: ")
    return err.removeprefix("ConfigError: ").splitlines()


def test_a_file_alone(seen, file, capsys):
    assert main(["rl", file]) == 0
    config = seen.config
    assert config.model.name == "smollm2-135m"
    assert config.data.options == {"min_terms": 2, "rate": 0.001, "word": "no"}
    assert config.reward.functions[0].function == "exact_match"
    assert config.optimiser.learning_rate == 1e-5
    assert config.sampling.stop == ("\n",)
    assert seen.command == f"ventaja rl {file}"
    assert capsys.readouterr().out == "The run is in runs/x. For a page about it: ventaja report runs/x\n"


def test_flags_alone(seen):
    assert main(["rl", *ALL]) == 0
    assert (seen.config.model.name, seen.config.data.source) == ("m", "d.jsonl")
    assert str(seen.config.run.folder) == "runs/x"


def test_flags_win_and_the_rest_stays(seen, file):
    flags = "--algorithm dapo --optimiser.learning_rate 2e-5 --model.device=cpu --data.options.max_terms 3"
    assert main(["rl", file, *flags.split(), "--algorithm.entropy_coef", "1e-3"]) == 0
    config = seen.config
    assert config.algorithm.name == "dapo"
    assert config.algorithm.entropy_coef == 1e-3
    assert config.optimiser.learning_rate == 2e-5
    assert (config.model.name, config.model.device) == ("smollm2-135m", "cpu")
    assert config.data.options == {"min_terms": 2, "rate": 0.001, "word": "no", "max_terms": 3}


def test_the_command_can_be_pasted_into_a_shell(seen):
    assert main(["rl", *ALL, "--data.system_prompt", "be brief"]) == 0
    assert (
        seen.command
        == "ventaja rl --model m --data d.jsonl --run.folder runs/x --data.system_prompt 'be brief'"
    )


def test_a_mapping_as_a_whole_takes_the_files_place(seen, file):
    assert main(["rl", file, "--data.options.b.c", "1e-2", "--data.options", "{a: 1}"]) == 0
    assert seen.config.data.options == {"a": 1, "b": {"c": 0.01}}


def test_lists(seen, file):
    flags = ["--reward", "mine.py:f", "--reward", "{function: regex, options: {pattern: x}}"]
    assert main(["rl", file, *flags, "--run.trackers", "[]", "--optimiser.betas", "[0.8, 0.9]"]) == 0
    assert [f.function for f in seen.config.reward.functions] == ["mine.py:f", "regex"]
    assert seen.config.run.trackers == ()
    assert seen.config.optimiser.betas == (0.8, 0.9)


def test_several_sources(seen, file):
    def sources(*flags):
        assert main(["sft", "--model", "m", "--run.folder", "runs/x", *flags]) == 0
        return seen.config.data.source

    assert sources("--data", "a.jsonl") == "a.jsonl"
    assert sources("--data", "*.jsonl") == "*.jsonl"  # no YAML, where a star begins an alias
    assert [s.source for s in sources("--data", "a.jsonl", "--data", "b.jsonl")] == ["a.jsonl", "b.jsonl"]
    mixed = sources("--data", "[{source: a.jsonl, weight: 2}, b.jsonl]", "--data.system_prompt", "hi")
    assert [(s.source, s.weight) for s in mixed] == [("a.jsonl", 2.0), ("b.jsonl", 1.0)]


@pytest.mark.parametrize("flags", [["--run.resume"], ["--run.resume", "true"], ["--run.resume=yes"]])
def test_true_needs_no_value(seen, file, flags):
    assert main(["rl", *flags, file]) == 0
    assert seen.config.run.resume is True


def test_false_and_null(seen, file):
    assert main(["rl", "--run.resume", "false", file, "--optimiser.max_grad_norm", "null"]) == 0
    assert seen.config.run.resume is False
    assert seen.config.optimiser.max_grad_norm is None


def test_values_may_begin_with_a_dash(seen, file):
    flags = "--algorithm reinforce --algorithm.baseline constant --algorithm.baseline_value -1e-3"
    assert main(["rl", file, *flags.split()]) == 0
    assert seen.config.algorithm.baseline_value == -1e-3


def test_text_is_not_read_as_anything_else(seen):
    assert main(["rl", *ALL, "--model", "7", "--run.folder", "1e3", "--data.system_prompt", "yes"]) == 0
    assert (seen.config.model.name, str(seen.config.run.folder)) == ("7", "1e3")
    assert seen.config.data.system_prompt == "yes"


def test_adapters_by_parts(seen, file):
    assert main(["rl", file, "--model.lora.rank", "4"]) == 0
    assert (seen.config.model.lora.rank, seen.config.model.lora.alpha) == (4, 32)
    assert main(["rl", file, "--model.lora", "{}", "--model.lora.target_modules", "[q_proj, v_proj]"]) == 0
    assert list(seen.config.model.lora.target_modules) == ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    "flags",
    [
        ["--model.lora"],
        ["--model.lora", "--run.folder", "runs/y"],
        ["--model.lora", "true"],
        ["--model.lora={}"],
        ["--model.lora", "rank: 16"],
    ],
)
def test_adapters_by_their_bare_name(flags, seen, file):
    for argv in ([*flags, file], [file, *flags]):
        assert main(["rl", *argv]) == 0
        assert seen.config.model.lora == LoraSettings()
    assert main(["rl", file, *flags, "--model.lora.rank", "4"]) == 0
    assert seen.config.model.lora == LoraSettings(rank=4)


@pytest.mark.parametrize("value", ["true", "{}"])
def test_adapters_by_their_bare_name_in_a_file(value, seen, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(f"model: {{name: m, lora: {value}}}\ndata: d.jsonl\nrun: {{folder: runs/x}}\n")
    assert main(["rl", str(file)]) == 0
    assert seen.config.model.lora == LoraSettings()
    assert main(["rl", str(file), "--model.lora.rank", "4"]) == 0
    assert seen.config.model.lora == LoraSettings(rank=4)
    assert main(["rl", str(file), "--model.lora", "false"]) == 0
    assert seen.config.model.lora is None


def test_sft(seen, capsys):
    assert main(["sft", *ALL, "--run.epochs", "3"]) == 0
    assert seen.config.run.epochs == 3
    assert "runs/x" in capsys.readouterr().out


def test_eval_prints_one_table(seen, capsys):
    assert main(["eval", "--model", "m", "--data", "d.jsonl", "--samples", "4"]) == 0
    assert seen.config.samples == 4
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines == [
        "accuracy, sampled 50.0%", "accuracy, greedy 33.3%", "pass@1 50.0%", "pass@4 75.0%",
        "mean reward 0.600", "answers cut off 25.0%", "problems 3", "seconds 1.2",
    ]  # fmt: skip


def test_sample_reads_candidates_and_says_what_to_do_next(seen, capsys, monkeypatch):
    def sample(config, *, command):
        seen.config, seen.command = config, command
        return Sampled(path=config.output, prompts=3, answers=12, seconds=2.0)

    monkeypatch.setattr(training, "sample", sample)
    argv = [
        "--model",
        "m",
        "--data",
        "d.jsonl",
        "--candidates",
        "{temperature: 0.5}",
        "--candidates",
        "runs/x",
    ]
    assert main(["sample", *argv, "--output", "a.parquet"]) == 0
    assert [(c.model, c.temperature) for c in seen.config.chosen_candidates] == [("m", 0.5), ("runs/x", 1.0)]
    assert seen.command.startswith("ventaja sample --model m")
    assert capsys.readouterr().out.splitlines()[-1] == "To rank them: ventaja rank a.parquet"


def test_eval_without_an_accuracy(seen, capsys, monkeypatch):
    graded = Evaluation(
        problems=3, accuracy_sampled=None, accuracy_greedy=None, pass_at={}, mean_reward=0.6,
        truncated_fraction=0.25, seconds=1.25, reward_metrics={"reward_metrics/steps": 2.5},
    )  # fmt: skip
    monkeypatch.setattr(training, "evaluate", lambda config: graded)
    assert main(["eval", "--model", "m", "--data", "d.jsonl"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith(
        "accuracy, sampled – accuracy, greedy – mean reward 0.600 steps 2.5 answers cut off"
    )
    assert "so there is no accuracy" in text


def test_an_alias_in_a_flag(capsys, file):
    [line] = rejected(capsys, "rl", file, "--data.options", "&x [*x]")
    assert line.startswith("--data.options: this is not valid YAML: *x stands inside of what it means")


# What goes wrong ------------------------------------------------------------------------------------------


def test_nothing_said(capsys):
    assert rejected(capsys, "rl") == [
        "model.name: must be set.", "data.source: must be set.", "run.folder: must be set.",
    ]  # fmt: skip


def test_unknown_flag_names_the_nearest(capsys):
    for wrong, right in {
        "--learning_rate": "--optimiser.learning_rate",
        "--optimiser.learning-rate": "--optimiser.learning_rate",
        "--model.lora.rnk": "--model.lora.rank",
        "--algoritm": "--algorithm",
    }.items():
        [line] = rejected(capsys, "rl", *ALL, wrong, "1")
        assert line == f"{wrong}: no such flag. Did you mean {right!r}? See ventaja rl --help."


def test_flag_without_a_value(capsys):
    [line] = rejected(capsys, "rl", *ALL, "--run.seed")
    assert "--run.seed: expected one argument. See ventaja rl --help." in line


def test_two_files(capsys, file):
    assert rejected(capsys, "rl", file, "b.yaml") == [
        "unrecognized arguments: b.yaml. See ventaja rl --help."
    ]


def test_each_problem_says_where_it_is(capsys, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(FILE.replace("1e-5", "fast") + "  seeed: 3\n")
    lines = rejected(capsys, "rl", str(path), "--run.rounds", "many", "--reward.timeout", "-1")
    assert lines == [
        "--reward.timeout: must be above 0, not -1.",
        f"{path}:9: optimiser.learning_rate: must be a number, not 'fast'.",
        "--run.rounds: must be a whole number, not 'many'.",
        f"{path}:12: run.seeed: no such setting. Did you mean 'run.seed'?",
    ]


def test_problems_in_what_only_makes_sense_together(capsys, file):
    [line] = rejected(capsys, "rl", file, "--algorithm", "dapoo")
    assert line.startswith(
        "--algorithm.name: no algorithm 'dapoo'. Did you mean 'dapo'? There are: reinforce"
    )
    [line] = rejected(capsys, "rl", file, "--algorithm.clip_high", "0.3")
    assert line.startswith("--algorithm.clip_high would have no effect:")


def test_flag_into_something_that_holds_no_settings(capsys, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("optimiser: 3\n")
    [line] = rejected(capsys, "rl", str(path), "--optimiser.schedule", "linear")
    assert line == f"{path}:1: optimiser: must be a mapping for --optimiser.schedule to be set in it, not 3."


def test_an_empty_group_is_a_group(seen, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(FILE.replace("  learning_rate: 1e-5\n", ""))
    assert main(["rl", str(path)]) == 0
    assert seen.config.optimiser.learning_rate == 1e-5


def test_yaml_in_a_flag(capsys, file):
    [line] = rejected(capsys, "rl", file, "--data.options", "{a: 1")
    assert line == "--data.options: this is not valid YAML: expected ',' or '}', but got '<stream end>'."


def test_missing_file(capsys, file):
    [line] = rejected(capsys, "rl", file.replace("run.yaml", "runs.yaml"))
    assert line == f"{file.replace('run.yaml', 'runs.yaml')}: there is no such file. Did you mean {file!r}?"


def test_a_folder_is_no_file(capsys, tmp_path):
    [line] = rejected(capsys, "rl", str(tmp_path))
    assert line == f"{tmp_path}: this is a folder. Give the file, such as {tmp_path}/RUN.yaml."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1\n", ":3: this is not valid YAML: expected ',' or ']', but got '<stream end>'."),
        ("a:\n\t- 1\n", ":2: this is not valid YAML: found character '\\t' that cannot start any token."),
        ("a:\n  b: 1\n  c: 2\n  b: 3\n", ":4: this is not valid YAML: 'b' is there twice, first in line 2; keep one."),
        ("a: !!python/name:os.system\n", ":1: this is not valid YAML: could not determine a constructor for the "
         "tag 'tag:yaml.org,2002:python/name:os.system'."),
        ("a: &x [1, *x]\n", ":1: this is not valid YAML: *x stands inside of what it means, so it would have no end; "
         "write out what is wanted."),
        ("a: &x\n  b: {c: *x}\n", ":2: this is not valid YAML: *x stands inside of what it means, so it would have no "
         "end; write out what is wanted."),
        ("a: " + "[" * 3000 + "]" * 3000, ": this is not valid YAML: it is nested too deeply."),
        ("a: \x01\n", ": this is not valid YAML: special characters are not allowed."),
        ("- a\n", ": holds a list. A run file holds settings, such as `model: smollm2-135m`."),
        ("hello\n", ": holds only 'hello'. A run file holds settings, such as `model: smollm2-135m`."),
        ("# nothing\n", ": is empty. A run file holds settings, such as `model: smollm2-135m`."),
    ],
)  # fmt: skip
def test_files_that_are_no_run_files(capsys, tmp_path, text, message):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    [line] = rejected(capsys, "rl", str(path))
    assert line == f"{path}{message}"


def test_bytes_that_are_no_text(capsys, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(b"model: \xff\n")
    [line] = rejected(capsys, "rl", str(path))
    assert line.startswith(f"{path}: cannot be read: ")
