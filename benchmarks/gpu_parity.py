"""The parity tests on a device, each twin's in a separate process, which loads its own cuDNN."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO
from xml.etree import ElementTree

from benchmarks.implementations import ROOT, SHARED_GPU
from benchmarks.report import Result
from gpt_common.config import Device

TESTS = "tests/parity/test_gpu.py"
GRACE = 30.0  # seconds in which an interrupted pytest must print its summary


@dataclass
class PytestProcess:
    """A process of pytest. As a context manager, it ends with the block."""

    framework: str
    process: subprocess.Popen
    output: TextIO
    report: Path

    def __enter__(self) -> PytestProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()
        self.output.close()

    def finish(self, seconds: float) -> Result:
        """Print the output and return the report, at most `seconds` and `GRACE` from now.

        pytest is interrupted then, and still prints the differences that it has measured.
        """
        stopped = not self._ends_within(seconds)
        if stopped:
            self.process.send_signal(signal.SIGINT)
            self._ends_within(GRACE)
        self.output.seek(0)
        print(f"\n== Parity of {self.framework}\n{self.output.read()}", flush=True)
        return {"framework": self.framework} | read_report(self.report, stopped)

    def _ends_within(self, seconds: float) -> bool:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True


def run(
    frameworks: Sequence[str], device: Device, marks: str, only: str, seconds: float
) -> list[Result]:
    """Run the tests with these marks, and `only` in their names; return each twin's report.

    The twins run at the same time: nothing is measured, and most of it is compilation.
    """
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        running = [
            stack.enter_context(start(framework, device, marks, only, Path(folder)))
            for framework in frameworks
        ]
        return [tests.finish(max(0.0, end - time.monotonic())) for tests in running]


def start(framework: str, device: Device, marks: str, only: str, folder: Path) -> PytestProcess:
    """Start the tests of a twin."""
    output, report = (folder / framework).open("w+"), folder / f"{framework}.xml"
    keyword = f"{framework} and {only}" if only else framework
    command = [
        *(sys.executable, "-m", "pytest", TESTS, "-m", marks, "-k", keyword),
        *("-q", "--tb=short", "-p", "no:cacheprovider", f"--junitxml={report}"),
        *("-o", "junit_family=xunit1"),  # the one with properties
        *("-W", "default"),  # a warning of a new version is no difference
    ]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env=SHARED_GPU | os.environ | {"PARITY_DEVICE": device},
    )
    return PytestProcess(framework, process, output, report)


def read_report(report: Path, stopped: bool) -> Result:
    """Return the counts of pytest's report, the differences, and as `error` why it is no proof.

    It is empty if a test passed, none failed, and pytest was not `stopped`.
    """
    if not report.is_file():
        return {"error": "pytest had to be killed" if stopped else "pytest did not start"}
    suite = ElementTree.parse(report).find("testsuite")
    assert suite is not None
    kinds = ("tests", "failures", "errors", "skipped")
    tests, failures, errors, skipped = (int(suite.get(kind, 0)) for kind in kinds)
    passed = tests - failures - errors - skipped  # a test that was interrupted is not in `tests`
    reasons = [message for case in suite.iter("testcase") for message in failure_messages(case)]
    reasons += ["no test passed"] * (passed < 1) + ["the time limit stopped it"] * stopped
    return {
        "passed": passed,
        "failed": failures + errors,
        "skipped": skipped,
        "differences": [row for case in suite.iter("testcase") for row in difference_rows(case)],
        "error": "; ".join(reasons),
    }


def failure_messages(case: ElementTree.Element) -> list[str]:
    """Return why a test failed, or could not be read, as one line; an empty list if it did not."""
    messages = [each.get("message", "") for each in case.iter("failure")]
    for each in case.iter("error"):  # the message may be "collection failure" only
        messages += [each.get("message", ""), (each.text or "").strip().rpartition("\n")[2]]
    return [f"{case.get('name')}: {' '.join(' '.join(messages).split())}"] if messages else []


def difference_rows(case: ElementTree.Element) -> list[list]:
    """Return what a test compared: run, quantity, largest relative difference, tolerance."""
    found = [each for each in case.iter("property") if each.get("name") == "parity"]
    return [json.loads(each.get("value", "")) for each in found]
