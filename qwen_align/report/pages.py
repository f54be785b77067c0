"""Run folders -> one page: report.html, report.md, PNG plots, and metrics.json where a job has a folder of its own.

The light parent writes it from what the stages left on disk, so a report can be made again without training anything. A
comparison whose policies are rows of a table also gets its tables.json.
"""

import base64
from pathlib import Path

from qwen_align import run_folder
from qwen_align.report import plot, sections, tables
from qwen_align.report.evidence import gather, numbers
from qwen_align.report.render import write_pages
from qwen_align.stage.plan import Stage


def write(folder: Path, stages: list[Stage]) -> None:
    """Write the pages and plots of a job, the asked-for stage last, into its own folder or the last stage's run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    evidence, last = gather(stages), stages[-1]
    in_run_folder = folder.resolve() in [stage.folder.resolve() for stage in stages] or (folder / "run.json").exists()
    about = [last.choices[group] for group in sections.subject(last) if group in last.choices]
    table = tables.of(last)
    drawn = []
    for name, panels in plot.panels(evidence).items():
        if panels:
            plot.draw(folder / name, panels)
            drawn.append(name)
        else:
            (folder / name).unlink(missing_ok=True)  # of an earlier job with this name
    if table:
        metric = table.metrics[0]
        plot.intervals(folder / tables.PLOT, f"{table.title}: {metric}", {k: r.metrics[metric] for k, r in table.rows.items()})
        drawn.append(tables.PLOT)
    title = ", ".join([last.method, *about]) if in_run_folder else folder.name
    content = [*(tables.sections(table) if table else []), *sections.of_job(evidence, folder, drawn)]
    plots = {name: base64.b64encode((folder / name).read_bytes()).decode() for name in drawn}
    summary = " ".join([sections.summary_text(evidence), *([tables.summary(table)] if table else [])])
    write_pages(folder / "report", title, summary, content, plots)
    if table:
        tables.print_table(table)
        run_folder.write_json(folder / "tables.json", table)
    if not in_run_folder:
        run_folder.write_json(folder / "metrics.json", numbers(evidence))
