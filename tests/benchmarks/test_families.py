"""The sweep over families of networks: what is tried with one, what counts as a refusal, and the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.families import __main__ as command
from benchmarks.families.networks import Network, networks
from benchmarks.families.report import write_table
from benchmarks.families.steps import STEPS, describe, try_network


class Small(nn.Module):
    def __init__(self, refused: bool = False) -> None:
        super().__init__()
        self.stem, self.norm, self.refused = nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), refused

    def forward(self, input: Tensor) -> Tensor:
        features = self.norm(self.stem(input)).relu()
        features = features.transpose(2, 3) if self.refused else features
        return F.adaptive_avg_pool2d(features, 1).flatten(1)


def test_each_step_of_a_network() -> None:
    assert try_network(Network(Small, size=8), 60) == dict.fromkeys(STEPS, "yes")
    outcome = try_network(Network(lambda: Small(refused=True), size=8), 60)
    assert outcome["to Cross-D"] == "yes" and "height and width exchanged" in outcome["volumes"]
    assert outcome["volumes"].startswith("refused: model: expected code that works on volumes too, got Small")
    assert outcome["proof"] == outcome["training step"] == outcome["back to 2D"] == ""


def test_errors_of_others_are_no_refusals() -> None:
    try:
        torch.ones(2) @ torch.ones(3)
    except RuntimeError as error:
        assert describe(error).startswith("fails: RuntimeError: ")


def test_the_command_goes_on_and_writes_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"timm/small": Network(Small, size=8), "other/small": Network(lambda: Small(refused=True), size=8)}
    monkeypatch.setattr(command, "networks", lambda: found)
    results, page = tmp_path / "results.json", tmp_path / "families.md"
    results.write_text(json.dumps({"timm/small": dict.fromkeys(STEPS, "yes")}))
    options = ["--results", str(results), "--page", str(page)]
    assert command.main(options) == 0
    assert [*json.loads(results.read_text())] == ["timm/small", "other/small"]
    text = page.read_text()
    assert "1 families of timm: to Cross-D 1, volumes 1, proof 1, training step 1, back to 2D 1." in text
    assert "- other/small, volumes: model: expected code that works on volumes too" in text
    with pytest.raises(SystemExit):
        command.main(["nothing*", *options])
    assert "no network matches nothing*" in capsys.readouterr().err


def test_names_are_known_and_the_page_is_of_the_results(tmp_path: Path) -> None:
    known = networks()
    assert len(known) > 100 and all(network.size >= 32 for network in known.values())
    results = json.loads(command._RESULTS.read_text())
    assert set(results) <= set(known)
    write_table({name: results[name] for name in known if name in results}, tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == command._PAGE.read_text()
