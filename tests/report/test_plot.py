"""Curves: which are drawn, and that any can be."""

import pytest
from run_folders import chain, trained

from qwen_align.metric.interval import Interval
from qwen_align.report import plot
from qwen_align.report.evidence import gather


@pytest.mark.parametrize("y", [[0.5], [5.0, 0.1], [float("nan")] * 2, [-1.0, 0.0]])
def test_short_and_odd_curves_can_be_drawn(tmp_path, y):
    line = plot.Line("loss", [float(i) for i in range(len(y))], y)
    plot.draw(tmp_path / "loss.png", [plot.Panel("loss", "step", "loss", [line], noisy=noisy) for noisy in (True, False, True)])
    assert [path.name for path in tmp_path.iterdir()] == ["loss.png"]


def test_best_of_n_is_drawn_for_each_policy_with_its_greedy_answer(tmp_path):
    (panel,) = plot.panels(gather(chain(tmp_path)))["best_of_n.png"]
    assert [(line.label, line.x, line.level) for line in panel.lines] == [
        ("sft", [1, 2, 4, 8, 16], 0.39),
        ("rloo", [1, 2, 4, 8, 16], 0.43),
    ]
    assert panel.lines[0].band[0][0] == pytest.approx(0.22)


def test_a_stage_that_logs_a_reward_has_no_loss_curve(tmp_path):
    found = plot.panels(gather([trained(tmp_path, "rloo", [{"step": 1, "loss": 0.0, "reward": 0.3}])]))
    assert [panel.title for panel in found["reward.png"]] == ["rloo: reward"]
    assert found["loss.png"] == []


def test_lines_without_a_loss_are_no_points_of_it(tmp_path):
    log = [{"step": 1, "loss": 1.0}, {"step": 1, "train_runtime": 3.0}]
    (panel,) = plot.panels(gather([trained(tmp_path, "sft", log)]))["loss.png"]
    assert (panel.lines[0].x, panel.lines[0].y) == ([1], [1.0])


def test_rows_with_their_intervals_are_an_image(tmp_path):
    plot.intervals(tmp_path / "rows.png", "Small: pass@1", {"a": Interval(0.2, 0.1, 0.3), "b": Interval(0.5, 0.4, 0.7)})
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")
