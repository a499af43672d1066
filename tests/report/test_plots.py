from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex

from dyslctl.errors import EnvironmentMismatch
from dyslctl.report import plots


def test_heat_map_shows_the_matrix_and_stars_static_layers() -> None:
    matrix = np.array([[1.0, 0.5, -0.2], [0.5, 1.0, 0.4], [-0.2, 0.4, 1.0]])
    axes = plots.heat_map(matrix.tolist(), [0, 2]).axes[0]
    (image,) = axes.get_images()
    np.testing.assert_array_equal(image.get_array(), matrix)
    assert image.get_clim() == (-0.2, 1.0)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0\n*", "1", "2\n*"]


def test_layer_bars_colour_static_layers() -> None:
    axes = plots.layer_bars([0.6, 0.9, 0.8], [0]).axes[0]
    bars = {round(bar.get_x() + bar.get_width() / 2): bar for bar in axes.patches}
    assert {layer: to_hex(bar.get_facecolor()) for layer, bar in bars.items()} == {
        0: plots.BLUE.lower(),
        1: plots.GREY.lower(),
        2: plots.GREY.lower(),
    }
    assert [bars[layer].get_height() for layer in range(3)] == [0.6, 0.9, 0.8]
    assert axes.get_ylim() == (0.0, 1.0)


def test_training_curve_leaves_out_what_was_not_logged() -> None:
    curve = [{"step": 0, "loss": 2.0}, {"step": 10, "loss": 1.0}]
    (axes,) = plots.training_curve(curve, {"loss": "loss", "gate": "mean skip probability"}).axes
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[0, 2], [10, 1]])


def test_the_running_mean_is_over_the_last_tenth() -> None:
    curve = [{"step": step, "loss": float(step % 2)} for step in range(20)]
    (axes,) = plots.training_curve(curve, {"loss": "loss"}).axes
    assert axes.lines[1].get_ydata().tolist() == [0.0] + [0.5] * 19


def test_success_is_in_percent_with_its_interval() -> None:
    point = plots.Point("dysl", 0.9, (0.8, 0.95), 12.5)
    axes = plots.success_against_layers([point], 24, 50).axes[0]
    assert axes.containers[0].lines[0].get_xydata().tolist() == [[12.5, 90.0]]
    (bar,) = axes.containers[0].lines[2]
    np.testing.assert_allclose(bar.get_segments()[0][:, 1], [80, 95])
    assert "50 episodes" in axes.get_ylabel() and "of 24" in axes.get_xlabel()


def test_no_methods_is_an_empty_plot_without_warnings() -> None:
    plots.success_against_layers([], 24, 50).canvas.draw()


def test_latency_parts_stack_to_the_whole() -> None:
    rows = {"full": {"encode": 5.0, "layers": 20.0, "head": 1.0}, "dysl": {"layers": 8.0, "reprediction": 2.0}}
    axes = plots.latency_breakdown(rows).axes[0]
    ends = [max(c.patches[row].get_x() + c.patches[row].get_width() for c in axes.containers) for row in range(2)]
    assert ends == [26.0, 10.0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["encode", "layers", "reprediction", "head"]


def test_the_interval_of_the_whole_stands_beside_each_bar() -> None:
    axes = plots.latency_breakdown({"full": {"layers": 8.0}, "dysl": {"layers": 3.0}}, {"full": (7, 9), "dysl": (3, 3)})
    assert [text.get_text() for text in axes.axes[0].texts] == ["8.00", "3.00"]


def test_save_writes_png_or_svg_or_says_why_not(tmp_path: Path) -> None:
    figure = plots.layer_bars([0.5, 0.6], [0])
    assert plots.save(figure, tmp_path / "new" / "a.png").read_bytes().startswith(b"\x89PNG")
    drawn = [plots.save(figure, tmp_path / "a.svg").read_text() for _ in range(2)]
    assert "<svg" in drawn[0] and drawn[0] == drawn[1]
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentMismatch):
        plots.save(figure, tmp_path / "file" / "a.png")


def test_an_interval_of_one_episode_may_be_off_by_rounding() -> None:
    rows = {"full": {"llm": 0.1, "head": 0.2}}
    figure = plots.latency_breakdown(rows, {"full": (0.1 + 0.2 + 1e-16, 0.3)})
    assert figure.axes
