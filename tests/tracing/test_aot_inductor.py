"""Deployment: models through torch.export and AOTInductor, run by a C++ program without Python (tests/cpp)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import cmake_torch
import pytest
import torch
from torch import Tensor, nn

from crossd_ops import CrossDConv2d
from crossd_ops.library import cmake

CONSUMER = Path(__file__).resolve().parents[1] / "cpp"

pytestmark = pytest.mark.usefixtures("compiled_library")


def output(*command: str | Path) -> str:
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def run_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that loads a package and runs it."""
    cmake_torch.require()
    build = tmp_path_factory.mktemp("run_package")
    prefixes = f"{cmake.cmake_prefix_path};{torch.utils.cmake_prefix_path}"
    output("cmake", "-S", CONSUMER, "-B", build, f"-DCMAKE_PREFIX_PATH={prefixes}")
    output("cmake", "--build", build, "--target", "run_package")
    return build / "run_package"


def model() -> nn.Module:
    """Both operators, both kinds of rotation, and batch statistics that are not those of a fresh layer."""
    layers = [
        CrossDConv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        CrossDConv2d(8, 4, (3, 5), stride=2, groups=2, rotation="exact"),
    ]
    network = nn.Sequential(*layers)
    network(torch.randn(4, 3, 12, 14))
    return network.eval()


@pytest.mark.parametrize("batches", [(3,), (2, 5, 3)], ids=["static batch", "dynamic batch"])
def test_model_runs_without_python(run_package: Path, tmp_path: Path, batches: tuple[int, ...]) -> None:
    network = model()
    inputs = [torch.randn(batch, 3, 12, 14) for batch in batches]
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},) if len(batches) > 1 else None
    with torch.no_grad():
        program = torch.export.export(network, (inputs[0],), dynamic_shapes=shapes)
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
        expected = [network(tensor) for tensor in inputs]
    operators = {str(node.target) for node in program.graph.nodes if "crossd_ops" in str(node.target)}
    assert operators == {"crossd_ops.convolution.default", "crossd_ops.rotation_head.default"}
    torch.save(inputs, tmp_path / "inputs.pt")
    output(run_package, package, tmp_path / "inputs.pt", tmp_path / "outputs.pt")
    got: tuple[Tensor, ...] = torch.load(tmp_path / "outputs.pt")
    assert len(got) == len(expected)
    torch.testing.assert_close(list(got), expected, rtol=1e-4, atol=1e-5)
