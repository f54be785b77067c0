"""What the report of a job says, section by section, from the numbers that its stages left.

The paragraph on top claims only what an interval carries. Left out: the resolved settings, which may hold a token.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from qwen_align import run_folder
from qwen_align.metric.confusion import NONE
from qwen_align.metric.difference import Difference
from qwen_align.metric.interval import Interval
from qwen_align.metric.name import best_of, of_samples
from qwen_align.report.evidence import Evidence, Metrics, Outcome, Summary, audits, numeric, verdict, warnings
from qwen_align.report.render import Answer, Link, Row, Section, formatted
from qwen_align.stage.plan import Stage
from qwen_align.stage.text import duration

GLOSSARY = {
    "greedy": "the share of problems whose most likely completion is right: one answer, no chance in it.",
    "pass@1": "the chance that one sampled completion is right, averaged over the problems.",
    "pass@k": "the chance that at least one of k sampled completions is right, estimated without bias from all samples.",
    "best-of-N": "the share of problems where one of the first N samples is right, so that a verifier can pick it.",
    "wellformed, truncated": "the shares of samples that the verifier could read, and that were cut at the token limit.",
    "mean characters": "the length of recorded samples, whose tokens nobody counted.",
    "interval": "[low, high]: drawn again from other problems of this kind, 95 % of such intervals hold the true value. "
    "Each stage was trained once, so what another training seed would change is not in it.",
    "paired": "both policies answered the same problems; the interval is that of their difference, problem by problem.",
    "beyond noise": "the interval of a paired difference excludes 0. Otherwise the data doesn't tell which policy is better.",
}
AUDIT_TERMS = {
    "ended by stop": "the share of samples that ended by the policy's stop token; the others were cut at the token limit.",
    "answers per completion": "how many answers the data's verifier finds in a sample (for maths: marked ones), the mean.",
    "several answers, no answer": "the shares of samples that hold more than one, and none. Where there are several the policy "
    "did not stop when its answer was complete.",
    "last answer correct": "as judged everywhere else in this report: pass@1.",
    "first answer correct": "what pass@1 would be if the first answer of each sample were judged instead of the last.",
    "first changes verdict": "the share of samples whose verdict would be another one then; verdicts changed is their number.",
    "last rollouts": "what RLOO sampled while it trained, the mean of its last logged steps.",
}
_SAMPLES = 10
_TITLES = {"n": "problems", "samples": "samples a problem"}
_VERDICTS = {"higher": "▲ higher", "lower": "▼ lower", "within noise": "no: within noise"}


def titled(metric: str) -> str:
    """A metric's name as a person writes it."""
    name = of_samples(metric)
    best = f"best-of-{name.n}" if name and name.kind == "best_of_" else ""
    return best or _TITLES.get(metric) or metric.replace("_", " ")


def difference_text(pair: Difference) -> str:
    """What the intervals of one pair carry."""
    name = f"{pair.after} minus {pair.before}"
    found = {key: verdict(value) for key, value in pair.metrics.items()}
    beyond = [f"{titled(k)} is {v} ({formatted(pair.metrics[k], '+')})" for k, v in found.items() if v != "within noise"]
    within = [f"{titled(k)} ({formatted(pair.metrics[k], '+')})" for k, v in found.items() if v == "within noise"]
    sentences = [f"{name}: {', '.join(beyond)}: beyond noise, the 95 % interval excludes 0."] if beyond else []
    sentences += [f"{name}, within noise, since the 95 % interval includes 0: {', '.join(within)}."] if within else []
    for n, key in list(best_of(found).items())[-1:]:
        if (found.get("pass@1"), found[key]) == ("higher", "lower"):
            sentences += [
                f"So {pair.after} sharpens: one of its samples is right more often than one from {pair.before}, but {n} "
                f"together solve fewer problems. With {n} samples and the verifier, {pair.before} is the better choice."
            ]
    return " ".join(sentences)


def summary_text(evidence: Evidence) -> str:
    """The paragraph on top; it claims only what an interval carries."""
    labels = [one.stage.label for one in evidence.stages]
    names = ", ".join(name if n == 1 else f"{n} x {name}" for name, n in Counter(labels).items())
    many = f"{len(labels)} stages ({names})" if len(labels) > 1 else f"One stage ({names})"
    sentences = [f"{many} took {duration(evidence.seconds)} in all."]
    if evidence.last.has_rows:
        return sentences[0]
    for policy, summary in evidence.policies.items():
        metrics = ", ".join(f"{titled(key)} {formatted(value)}" for key, value in summary.main().items())
        on = f" on {summary.problems:,} problems" if summary.problems is not None else ""
        sentences += [f"{policy}{on}: {metrics}."] if metrics else []
    sentences += [difference_text(pair) for pair in evidence.last.shown_differences]
    if len(evidence.policies) > 1 and not evidence.last.differences:
        sentences.append("Each policy was measured in its own stage, so nothing is said here about their differences.")
    if any(summary.main() for summary in evidence.policies.values()):
        sentences.append("In brackets the 95 % interval; it covers the choice of problems, not another training seed.")
    return " ".join(sentences)


def subject(stage: Stage) -> list[str]:
    """The groups that a stage is about; recorded completions are no model's."""
    return ["data", "generator" if stage.choices.get("generator") == "recorded" else "model"]


def _stage_row(one: Outcome) -> Row:
    stage, train, headline = one.stage, one.train, one.headline
    groups = [*subject(stage), *(["adapter"] if train else [])]
    groups += ["reward"] if stage.config.get("method", {}).get("reward") else []
    path = stage.config.get("generator", {}).get("path")  # of recorded completions
    device = one.run.get("device") or stage.config.get("hardware", {}).get("device", "")
    processes = one.run.get("world_size", 1)
    start = stage.parents.init.method if stage.parents.init else str(stage.config.get("init") or "")
    of = f" of {headline.policy}" if headline and headline.policy else ""
    return [
        stage.label,
        Path(path).name if path and not stage.parents.init else start,
        ", ".join(f"{group} {stage.choices[group]}" for group in groups if group in stage.choices),
        f"{train['steps']:,} steps, {train['trainable_parameters']:,} parameters" if train else "",
        one.run.get("state", "missing"),
        duration(one.run.get("seconds", 0.0)),
        f"{processes} x {device}" if processes > 1 else device,
        f"{titled(headline.name)}{of} {formatted(headline.value)} (n={headline.n:,})" if headline else "",
    ]


def _metrics(columns: dict[str, Metrics]) -> list[Row]:
    keys = dict.fromkeys(key for metrics in columns.values() for key in metrics)
    rows = ([titled(key), *(formatted(own[key]) if key in own else "" for own in columns.values())] for key in keys)
    return [["metric", *columns], *rows]


def _difference(pair: Difference, metric: str, value: Interval) -> Row:
    return [f"{pair.after} minus {pair.before}", titled(metric), formatted(value, "+"), _VERDICTS[verdict(value)]]


def _labels(policies: dict[str, Summary]) -> list[Row]:
    """A row for each label that was right: how often each label was answered there."""
    rows: list[Row] = []
    for policy, summary in policies.items():
        for kind in ("greedy", "samples"):
            if kind not in summary.labels:  # recorded completions may have no greedy one
                continue
            names, found = summary.labels["labels"], summary.labels[kind]
            rows += [["policy", "answers", "right", "problems", "accuracy", *names, NONE]] if not rows else []
            for name, counts in zip(names, found["table"], strict=True):
                own = found["accuracy"].get(name)
                accuracy = formatted(Interval(own["mean"], own["low"], own["high"])) if own else ""
                rows.append([policy, kind, name, str(own["n"] if own else 0), accuracy, *map(str, counts)])
    return rows


def _samples(folder: Path) -> list[tuple[str, list[Answer]]]:
    """Prompts evenly spread over samples.jsonl, each with every policy's answer: a fixed choice, so nobody can pick."""
    problems: dict[str, tuple[str, list[Answer]]] = {}
    for line in run_folder.read_jsonl(folder / "samples.jsonl"):
        policy, greedy, samples = (line.pop(key, None) for key in ("policy", "greedy", "samples"))
        prompt = line.get("prompt", "")
        if not isinstance(prompt, str):
            prompt = "\n".join(m["content"] if len(prompt) == 1 else f"{m['role']}: {m['content']}" for m in prompt)
        right = sum(judged == "correct" for _, judged in samples or [])
        counted = f"{right} of {len(samples)} samples correct" if samples else ""
        if greedy:
            answers = problems.setdefault(json.dumps(line, sort_keys=True), (prompt, []))[1]
            answers.append(Answer(str(policy), greedy[0] or "", greedy[1], counted))
    found = list(problems.values())
    count = min(_SAMPLES, len(found))
    return [found[i * len(found) // count] for i in range(count)]


def _provenance(evidence: Evidence, folder: Path) -> Section:
    table: list[Row] = [["stage", "run folder", "seed", "fingerprint", "git", "started (UTC)"]]
    facts: dict[str, list[str]] = {}
    for one in evidence.stages:
        stage, run = one.stage, one.run
        started = time.strftime("%Y-%m-%d %H:%M", time.gmtime(run["started"])) if "started" in run else ""
        link = Link(stage.folder.name, Path(os.path.relpath(stage.folder, folder)).as_posix() + "/")
        seed = str(stage.config.get("seed", ""))
        table.append([stage.label, link, seed, stage.fingerprint, run.get("git") or "", started])
        versions = ", ".join(f"{package} {version}" for package, version in run.get("versions", {}).items())
        for name, value in (("Command", run.get("command")), ("Versions", versions)):
            if value:
                facts.setdefault(f"{name}: {value}.", []).append(stage.method)
    notes = [text if len(of) == len(evidence.stages) else f"{', '.join(of)}: {text}" for text, of in facts.items()]
    return Section("Provenance", " ".join(notes), table)


def of_job(evidence: Evidence, folder: Path, plots: Iterable[str]) -> Iterator[Section]:
    """Everything below the summary, in order; empty ones are left out when the page is written."""
    same = "All policies answered the same problems. " if evidence.last.differences else ""
    spread = "Evenly spread over the problems that were measured; the greedy completion of each policy."
    band = "The band is the 95 % interval, the dotted line the greedy answer."
    apart = "The second policy subtracted from the first, problem by problem."
    audited = audits(evidence)
    head: Row = ["stage", "starts from", "with", "trained", "state", "time", "on", "result"]
    yield Section("Stages", table=[head, *map(_stage_row, evidence.stages)])
    logged = "What the trainers' logs said while they ran, and the audits of what was sampled."
    yield Section("Warnings", logged, [["stage", "when", "warning"], *map(list, warnings(evidence))])
    columns = {name: summary.metrics for name, summary in evidence.policies.items()}
    yield Section("Policies", f"{same}In brackets the 95 % interval.", _metrics(columns))
    compared: Row = ["policies", "metric", "difference", "beyond noise?"]
    pairs = [_difference(pair, key, value) for pair in evidence.last.shown_differences for key, value in pair.metrics.items()]
    yield Section("Paired differences", apart, [compared, *pairs])
    yield Section("How completions end", "The audit of the samples.", _metrics(audited))
    confusions = "The columns behind accuracy count what was answered where the label on the left was right."
    yield Section("Labels", confusions, _labels(evidence.policies))
    scores = evidence.last.recorded
    own = "The file's own. They differ in correctness where one of file and verifier says correct, else in form."
    yield Section("Recorded scores", own, _metrics({"recorded": numeric(scores)}))
    listed: list[Row] = [["problem", "sample", "recorded", "here", "answer"]]
    for d in scores.get("first_differences", []):
        verdicts = [f"{d['recorded']:g}", d["ours"].replace("_", " ")]
        listed.append([str(d["problem"]), str(d["sample"]), *verdicts, d["answer"]])
    yield Section("Differences from recorded scores", "At most 20; correctness comes first.", listed)
    for title, name, note in (("Best-of-N", "best_of_n.png", band), ("Reward", "reward.png", ""), ("Loss", "loss.png", "")):
        yield Section(title, note, plot=name if name in plots else None)
    yield Section("Sample completions", spread, samples=_samples(evidence.last.stage.folder))
    yield _provenance(evidence, folder)
    yield Section("How to read the numbers", terms=GLOSSARY | (AUDIT_TERMS if audited else {}))
