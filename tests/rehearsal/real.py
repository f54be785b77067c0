"""The study's stages at real size on the CPU, two updates each, in processes of their own: time and memory beside the forecast.

    PYTHONPATH=tests python -m rehearsal.real [--layers 4] [--rows 2000] [--folder FOLDER]

Stand-ins of Qwen2.5-0.5B, DeBERTa-v3-base, DistilBERT, SmolTalk and UltraFeedback are made first. All layers take about 20 GB
of disk, 14 GB of memory and half an hour of two cores; 4 layers took 7 GB of disk and of memory and 12 minutes. Without
--folder all of it goes at the end; with one, stand-ins and finished stages that lie there are used again.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_NAMES = (
    "Qwen/Qwen2.5-0.5B", "microsoft/deberta-v3-base", "distilbert/distilbert-base-uncased", "HuggingFaceTB/smoltalk",
    "HuggingFaceH4/ultrafeedback_binarized",
)  # fmt: skip
_COMMANDS = (
    ("method=rloo", "reward=deberta"),
    ("method=dpo",),
    ("method=sft", "adapter=lora"),
    ("method=reward", "reward=siamese_distilbert"),
)
_TWO_STEPS = (
    "hardware=cpu", "max_completion_length=64", "stages.sft.args.max_steps=2", "stages.sft.batch_size=2",
    "stages.dpo.args.max_steps=2", "stages.dpo.batch_size=1", "stages.reward.args.max_steps=2",
    "stages.reward.batch_size=2", "stages.reward.held_out=8", "stages.rloo.args.max_steps=2",
    "stages.rloo.prompts_per_step=1", "stages.rloo.args.num_generations=2", "stages.rloo.held_out_every=null",
)  # fmt: skip


def stand_ins(home: Path, layers: int | None, rows: int) -> None:
    """Build them in a process of its own, unless they are there."""
    if home.is_dir():
        return
    words = ["--real", "--rows", str(rows), "--only", *_NAMES, *(["--layers", str(layers)] if layers else [])]
    half = home.with_name("half")
    subprocess.run([sys.executable, "-m", "rehearsal.cache", str(half), *words], check=True)
    half.rename(home)


def rehearse(command: tuple[str, ...], runs: Path) -> tuple[int, list[dict[str, Any]]]:
    """Run one command line: its exit code, and what each of its stages took."""
    from qwen_align import __main__ as program
    from qwen_align import run_folder
    from qwen_align.stage import forecast

    words = [*_TWO_STEPS, *command, f"runs_dir={runs}"]
    missing = [stage for stage in program.planned(words) if stage.state != "finished"]
    expected = {stage.folder: forecast.of(stage) for stage in missing}
    print(f"\n$ python -m qwen_align {' '.join(words)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "qwen_align", *words], check=False).returncode
    found = []
    for stage in missing:
        manifest, known = run_folder.read_json(stage.folder / "run.json"), expected[stage.folder]
        found.append({
            "stage": " ".join([stage.label, *command[1:2]]), "state": stage.state, "seconds": manifest.get("seconds"),
            "peak": manifest.get("peak_memory_mb"), "forecast": known and known.memory,
        })  # fmt: skip
    return code, found


def table(rows: list[dict[str, Any]]) -> str:
    """Stage, seconds, peak memory beside the forecast of it, and the forecast's share of the peak."""
    from qwen_align.stage import text

    lines: list[tuple[str, ...]] = [("stage", "state", "seconds", "peak", "forecast", "forecast / peak")]
    for row in rows:
        peak, expected = (row["peak"] or 0) * 2**20 / 1e9, (row["forecast"] or 0.0) / 1e9
        ratio = f"{expected / peak:.2f}" if peak and expected else ""
        lines.append((
            row["stage"], row["state"], f"{row['seconds'] or 0:.0f}", f"{peak:.2f} GB", f"{expected:.2f} GB", ratio,
        ))  # fmt: skip
    return text.table(lines)


def main() -> int:
    """The exit code: 1 where a command failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, help="of every model; all of the real ones otherwise")
    parser.add_argument("--rows", type=int, default=2000, help="of SmolTalk and of UltraFeedback")
    parser.add_argument("--folder", type=Path, help="where stand-ins and runs go, and stay")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as scratch:
        folder = (given.folder or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("HF_DATASETS_CACHE", "HF_HUB_CACHE"):
            os.environ.pop(name, None)
        os.environ |= {"HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}  # before anything reads them
        stand_ins(folder / "home", given.layers, given.rows)
        rows: list[dict[str, Any]] = []
        worst = 0
        for command in _COMMANDS:
            code, found = rehearse(command, folder / "runs")
            worst, rows = max(worst, abs(code)), rows + found
        print(f"\n{table(rows)}", flush=True)
    return int(worst > 0)


if __name__ == "__main__":
    sys.exit(main())
