"""The parity tests as the GPU's benchmark runs them: reports of passed, failed and stopped ones."""

import time

import pytest

from benchmarks import gpu_parity

HEAD = """
import json, pathlib, time

def test_torch_passes(record_property):
    record_property("parity", json.dumps(["cuda float32 torch", "loss", 1e-8, 5e-7]))
"""


@pytest.fixture
def use(monkeypatch, tmp_path):
    """Replace the tests by others."""

    def use(code):
        file = tmp_path / "test_gpu.py"
        file.write_text(HEAD + code)
        monkeypatch.setattr(gpu_parity, "TESTS", str(file))

    return use


def run(marks="not slow"):
    return gpu_parity.run(["torch"], "cpu", marks, "", 60.0)[0]


def test_a_report_has_counts_and_differences(use, capsys):
    use("def test_flax_is_not_selected(): assert False")
    assert run() == {
        "framework": "torch",
        "passed": 1,
        "failed": 0,
        "skipped": 0,
        "differences": [["cuda float32 torch", "loss", 1e-8, 5e-7]],
        "error": "",
    }
    assert "== Parity of torch" in capsys.readouterr().out


def test_a_failure_is_given_whole(use, capsys):
    use(f"def test_torch_differs(): assert 1 == 2, 'torch differs: {'long ' * 40}end'")
    found = run()
    assert (found["passed"], found["failed"], len(found["differences"])) == (1, 1, 1)
    assert found["error"].startswith("test_torch_differs: AssertionError: torch differs: long ")
    assert "end assert 1 == 2" in found["error"]
    assert "1 failed, 1 passed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "marks", "skipped"),
    [("", "slow", 0), ("import pytest; pytestmark = pytest.mark.skip('no GPU')", "not slow", 1)],
)
def test_no_test_is_no_proof(code, marks, skipped, use):
    use(code)
    found = run(marks)
    assert (found["error"], found["passed"], found["skipped"]) == ("no test passed", 0, skipped)


def test_tests_that_cannot_be_read_are_no_proof(use):
    use("import no_such_module")
    assert "No module named 'no_such_module'" in run()["error"]


def test_what_was_compared_is_kept_when_the_time_limit_stops_the_tests(use, tmp_path, capsys):
    use(f"""
def test_torch_takes_long():
    pathlib.Path({str(tmp_path / "began")!r}).touch()
    time.sleep(300)
""")
    with gpu_parity.start("torch", "cpu", "not slow", "", tmp_path) as tests:
        while not (tmp_path / "began").exists():
            time.sleep(0.05)
        found = tests.finish(0.0)
    assert found["error"] == "the time limit stopped it"
    assert (found["passed"], found["differences"][0][1]) == (1, "loss")
    assert "KeyboardInterrupt" in capsys.readouterr().out


def test_a_process_that_ignores_the_interrupt_is_killed(use, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_parity, "GRACE", 0.1)
    use(f"""
def test_torch_hangs():
    import signal
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pathlib.Path({str(tmp_path / "began")!r}).touch()
    time.sleep(300)
""")
    with gpu_parity.start("torch", "cpu", "not slow", "", tmp_path) as tests:
        while not (tmp_path / "began").exists():
            time.sleep(0.05)
        assert tests.finish(0.0)["error"] == "pytest had to be killed"
    assert tests.process.poll() is not None


def test_the_twins_pass_on_a_cpu():
    """The first tests of each; TensorFloat-32 is what a CPU does not have."""
    for found in gpu_parity.run(("torch", "flax"), "cpu", "gpu and not slow", "layers", 240.0):
        assert (found["passed"], found["skipped"], found["error"]) == (4, 1, "")
        assert {row[1] for row in found["differences"]} == {"layers", "logits", "loss", "gradients"}


@pytest.mark.slow
def test_all_of_the_twins_pass_on_a_cpu():
    found = gpu_parity.run(("torch", "flax"), "cpu", "gpu and not slow", "", 900.0)
    assert [report["error"] for report in found] == ["", ""]
    assert [report["skipped"] for report in found] == [4, 3]
