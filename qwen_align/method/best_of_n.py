"""Best-of-N with an external verifier, side by side with the stages that the policy came from.

For each held-out problem N completions are sampled and the verifier picks one that it accepts (the study's section on
Countdown). All policies answer the same problems, so their differences are paired.
"""

from pathlib import Path
from typing import Any

from qwen_align import model, run_folder
from qwen_align.method import policy
from qwen_align.method.evaluate import Measured, headline, measure
from qwen_align.metric import interval


def differences(measured: dict[str, Measured]) -> dict[str, Any]:
    """after_minus_before for every pair of policies, earlier stages first; each metric with its paired interval."""
    labels = list(measured)
    found: dict[str, Any] = {}
    for i, before in enumerate(labels):
        for after in labels[i + 1 :]:
            old, new = measured[before].per_problem(), measured[after].per_problem()
            found[f"{after}_minus_{before}"] = {key: interval.paired(new[key], old[key]) for key in old}
    return found


def unique(names: list[str]) -> list[str]:
    """Names told apart: sft, sft_2 for two SFT stages in one line of descent."""
    return [name if (n := names[: i + 1].count(name)) == 1 else f"{name}_{n}" for i, name in enumerate(names)]


def compare(config: dict[str, Any], data: Any, folder: Path) -> dict[str, Any]:
    """Measure the policy, and with `ancestors` the stages it came from, on the same problems."""
    settings = config["method"]
    run_folder.write_text(folder / "samples.jsonl", "")
    measured: dict[str, Measured] = {}
    ancestors = config.get("ancestors", [])
    *labels, label = unique([a["method"] for a in ancestors] or ["policy"])
    if settings["ancestors"]:
        for earlier, ancestor in zip(labels, ancestors[:-1], strict=True):
            measured[earlier] = measure(
                model.from_run(Path(ancestor["folder"])), data, settings, config, folder, earlier
            )
    measured[label] = measure(policy.load(config), data, settings, config, folder, label)
    policies = {name: value.summary() for name, value in measured.items()}
    return {
        "policies": policies,
        "differences": differences(measured),
        "headline": headline(
            policies[label], max((k for k in policies[label] if k.startswith("best_of_")), key=lambda k: int(k[8:]))
        ),
    }
