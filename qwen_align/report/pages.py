"""Run folders -> one page: report.html, report.md, PNG plots, and metrics.json where a job has a folder of its own.

The light parent writes it from what the stages left on disk, so a report can be made again without training anything. Both
pages are rendered from the same sections; a section without data is left out. What models wrote is always escaped, and the
page loads nothing. Left out on purpose: the resolved settings, which may hold a token and are only linked.
"""

import base64
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qwen_align.report import plot
from qwen_align.report.evidence import (
    AUDIT_TERMS,
    GLOSSARY,
    Evidence,
    Summary,
    audits,
    best_of,
    gather,
    main_metrics,
    numbers,
    verdict,
    warnings,
)
from qwen_align.stage import run_folder

if TYPE_CHECKING:
    from qwen_align.stage.plan import Stage

_SAMPLES = 10
_LABELS = {"n": "problems", "samples": "samples a problem"}
_MARKS = {"higher": "▲ higher", "lower": "▼ lower", "within noise": "no: within noise"}


class Link(NamedTuple):
    """A table cell that leads to something beside the report."""

    text: str
    href: str


class Answer(NamedTuple):
    """One policy's greedy completion of a problem, and how its samples did."""

    policy: str
    text: str
    verdict: str
    samples: str


Row = list[str | Link]


@dataclass(frozen=True)
class Section:
    """What both pages show under one heading; a table's first row is its head."""

    title: str
    words: str = ""
    table: list[Row] = field(default_factory=list)
    plot: str | None = None
    samples: list[tuple[str, list[Answer]]] = field(default_factory=list)
    terms: dict[str, str] = field(default_factory=dict)


def duration(seconds: float) -> str:
    """1:02:03 or 2:03 min or 4 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02} min" if minutes else f"{rest} s"


def shown(value: Any, sign: str = "") -> str:
    """A metric: `0.243 [0.228, 0.259]`, or the number alone where it has no interval."""
    if isinstance(value, dict):
        return f"{shown(value['mean'], sign)} [{shown(value['low'], sign)}, {shown(value['high'], sign)}]"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:{sign}.{3 if abs(value) < 10 else 1}f}"


def named(metric: str) -> str:
    """A metric's name as a person writes it."""
    return _LABELS.get(metric) or re.sub(r"^best_of_(\d+)$", r"best-of-\1", metric).replace("_", " ")


def _pair(name: str) -> str:
    return name.replace("_minus_", " minus ")


def _difference_words(pair: str, difference: dict[str, dict[str, float]]) -> str:
    found = {key: verdict(value) for key, value in difference.items()}
    beyond = [
        f"{named(k)} is {found[k]} ({shown(v, '+')})" for k, v in difference.items() if found[k] != "within noise"
    ]
    within = [f"{named(k)} ({shown(v, '+')})" for k, v in difference.items() if found[k] == "within noise"]
    sentences = []
    if beyond:
        sentences.append(f"{_pair(pair)}: {', '.join(beyond)}: beyond noise, the 95 % interval excludes 0.")
    if within:
        sentences.append(f"{_pair(pair)}, within noise, since the 95 % interval includes 0: {', '.join(within)}.")
    for n, key in list(best_of(difference).items())[-1:]:
        if (found.get("pass@1"), found[key]) == ("higher", "lower"):
            after, _, before = pair.partition("_minus_")
            sentences.append(
                f"So {after} sharpens: one of its samples is right more often than one from {before}, but {n} together solve "
                f"fewer problems. With {n} samples and the verifier, {before} is the better choice."
            )
    return " ".join(sentences)


def summary_words(evidence: Evidence) -> str:
    """The paragraph on top; it claims only what an interval carries."""
    names = [stage.label for stage in evidence.stages]
    many = f"{len(names)} stages ({', '.join(names)})" if len(names) > 1 else f"One stage ({names[0]})"
    sentences = [f"{many} took {duration(evidence.seconds)} in all."]
    for policy, summary in evidence.policies.items():
        metrics = ", ".join(f"{named(key)} {shown(value)}" for key, value in main_metrics(summary).items())
        on = f" on {summary['n']:,} problems" if "n" in summary else ""
        sentences += [f"{policy}{on}: {metrics}."] if metrics else []
    sentences += [_difference_words(pair, difference) for pair, difference in evidence.differences.items()]
    if len(evidence.policies) > 1 and not evidence.differences:
        sentences.append("Each policy was measured in its own stage, so nothing is said here about their differences.")
    if any(main_metrics(summary) for summary in evidence.policies.values()):
        sentences.append("In brackets the 95 % interval; it covers the choice of problems, not another training seed.")
    return " ".join(sentences)


def _stage_table(evidence: Evidence) -> list[Row]:
    rows: list[Row] = [["stage", "starts from", "with", "trained", "state", "time", "on", "result"]]
    for stage, run, metrics in zip(evidence.stages, evidence.runs, evidence.metrics, strict=True):
        train, headline, parent = metrics.get("train"), metrics.get("headline"), stage.parents.get("init")
        groups = [*_groups(stage), *(["adapter"] if train else [])]
        groups += ["reward"] if stage.config.get("method", {}).get("reward") else []
        path = stage.config.get("generator", {}).get("path")  # of recorded completions
        device = run.get("device") or stage.config.get("hardware", {}).get("device", "")
        processes = run.get("world_size", 1)
        rows.append([
            stage.label,
            parent.method if parent else Path(path).name if path else str(stage.config.get("init") or ""),
            ", ".join(f"{group} {stage.choices[group]}" for group in groups if group in stage.choices),
            f"{train['steps']:,} steps, {train['trainable_parameters']:,} parameters" if train else "",
            run.get("state", "missing"),
            duration(run.get("seconds", 0.0)),
            f"{processes} x {device}" if processes > 1 else device,
            f"{named(headline['name'])} {shown(headline)} (n={headline['n']:,})" if headline else "",
        ])  # fmt: skip
    return rows


def _policy_table(policies: dict[str, Summary]) -> list[Row]:
    keys = dict.fromkeys(
        key
        for summary in policies.values()
        for key, value in summary.items()
        if isinstance(value, int | float) or (isinstance(value, dict) and "low" in value)
    )
    rows: list[Row] = [[named(k), *(shown(s[k]) if k in s else "" for s in policies.values())] for k in keys]
    return [["metric", *policies], *rows] if rows else []


def _difference_table(evidence: Evidence) -> list[Row]:
    rows: list[Row] = [
        [_pair(pair), named(key), shown(value, "+"), _MARKS[verdict(value)]]
        for pair, difference in evidence.differences.items()
        for key, value in difference.items()
    ]
    return [["policies", "metric", "difference", "beyond noise?"], *rows] if rows else []


def _recorded(evidence: Evidence) -> list[Row]:
    """The differences between a file's own scores and our verdicts."""
    rows: list[Row] = [
        [str(d["problem"]), str(d["sample"]), f"{d['recorded']:g}", d["ours"].replace("_", " "), d["answer"]]
        for d in evidence.metrics[-1].get("recorded", {}).get("first_differences", [])
    ]
    return [["problem", "sample", "recorded", "here", "answer"], *rows]


def _groups(stage: "Stage") -> list[str]:
    """The groups that say what a stage is about; recorded completions are no model's."""
    return ["data", "generator" if stage.choices.get("generator") == "recorded" else "model"]


def _samples(folder: Path) -> list[tuple[str, list[Answer]]]:
    """Prompts evenly spread over samples.jsonl, each with every policy's answer: a fixed choice, so nobody can pick."""
    problems: dict[str, tuple[str, list[Answer]]] = {}
    for line in run_folder.read_jsonl(folder / "samples.jsonl"):
        policy, greedy, samples = (line.pop(key, None) for key in ("policy", "greedy", "samples"))
        prompt = line.get("prompt", "")
        if not isinstance(prompt, str):
            said = [m["content"] if len(prompt) == 1 else f"{m['role']}: {m['content']}" for m in prompt]
            prompt = "\n".join(said)
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
    for stage, run in zip(evidence.stages, evidence.runs, strict=True):
        started = time.strftime("%Y-%m-%d %H:%M", time.gmtime(run["started"])) if "started" in run else ""
        link = Link(stage.folder.name, Path(os.path.relpath(stage.folder, folder)).as_posix() + "/")
        seed = str(stage.config.get("seed", ""))
        table.append([stage.label, link, seed, stage.fingerprint, run.get("git") or "", started])
        if "command" in run:
            facts.setdefault(f"Command: {run['command']}.", []).append(stage.method)
        if "versions" in run:
            versions = ", ".join(f"{package} {version}" for package, version in run["versions"].items())
            facts.setdefault(f"Versions: {versions}.", []).append(stage.method)
    everywhere = len(evidence.stages)
    words = [fact if len(stages) == everywhere else f"{', '.join(stages)}: {fact}" for fact, stages in facts.items()]
    return Section("Provenance", " ".join(words), table)


def sections(evidence: Evidence, folder: Path, plots: dict[str, str]) -> Iterator[Section]:
    """Everything below the summary, in order; the caller leaves out what is empty."""
    same = "All policies answered the same problems. " if evidence.differences else ""
    spread = "Evenly spread over the problems that were measured; the greedy completion of each policy."
    band = "The band is the 95 % interval, the dotted line the greedy answer."
    apart = "The second policy subtracted from the first, problem by problem."
    kept, audited = {name: name for name in plots}, audits(evidence)
    yield Section("Stages", table=_stage_table(evidence))
    told: list[Row] = [["stage", "when", "warning"]]
    told += [list(warning) for warning in warnings(evidence)]
    yield Section("Warnings", "What the trainers' logs said while they ran, and the audits of what was sampled.", told)
    yield Section("Policies", f"{same}In brackets the 95 % interval.", _policy_table(evidence.policies))
    yield Section("Paired differences", apart, _difference_table(evidence))
    yield Section("How completions end", "The audit of the samples.", _policy_table(audited))
    scores = evidence.metrics[-1].get("recorded", {})
    own = "The file's own. They differ in correctness where one of file and verifier says correct, else in form."
    yield Section("Recorded scores", own, _policy_table({"recorded": scores}))
    yield Section("Differences from recorded scores", "At most 20; correctness comes first.", _recorded(evidence))
    yield Section("Best-of-N", band, plot=kept.get("best_of_n.png"))
    yield Section("Reward", plot=kept.get("reward.png"))
    yield Section("Loss", plot=kept.get("loss.png"))
    yield Section("Sample completions", spread, samples=_samples(evidence.stages[-1].folder))
    yield _provenance(evidence, folder)
    yield Section("How to read the numbers", terms=GLOSSARY | (AUDIT_TERMS if audited else {}))


def _fenced(text: str) -> str:
    """A Markdown code block whose fence is longer than any run of backticks inside, or the text could end it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def write_pages(
    folder: Path, stem: str, title: str, summary: str, content: list[Section], plots: dict[str, str]
) -> None:
    """Write stem.html and stem.md; plots are PNG files by name, base64."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    templates.filters["fenced"] = _fenced
    for suffix in ("html", "md"):
        page = templates.get_template(f"report.{suffix}.jinja")
        text = page.render(title=title, summary=summary, sections=content, plots=plots)
        run_folder.write_text(folder / f"{stem}.{suffix}", text)


def write(folder: Path, stages: "list[Stage]") -> None:
    """Write the pages and plots of a job, the asked-for stage last, into its own folder or the last stage's run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    evidence, last = gather(stages), stages[-1]
    in_run_folder = folder.resolve() in [stage.folder.resolve() for stage in stages] or (folder / "run.json").exists()
    about = [last.choices[group] for group in _groups(last) if group in last.choices]
    plots: dict[str, str] = {}
    for name, panels in plot.panels(evidence).items():
        if panels:
            plot.draw(folder / name, panels)
            plots[name] = base64.b64encode((folder / name).read_bytes()).decode()
        else:
            (folder / name).unlink(missing_ok=True)  # of an earlier job with this name
    content = [s for s in sections(evidence, folder, plots) if len(s.table) > 1 or s.plot or s.samples or s.terms]
    title = ", ".join([last.method, *about]) if in_run_folder else folder.name
    write_pages(folder, "report", title, summary_words(evidence), content, plots)
    if not in_run_folder:
        run_folder.write_json(folder / "metrics.json", numbers(evidence))
