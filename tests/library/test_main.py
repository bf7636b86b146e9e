"""python -m crossd_ops and self_test(): what they tell, their exit status, and that a wrong kernel is found."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import crossd_ops
from crossd_ops.__main__ import main
from crossd_ops.inspection import report
from crossd_ops.library import loaded
from crossd_ops.operators import backends, convolution

OPERATORS = {"fourier_shift", "fourier_shift_slice", "rotation_head", "predict_shift", "crossd_conv2d", "crossd_conv3d"}
DTYPES = {"float64", "float32", "bfloat16", "float16"}


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = main(arguments)
    return status, capsys.readouterr().out


# --- the report ---


def test_report(capsys: pytest.CaptureFixture[str], compiled_library: None) -> None:
    status, text = printed(capsys)
    assert status == 0
    for expected in (
        rf"^  torch +{re.escape(torch.__version__)}$",
        r"^  torch target +2\.11$",
        r"^  cpu instructions in use +(baseline|avx2|avx512)$",
        r"^  cpu +compiled: the library loads; its (baseline|avx2|avx512) kernels fit this processor$",
    ):
        assert re.search(expected, text, re.MULTILINE), expected


def test_json(capsys: pytest.CaptureFixture[str], compiled_library: None) -> None:
    status, text = printed(capsys, "--json", "--self-test")
    report = json.loads(text)
    assert status == 0 and report["self_test"]["passed"]
    assert set(report) == {"versions", "built", "machine", "devices", "self_test"}
    assert report["versions"]["crossd_ops"] == report["built"]["version"] == crossd_ops.__version__
    assert report["devices"][0] == {"device": "cpu", "backend": "compiled", "why": report["devices"][0]["why"]}
    for check in report["self_test"]["checks"]:
        assert check["passed"] and 0 <= check["error"] <= check["bound"], check


def test_paths(capsys: pytest.CaptureFixture[str]) -> None:
    prefix, include = printed(capsys, "--cmake-prefix-path"), printed(capsys, "--include-path")
    assert prefix == (0, f"{crossd_ops.cmake_prefix_path}\n") and include == (0, f"{crossd_ops.include_path}\n")
    assert Path(include[1].strip(), "crossd_ops", "crossd_ops.h").exists()
    with pytest.raises(SystemExit) as error:
        main(["--cmake-prefix-path", "--include-path"])
    assert error.value.code == 2


def test_command_line() -> None:
    command = [sys.executable, "-m", "crossd_ops", "--include-path"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == f"{crossd_ops.include_path}\n" and result.stderr == ""


@pytest.mark.parametrize("options", [(), ("--json",), ("--include-path",), ("--help",)], ids=str)
def test_a_reader_that_has_gone_ends_it_quietly(options: tuple[str, ...]) -> None:
    """As `python -m crossd_ops | true`: by the signal that ends other tools of a pipe."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "crossd_ops", *options]
    result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (result.returncode, result.stderr) == (-signal.SIGPIPE, "")


def test_instruction_set_is_that_of_the_kernels(compiled_library: None) -> None:
    script = "from crossd_ops.library import loaded; print(loaded.cpu_capability())"
    command, environment = [sys.executable, "-c", script], {"CROSSD_CPU_CAPABILITY": "baseline"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout == "baseline\n"


def test_a_gpu_without_kernels_is_a_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, compiled_library: None
) -> None:
    gpu = report.Gpu(0, "Model", (9, 0))
    monkeypatch.setattr(loaded, "gpus", lambda: [gpu])
    monkeypatch.setattr(loaded, "devices", frozenset({"cpu", "meta"}))
    monkeypatch.setattr(loaded, "_gpu_problem", None)
    status, text = printed(capsys)
    assert status == 1
    assert "cuda:0                   reference: the compiled operators of crossd_ops are missing for cuda" in text
    assert "cuda:0 Model 9.0" in text and "CROSSD_CUDA=1" in text
    monkeypatch.setattr(loaded, "devices", frozenset({"cpu", "cuda", "meta"}))
    facts = {"cuda_version": "13.0", "cuda_architectures": ["sm_80", "sm_90"]}
    monkeypatch.setattr(report, "build_facts", lambda: facts)
    status, text = printed(capsys)
    assert status == 0 and "cuda:0                   compiled: the library loads; its sm_90 kernels fit Model" in text


# --- the self-test ---


def test_self_test_covers_operators_dtypes_and_gradients(compiled_library: None) -> None:
    state = torch.get_rng_state()
    report = crossd_ops.self_test("cpu")
    assert torch.equal(torch.get_rng_state(), state)
    assert report.passed and {check.backend for check in report.checks} == {"compiled"}
    for operator in OPERATORS:
        checks = [check for check in report.checks if check.operator == operator]
        assert {check.dtype for check in checks} == (DTYPES - {"float64"} if operator == "predict_shift" else DTYPES)
        assert {check.result for check in checks} >= {"result"} and len({check.result for check in checks}) > 1
    assert str(report).endswith(f"passed: {len(report.checks)} checks")
    assert any(check.error > 0 for check in report.checks)


def test_self_test_settings_are_put_back() -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    with torch.no_grad():
        crossd_ops.self_test("cpu")
        assert not torch.is_grad_enabled()
    assert before == (
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
    )


@pytest.fixture
def operators(compiled_library: None) -> Iterator[SimpleNamespace]:
    """The compiled operators, to put a fault into."""
    original = backends.operators("compiled")
    changed = SimpleNamespace(**vars(original))
    backends._registry["compiled"] = changed
    yield changed
    backends._registry["compiled"] = original


def test_self_test_finds_a_wrong_result(
    operators: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, convolve = operators.fourier_shift, convolution.eager_forward
    operators.fourier_shift = lambda *arguments: forward(*arguments) * (1 + 1e-4)
    fault = lambda *arguments: convolve(*arguments) * (1 + 1e-4)  # noqa: E731
    monkeypatch.setattr(convolution, "eager_forward", fault)
    report = crossd_ops.self_test("cpu")
    failed = {(check.operator, check.dtype, check.result) for check in report.checks if not check.passed}
    assert ("fourier_shift", "float32", "result") in failed and ("crossd_conv2d", "float64", "result") in failed
    assert not any("gradient of weight" in result for operator, _, result in failed if operator == "fourier_shift")
    assert re.search(r"fourier_shift +float32 +1\.0e-04 +7\.6e-06  FAILED: \S+, result", str(report))
    status, text = printed(capsys, "--self-test")
    assert status == 1 and re.search(r"^FAILED: \d+ of \d+ checks$", text, re.MULTILINE)


def test_self_test_finds_a_wrong_gradient_and_nan(operators: SimpleNamespace) -> None:
    backward = operators.rotation_head_backward
    operators.rotation_head_backward = lambda *arguments: backward(*arguments) * float("nan")
    failed = {check.operator for check in crossd_ops.self_test("cpu").checks if not check.passed}
    assert failed == {"rotation_head"}


def test_self_test_reports_an_operator_that_raises(operators: SimpleNamespace) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("no kernel image is available for execution on the device")

    operators.rotation_head = fail
    report = crossd_ops.self_test("cpu")
    assert not report.passed
    assert "RuntimeError: no kernel image is available for execution on the device" in str(report)
