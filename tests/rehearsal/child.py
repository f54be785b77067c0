"""The whole rehearsal in one process that has HF_HOME in its environment, so that TRL is imported once.

    HF_HOME=HOME HF_HUB_OFFLINE=1 PYTHONPATH=tests python -m rehearsal.child HOME FOLDER

The stand-ins are built in HOME. Then the program is called as a user calls it, with the words of cases.py; a stage's worker is
a function call here instead of a process. What happened goes to FOLDER/report.json, what the stages left lies in FOLDER/runs.
"""

import gc
import io
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from rehearsal.cases import CASES
from tokenizers import Tokenizer

from qwen_align import __main__ as program
from qwen_align import run_folder
from qwen_align.config import groups
from qwen_align.report import plot
from qwen_align.stage import launch, run, worker

_TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Naïve <|im_end|>\n<|im_start|>assistant\nor [SEP]? 3 + 4 = 7"},
    {"role": "assistant", "content": "<think> 3 + 4 </think>\n<answer> 3 + 4 </answer>"},
]
_TEXTS = ["Naïve façade, 12 345,67", "def add(b):\n    12\n        34 + b", " two  spaces   3 \t4\r\n"]
_ROW = {"nums": [3, 4], "target": 7, "answer": "7", "constraints": '[{"kind": "ends", "with": "cat"}]'}
_FEW = {"problems": 40, "pairs": 40, "evaluation_problems": 8}


def call(words: list[str]) -> dict[str, Any]:
    """The program with these words: exit code, what it said, seconds of the clock and of this process."""
    GlobalHydra.instance().clear()
    sys.argv, began, spent = ["qwen_align", *words], time.time(), time.process_time()
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as errors:
        try:
            code = program.main()
        except Exception:
            traceback.print_exc()
            code = -1
    clock = {"seconds": round(time.time() - began, 1), "processor": round(time.process_time() - spent, 1)}
    return {"code": code, "out": out.getvalue(), "errors": errors.getvalue()} | clock


class InThisProcess:
    """Stands in for launch.Child: the worker is a function call, done by the time its output is asked for."""

    def __init__(self, folder: Path, hardware: Any, lock: int, shown: bool = True, server: Any = None) -> None:
        self.code = worker.run_stage(folder)
        self.output, end = os.pipe()
        os.close(end)

    def fileno(self) -> int:
        return self.output

    def copy_output(self) -> bool:
        return False

    def wait(self) -> int:
        os.close(self.output)
        return self.code


def demonstration(tokenizer: Any, ids: list[int], labels: list[int]) -> dict[str, int]:
    """Of a tokenised conversation: assistant turns by their frame, trained pieces, how many of these end with the stop token,
    and how many stop tokens are mere text."""
    frame = tokenizer("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
    turns = sum(ids[i : i + len(frame)] == frame for i in range(len(ids)))
    ends = [i for i, label in enumerate(labels) if label >= 0 and (i + 1 == len(labels) or labels[i + 1] < 0)]
    stop, spelled = tokenizer.eos_token_id, tokenizer.decode(ids).count(tokenizer.eos_token)
    ended = sum(labels[i] == stop for i in ends)
    return {"tokens": len(ids), "turns": turns, "trained": len(ends), "ended": ended, "text": spelled - ids.count(stop)}


def watch(seen: dict[str, Any]) -> None:
    """Note, by run folder, what SFT trains on, and what a reward model says in training and once it is loaded again."""
    from qwen_align.method import reward, sft
    from qwen_align.reward.model import RewardModel
    from qwen_align.reward.network import pair_encoder, scores

    fit = sft.fit

    def watched_sft(trainer: Any, folder: Path, *rest: Any) -> dict[str, Any]:
        rows = (demonstration(trainer.processing_class, r["input_ids"], r["labels"]) for r in trainer.train_dataset)
        seen[folder.name] = list(rows)
        return fit(trainer, folder, *rest)

    def watched_reward(trainer: Any, folder: Path, probes: Any, keep: Any) -> dict[str, Any]:
        prompts, answers = [probe[:-1] for probe in probes], [probe[-1]["content"] for probe in probes]

        def kept(network: Any, tokenizer: Any, *rest: Any) -> None:
            (model,) = keep.args
            pairs = pair_encoder(network, tokenizer, model.architecture, model.max_length)
            seen[folder.name] = {"trained": scores(network, pairs, pairs.encode(prompts, answers), 4096)}
            keep(network, tokenizer, *rest)

        metrics = fit(trainer, folder, probes, kept)
        seen[folder.name]["loaded"] = RewardModel.from_run(folder).score(prompts, answers)
        return metrics

    sft.fit, reward.fit = watched_sft, watched_reward  # type: ignore[assignment]


def of_model(node: dict[str, Any], folder: Path) -> dict[str, Any]:
    from hydra.utils import instantiate

    from qwen_align import chat
    from qwen_align.hub import files

    policy, tokenizer = instantiate(node)
    (ids,) = chat.whole_ids(tokenizer, [_TALK])
    published = files.snapshot(node["name"], "model", node["revision"]) if "name" in node else None
    reader = Tokenizer.from_file(str(published / "tokenizer.json")) if published else tokenizer.backend_tokenizer
    alike = all(reader.encode(text).ids == tokenizer(text)["input_ids"] for text in _TEXTS)
    return {
        "as_published": alike,
        "rows": policy.get_input_embeddings().num_embeddings, "stop": tokenizer.convert_ids_to_tokens(tokenizer.eos_token_id),
        "ends": policy.generation_config.eos_token_id, "eos": tokenizer.eos_token_id,
        "stops_in_talk": ids.count(tokenizer.eos_token_id), "dtype": str(policy.dtype),
    }  # fmt: skip


def of_reward(node: dict[str, Any], folder: Path) -> dict[str, Any]:
    from qwen_align import reward
    from qwen_align.reward.network import fresh, pair_encoder, scores

    prompts, answers = [_TALK[:2]] * 2, [_TALK[2]["content"], "Another one."]
    if base := node.get("base"):
        network, tokenizer = fresh(base, node["architecture"], node["revision"], answers)
        pairs = pair_encoder(network, tokenizer, node["architecture"], node["max_length"])
        found: Any = scores(network, pairs, pairs.encode(prompts, answers), 4096)
        weights = network.get_input_embeddings().weight
        return {"scores": found, "rows": len(weights), "embeddings": weights.abs().sum().item()}
    if node["_target_"] == reward.SEVERAL:
        node = node | {"one": groups.read("reward", "length")}
    if node.get("verifier") == "${data.verifier}":
        node = node | {"verifier": "countdown"}
    columns = {key: [value] * 2 for key, value in _ROW.items()}
    return {"scores": [one.score(prompts, answers, columns, [[1, 2]] * 2) for one in reward.build(node)]}


def of_data(node: dict[str, Any], folder: Path) -> dict[str, Any]:
    from qwen_align import data

    if "demonstrations_path" in node:
        own = folder / "own.jsonl"
        own.write_text(json.dumps({"messages": _TALK}) + "\n", encoding="utf-8")
        node = node | {"demonstrations_path": str(own)}
    source = data.load(node | {key: few for key, few in _FEW.items() if key in node})
    rows = {view: source.rows(view) for view in source.views}
    return {view: {"rows": len(found), "columns": found.column_names} for view, found in rows.items()}


def loaded(kind: Callable[[dict[str, Any], Path], dict[str, Any]], node: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What is found of a component, or why it can't be loaded."""
    try:
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()):
            return kind(node, folder) | {"out": out.getvalue()}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    home, folder = Path(sys.argv[1]), Path(sys.argv[2])
    runs = folder / "runs"
    gc.disable()  # as in a worker's process: the first stage takes what is imported by then out of the collector's sight
    from rehearsal.cache import build, stand_ins

    build(home)
    run.Child = InThisProcess  # type: ignore[misc,assignment]
    launch.forkable = lambda hardware: False
    report: dict[str, Any] = {"built": list(stand_ins()), "seen": {}, "cases": {}, "options": {}}
    watch(report["seen"])
    for name, words in CASES.items():
        if report["cases"]:  # figures take seconds, and the first case has them
            plot.draw = lambda path, panels: path.touch()
        own = [word.replace("{runs}", str(runs)) for word in words]
        report["cases"][name] = call([*own, f"runs_dir={runs}"])
        for found in runs.glob("evaluate-*/eval.json"):
            shutil.copy(found, runs / "answers.json")
        print(name, {k: v for k, v in report["cases"][name].items() if k not in ("out", "errors")}, flush=True)
    for group, kind in {"model": of_model, "reward": of_reward, "data": of_data}.items():
        for option in groups.options(group):
            report["options"][f"{group}={option}"] = loaded(kind, groups.read(group, option), folder)
    deberta = groups.read("reward", "deberta") | {"revision": "main"}
    report["options"]["reward=deberta reward.revision=main"] = loaded(of_reward, deberta, folder)
    run_folder.write_json(folder / "report.json", report)


if __name__ == "__main__":
    main()
