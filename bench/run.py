"""`make bench`: Ventaja beside what one would pick instead, in one run, alternating, medians. Writes
docs/performance.json, docs/performance.svg and docs/performance.md."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from workload import ANSWERS, MAX_TOKENS, PROMPTS, say

HERE = Path(__file__).parent
ROOT = HERE.parent
DOCS = ROOT / "docs"
TRL = "1.16.0"
PEER_VENV = ROOT / ".bench-venv"
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**40)}
"""What a user who tunes TRL on a CPU would set; Ventaja's commands do the same by themselves."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="of each of our measurements")
    parser.add_argument("--alternations", type=int, default=2, help="of whole rounds, ours and TRL's")
    parser.add_argument("--only-ours", action="store_true", help="leave TRL out, and do not write the page")
    arguments = parser.parse_args()
    peer = None if arguments.only_ours else install_peer()
    results: dict[str, Any] = {"machine": machine(), "trl": TRL if peer else None}
    for what in ("sampling", "training", "growth"):
        results[what] = ours(what, repeats=arguments.repeats)
        say(json.dumps(results[what]))
    results["rounds"] = rounds(peer, arguments.repeats, arguments.alternations)
    print("\n".join(summary(results)))
    if peer:
        (DOCS / "performance.json").write_text(json.dumps(results, indent=1) + "\n")
        draw(results)
        (DOCS / "performance.md").write_text(page(results))
        say(f"Wrote {DOCS / 'performance.md'}")


def rounds(peer: Path | None, repeats: int, alternations: int) -> dict[str, list[dict[str, Any]]]:
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
                results["documented"].append(trl(peer, "--samples", str(samples)))
                results["tuned"].append(trl(peer, "--tuned", environment=KEEP_MEMORY))
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
    sys.path.insert(0, str(ROOT / "src"))
    from ventaja.models.catalog import packaged_model

    result = run(
        [str(python), str(HERE / "trl_round.py"), str(packaged_model("smollm2-135m")), *extra],
        environment or {},
    )
    result["seconds"] = result["seconds"][1:]  # the first step warms up
    return result


def run(command: list[str], environment: dict[str, str] | None = None) -> dict[str, Any]:
    done = subprocess.run(
        command, env=os.environ | (environment or {}), cwd=HERE, capture_output=True, text=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(lines[-1].removeprefix("RESULT "))


def install_peer() -> Path:
    """TRL in an environment of its own; returns its Python."""
    python = PEER_VENV / "bin" / "python"
    if not (PEER_VENV / "ready").exists():
        say(f"Installing TRL {TRL} into {PEER_VENV} …")
        subprocess.run([sys.executable, "-m", "venv", PEER_VENV], check=True)
        pip = [str(python), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt")]
        subprocess.run([*pip, "torch"], check=True)
        subprocess.run([*pip, f"trl=={TRL}"], check=True)
        (PEER_VENV / "ready").touch()
    return python


def machine() -> str:
    import torch
    import transformers

    name = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            name = line.split(":")[1].strip()
            break
    amx = "with AMX" if torch.cpu._is_amx_tile_supported() else "without AMX"
    return (
        f"{name} {amx}, {os.cpu_count()} cores; Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )


def figures(results: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(what, ours, theirs, ratio)."""
    sampling, training, rounds = results["sampling"], results["training"], results["rounds"]
    rows = []
    a, b = median(sampling["ours"]), median(sampling["theirs"])
    rows.append(("sampling, tokens/s (transformers generate)", f"{a:,.0f}", f"{b:,.0f}", f"{a / b:.1f}×"))
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
                f"GRPO round, s (TRL {results['trl']}, {name}{skipped})",
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
        f"training pass: {utilisation(results):.0%} of the machine's bfloat16 matrix peak ({peak:.2f} TFLOP/s)"
    )
    return lines


def page(results: dict[str, Any]) -> str:
    training, rounds = results["training"], results["rounds"]
    lines = [
        "# Performance",
        "",
        "Made by `make bench`; nothing here is edited by hand. Medians; ours and the peer's alternate in one run.",
        "",
        f"Machine: {results['machine']}.",
        "",
        f"The work: SmolLM2-135M in bfloat16, {PROMPTS} prompts of about 46 tokens, {ANSWERS} answers each of at most "
        f"{MAX_TOKENS} tokens. *Documented* is TRL as its documentation would run it on a CPU (float32 weights under "
        "bfloat16 autocast, batches of 16, 4 accumulated); *tuned* has bfloat16 weights, one batch of 64, and malloc "
        "told to keep its memory.",
        "",
        "| | Ventaja | peer | ratio |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in figures(results)),
        "",
        f"The training pass computes {training['flop'] / 1e12:.2f} TFLOP (6 per weight and token; the head only where a "
        f"token is predicted) and reaches {utilisation(results):.0%} of the machine's measured matrix-product peak in "
        f"bfloat16, {training['peak'] / 1e12:.2f} TFLOP/s.",
        "",
        f"Before timing counts, the losses are compared: packed {training['losses'][0]:.5f}, padded "
        f"{training['losses'][1]:.5f} (mean log-prob of the same answers); on the samples of TRL's first step, ours "
        f"{rounds['same loss'][0]['ours']:.5f}, TRL's {rounds['same loss'][0]['theirs']:.5f}.",
        "",
        "## How cost grows",
        "",
        "A small random Llama (4 layers of width 256), 64 answers or one group, tokens per second:",
        "",
        "| what grows | prompt | answers | answer length | sampled tokens/s | trained tokens/s |",
        "|---|---|---|---|---|---|",
        *(
            f"| {axis} | {prompt} | {answers} | {length} | {sampled:,.0f} | {trained:,.0f} |"
            for axis, prompt, answers, length, sampled, trained in results["growth"]["points"]
        ),
        "",
        "![Seconds of a GRPO round](performance.svg)",
        "",
    ]
    return "\n".join(lines)


def draw(results: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "ventaja"
    from matplotlib import pyplot

    names = [name for name in ("ours", "tuned", "documented") if results["rounds"][name]]
    seconds = [median(s for r in results["rounds"][name] for s in r["seconds"]) for name in names]
    labels = [
        {"ours": "Ventaja", "tuned": "TRL, tuned", "documented": "TRL, documented"}[name] for name in names
    ]
    figure, axes = pyplot.subplots(figsize=(7, 1.9))
    bars = axes.barh(labels, seconds, color=["#2a7", "#bbb", "#ddd"])
    axes.bar_label(bars, fmt="%.1f s", padding=4)
    axes.invert_yaxis()
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.set_xticks([])
    axes.set_title("One GRPO round on two CPU cores", loc="left", fontsize=10)
    figure.tight_layout()
    figure.savefig(DOCS / "performance.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
