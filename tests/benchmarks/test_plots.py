"""What plots show of results, and the text of figures."""

import json
from dataclasses import asdict

import matplotlib.pyplot as plt
import pytest

from benchmarks import gpu, plot, plot_losses, report, train_step
from benchmarks.workers import session
from gpt_common.errors import InputError
from tests.benchmarks.fakes import H100, RATES, STEP, approx, generated_results


@pytest.fixture
def plotted():
    yield lambda results: plot.PLOTS[results[0]["benchmark"]](results)
    plt.close("all")


def widths(axes):
    return [bar.get_width() for bar in axes.patches]


def marks(axes):
    return [segment[0, 0] for c in axes.collections for segment in c.get_segments()]


def beside(axes):
    (right,) = axes.child_axes
    return [label.get_text() for label in right.get_yticklabels()]


def test_the_plot_of_training_steps(plotted):
    programs = [
        STEP | {"name": name, "tokens_per_second": rate, "matmul_peak": 4e6 * rate}
        for name, rate in RATES.items()
    ]
    train_step.add_speedups(programs)
    options = asdict(train_step.TrainStepConfig())
    head = {"benchmark": "train_step", "options": options, "flops": {"per_token": 2e6}}
    (axes,) = plotted([head | {"programs": programs}]).axes
    assert widths(axes) == [300.0, 50.0, 100.0, 200.0]
    assert marks(axes) == approx([600.0])  # the fastest matmul of all
    assert beside(axes)[:2] == [
        "300 tokens/s   3.00x\n500 ms/step", "50 tokens/s   0.50x\n500 ms/step"
    ]  # fmt: skip
    assert [label.get_text() for label in axes.get_yticklabels()] == list(RATES)
    assert axes.get_title() == "gpt2, float32, B=4, T=256"


def test_the_plot_of_generation(plotted):
    head = {"benchmark": "generate", "options": {"preset": "gpt2", "dtype": "float32"}}
    first, second = plotted([head | {"programs": generated_results()}]).axes
    assert widths(first) == [300.0, 50.0, 100.0, 200.0]
    assert widths(second) == [20.0] * 4
    limit = 4 * 1e10 / (4 * (124_439_808 - 1024 * 768))
    assert marks(first) == approx([limit])
    assert beside(first)[0] == "300 tokens/s\n3.00x"
    assert first.get_title() == "gpt2, float32, B=4, 8 + 33 tokens"


def test_the_plot_of_scaling(plotted):
    series = {
        "depth": [
            {"value": n, "programs": [STEP | {"milliseconds": {"median": 10.0 * n, "min": 1.0}}]}
            for n in (3, 6)
        ]
    }
    (axes,) = plotted([{"benchmark": "scaling", "series": series}]).axes
    (line,) = axes.lines
    assert line.get_xydata().tolist() == [[3.0, 30.0], [6.0, 60.0]]
    assert axes.get_ylabel() == "ms/step"
    assert axes.get_ylim()[0] == 0


def test_the_plot_of_the_variants(plotted):
    ladder = [
        STEP | {"name": r.framework, "label": r.label, "batch_size": 16, "tokens_per_second": rate}
        for r, rate in zip(gpu.variants()[3:8], (300.0, 1.0, 2.0, 50.0, 100.0), strict=True)
    ]
    head = {"benchmark": "gpu", "options": {"preset": "gpt2"}, "seq_len": 1024, "ladder": ladder}
    figure = plotted([head])
    assert [widths(axes) for axes in figure.axes] == [[300.0], [1.0, 2.0, 50.0], [100.0]]
    assert {axes.get_xlim() for axes in figure.axes} == {(0.0, 312.0)}  # the same scale
    assert beside(figure.axes[0]) == ["500 ms\n300 tokens/s"]
    assert "T=1024, B=16" in figure.get_suptitle()


@pytest.fixture
def logged(tmp_path):
    """Write the log of a run, each value as (name, step, value); return the run's folder."""

    def write(name, *values):
        (tmp_path / name).mkdir()
        lines = [json.dumps({"step": step, key: value}) for key, step, value in values]
        (tmp_path / name / "log.jsonl").write_text("\n".join(lines))
        return tmp_path / name

    yield write
    plt.close("all")


def points(line):
    return [tuple(point) for point in line.get_xydata().tolist()]


def test_the_plot_of_two_runs_losses(logged):
    runs = [
        logged(name, *(("loss", step, loss) for step, loss in enumerate(losses)), *others)
        for name, losses, others in (
            ("a", [4.0, 2.0, 1.0, 8.0], [("val_loss", 3, 9.0)]),
            ("b", [4.0, 2.2, 1.3], []),
        )
    ]
    above, below = plot_losses.draw(runs).axes
    assert above.get_legend_handles_labels()[1] == ["a", "b"]
    first, validation, second = above.lines
    assert points(first) == [(0, 4.0), (1, 2.0), (2, 1.0), (3, 8.0)]
    assert points(validation) == [(3, 9.0)]
    assert points(second) == [(0, 4.0), (1, 2.2), (2, 1.3)]
    assert below.lines[0].get_ydata().tolist() == pytest.approx([1e-9, 0.1, 0.3])
    assert below.get_title().startswith("max 3.0e-01, median 1.0e-01;")


def test_the_plot_of_runs_with_hellaswag_and_what_is_published(logged):
    runs = [
        logged(name, ("loss", 0, 4.0), ("val_loss", 1, 3.5), ("hellaswag", 1, accuracy))
        for name, accuracy in (("a", 0.28), ("b", 0.29), ("c", 0.3))
    ]
    losses, hellaswag = plot_losses.draw(runs, "gpt2_124m").axes
    *runs_labels, published = losses.get_legend_handles_labels()[1]
    assert runs_labels == ["a", "b", "c"]
    assert published == "GPT-2 124M: validation loss 3.29"
    assert losses.lines[-1].get_ydata() == [3.29, 3.29]
    assert [points(line) for line in hellaswag.lines[:3]] == [[(1, 0.28)], [(1, 0.29)], [(1, 0.3)]]
    assert hellaswag.lines[3].get_ydata() == [0.2955, 0.2955]
    colors = [line.get_color() for line in hellaswag.lines[:3]]
    assert len(set(colors)) == 3
    assert colors == [line.get_color() for line in losses.lines[:6:2]]


def test_one_run_is_a_plot_and_none_is_an_error(logged):
    (axes,) = plot_losses.draw([logged("a", ("loss", 0, 4.0))]).axes
    assert [points(line) for line in axes.lines] == [[(0, 4.0)]]
    with pytest.raises(InputError, match="expected the folders of one or more runs"):
        plot_losses.draw([])


def test_the_text_of_figures():
    assert report.summary_in_ms([0.5, 4.0, 0.25, 1.0]) == {
        "median": 750.0,
        "min": 250.0,
        "max": 4000.0,
    }
    assert [report.percent(share) for share in (None, 0.1261, 1.5)] == ["", "13 %", "150 %"]
    assert report.gigabytes(1_234_567_890) == "1.23 GB"
    found = {"processor": "Zen", "torch": "2.1", "jax": "0.9", "date": "2026-01-02"}
    assert report.title({"environment": found}) == "Zen | torch 2.1, jax 0.9 | 2026-01-02"
    assert report.title({"environment": found | {"gpu": H100}}).startswith(f"{H100} | torch")


def test_the_peak_memory_of_a_process_is_from_proc(monkeypatch, tmp_path):
    status = tmp_path / "status"
    status.write_text("VmPeak:\t  9999 kB\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n")
    monkeypatch.setattr(session, "Path", lambda path: status)
    assert session.peak_rss() == 2048 * 1024
