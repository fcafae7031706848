"""What the documentation says, we run."""

import re
from pathlib import Path

import pytest

import ventaja
from ventaja import yaml
from ventaja.cli.algorithms import algorithms_markdown
from ventaja.cli.fields import settings_of
from ventaja.training.config import RlConfig, parse

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_readme_holds_the_table_of_algorithms() -> None:
    table = re.search(r"<!-- algorithms -->\n(.*?)\n<!-- /algorithms -->", README, re.DOTALL)
    assert table is not None
    assert table[1] == algorithms_markdown().strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_readmes_run_file_is_valid(tmp_path: Path) -> None:
    config = parse(RlConfig, yaml.read(blocks("yaml")[0]).value)
    assert config.algorithm.name == "grpo"
    assert config.run.rounds == 50


def test_the_readmes_flags_exist() -> None:
    from ventaja.cli.rank import RankConfig
    from ventaja.training.config import EvaluationConfig
    from ventaja.training.ranking_config import RewardModelConfig
    from ventaja.training.sampling_config import SampleConfig

    kinds = (RlConfig, EvaluationConfig, SampleConfig, RankConfig, RewardModelConfig)
    names = {s.name for kind in kinds for s in settings_of(kind)}
    groups = {name.split(".")[0] for name in names}
    for flag in re.findall(r"--([a-z_.]+)", "\n".join(re.findall(r"^    ventaja .*$", README, re.MULTILINE))):
        assert flag in names | groups | {"help"}, flag


@pytest.mark.slow
def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    for block in blocks("python"):
        exec(block, scope)  # noqa: S102
    run = scope["run"]
    assert isinstance(run, ventaja.Run)
    assert len(run.metrics) == 2


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own
def test_a_result_is_used_as_its_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    from tiny import save_tiny_model  # type: ignore[import-not-found]

    from ventaja.cli import main

    monkeypatch.chdir(tmp_path)
    model = str(save_tiny_model(tmp_path / "model", "llama"))
    turns = [{"role": "user", "content": "hola"}, {"role": "assistant", "content": "si"}]
    for folder, settings in (("runs/polite", {}), ("runs/polite-lora", {"lora": True})):
        ventaja.sft(
            model={"name": model, "precision": "float32", **settings},
            examples=[{"messages": turns}],
            folder=folder,
            run={"updates": 1, "trackers": []},
        )
    page = (ROOT / "docs" / "using-results.md").read_text()
    assert len(blocks("python", page)) == 2
    for block in blocks("python", page):
        exec(block, {})  # noqa: S102
    [merge] = re.findall(r"^    ventaja (merge .*)$", page, re.MULTILINE)
    assert main(merge.split()) == 0
    assert (tmp_path / "merged" / "polite" / "config.json").exists()


def test_the_page_on_runs_is_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tiny import save_tiny_model  # type: ignore[import-not-found]

    from ventaja.training.session import MAY_CHANGE

    monkeypatch.chdir(tmp_path)
    save_tiny_model(tmp_path / "tiny", "llama", chat_template=None)
    page = (ROOT / "docs" / "runs.md").read_text()
    scope: dict[str, object] = {}
    for block in blocks("python", page):
        exec(block.replace("smollm2-135m", str(tmp_path / "tiny")), scope)  # noqa: S102
    run = scope["run"]
    assert isinstance(run, ventaja.Run)
    named = set(re.findall(r"`([a-z_]+)`", page))
    assert set(run.rollout_table(1).column_names) <= named
    changes = page.split("These may change:")[1].split("So a run")[0]
    for name in MAY_CHANGE:
        assert name.startswith("run.") or f"`{name.rstrip('.')}`" in changes, name
    fixed = {"seed", "completions_per_round", "batch_size"}
    for kind in (RlConfig, ventaja.SftConfig):
        settings = {s.name for s in settings_of(kind) if s.name.startswith("run.")}
        assert {name for name in settings if not name.startswith(MAY_CHANGE)} <= {
            f"run.{name}" for name in fixed
        }


def test_the_page_on_reward_models_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tiny import save_tiny_model  # type: ignore[import-not-found]

    monkeypatch.chdir(tmp_path)
    save_tiny_model(tmp_path / "tiny", "llama")
    page = (ROOT / "docs" / "reward-models.md").read_text()
    scope: dict[str, object] = {}
    for block in blocks("python", page):
        exec(block.replace("smollm2-135m", str(tmp_path / "tiny")), scope)  # noqa: S102
    assert (tmp_path / "runs" / "direct" / "held_out.json").exists()
    [block] = blocks("yaml", page)
    values = {"model": "m", "data": "d", "run": {"folder": "f"}, **yaml.read(block).value}
    config = parse(RlConfig, values)
    from ventaja.training.model_reward import ModelRewardOptions

    judge, pattern = config.reward.functions
    ModelRewardOptions(**judge.options)
    assert pattern.weight == -0.5
    table = page[page.index("| option | is |") : page.index("It computes on its own")]
    assert set(ModelRewardOptions.model_fields) <= set(re.findall(r"`(\w+)`", table))


@pytest.mark.parametrize(
    "algorithm",
    [
        {"name": "grpo", "epochs": 2, "entropy_coef": 0.01},
        {"name": "gspo", "epochs": 2, "minibatches": 1, "dual_clip": 3.0, "max_approx_kl": 9.0},
        {"name": "dapo", "minibatches": 2},
    ],
    ids=lambda algorithm: algorithm["name"],
)
def test_every_recorded_metric_is_documented(algorithm: dict[str, object], tmp_path: Path) -> None:
    from tiny import save_tiny_model  # type: ignore[import-not-found]

    save_tiny_model(tmp_path / "model", "llama")
    run = ventaja.rl(
        model=str(tmp_path / "model"),
        prompts=["ab", "ba"],
        reward=lambda completions, **_: [float(len(c)) for c in completions],
        algorithm=algorithm,
        rounds=1,
        folder=tmp_path / "run",
        sampling={"max_tokens": 4},
        run={"completions_per_round": 16},
    )
    page = (ROOT / "docs" / "metrics.md").read_text()
    documented = set(re.findall(r"`([a-z0-9_/]+)`", page)) | {"round"}
    assert "`reward_metrics/NAME`" in page
    for name in run.metrics[-1]:
        assert re.sub(r"rewards/.*/", "rewards/NAME/", name) in documented | {
            "rewards/NAME/mean",
            "rewards/NAME/std",
        }, name


def test_the_demos_held_out_problems_are_those_it_does_not_train_on() -> None:
    eval_, sft, rl = (
        yaml.read((ROOT / "examples" / "arithmetic" / f"{name}.yaml").read_text()).value["data"]
        for name in ("eval", "sft", "rl")
    )
    assert sft["exclude"] == rl["exclude"] == [eval_]


def test_all_public_names_exist() -> None:
    for name in ventaja.__all__:
        assert getattr(ventaja, name) is not None


def test_the_page_on_data_runs_and_is_valid() -> None:
    from ventaja.training.config import SftConfig

    page = (ROOT / "docs" / "data.md").read_text()
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, {})  # noqa: S102
    weights = []
    for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL):
        # alternatives stand below each other: one line each, with a comment
        for text in block.splitlines() if "#" in block else [block]:
            config = parse(
                SftConfig, {"model": "m", "data": "d", "run": {"folder": "f"}, **yaml.read(text).value}
            )
            weights.append([source.weight for source in config.data.sources])
    assert weights == [[2.0, 0.5, 1.0], [1.0], [1.0], [1.0]]


def test_the_page_for_contributors_names_what_is_there() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    for path in re.findall(r"`((?:src|tests|docs|\.ci)/[\w./-]+)`", page):
        assert (ROOT / path).exists(), path
    make = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z-]+)", page):
        assert f"\n{target}:" in make, target
    for block in blocks("python", page):
        exec(block, {})  # noqa: S102


def test_each_word_of_the_glossary_stands_there_once() -> None:
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    glossary = page[page.index("## The words") :]
    words = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", glossary, re.MULTILINE)[1:]
    assert len(words) >= 25
    assert len(set(words)) == len(words)
