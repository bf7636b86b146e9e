"""The prediction as text: the tables of a run's report, with what they rest on."""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.prediction.assumptions import ALL, LAUNCH_SECONDS
from benchmarks.gpu.prediction.bounds import BASES, Prediction
from benchmarks.gpu.prediction.gpus import GPU
from benchmarks.gpu.prediction.rows import Result, basis_note, shares
from benchmarks.gpu.prediction.trace import PARTS
from benchmarks.gpu.report_tables import (
    convolutions_table,
    losing_choices,
    mega,
    micro,
    milli,
    networks_table,
    operators_table,
    passes,
    percentages,
    title,
)
from benchmarks.tables import format_table


def format_prediction(gpu: GPU, results: dict[str, Result]) -> str:
    """Markdown of `predicted_results`; every heading says that it is predicted."""
    sections = [_introduction(gpu), _assumptions()]
    formats = {"bandwidth": _ceilings, "networks": _networks, "convolutions": _convolutions}
    for part, result in results.items():
        if part in formats:
            sections.append(formats[part](result))
        else:
            sections.append(_operators(part, result["rows"], gpu))
    return "\n\n".join(sections) + "\n"


def _introduction(gpu: GPU) -> str:
    return (
        f"# crossd_ops on {gpu.name}: predicted, not measured\n\n"
        f"{gpu.multiprocessors} multiprocessors at {gpu.hertz / 1e9:.2f} GHz, "
        f"{gpu.dram_bytes_per_second / 1e12:.1f} TB/s, {gpu.tensor_flops_per_second / 1e12:.0f} TFLOP/s of bfloat16: "
        f"{gpu.source}. Each launch takes the longest of its bounds and {LAUNCH_SECONDS.value * 1e6:.1f} us. Of "
        "crossd_ops' kernels bytes, wavefronts and instructions are counted; of torch's and the libraries' the bytes "
        "are those of their tensors, once, and multiply-adds go by a declared rate. Latency, occupancy, the last wave "
        "of blocks and what the host takes are left out; the rates of arithmetic and of L2 are assumptions."
    )


def _assumptions() -> str:
    body = [[name, f"{one.value:g}", one.about, one.source] for name, one in ALL.items()]
    return "## Assumed, where predicted\n\n" + format_table(["name", "value", "what", "source"], body)


def _ceilings(result: Result) -> str:
    names = ("copy_bytes_per_second", "clone_bytes_per_second", "float32_multiply_adds_per_second")
    body = [[name.replace("_", " "), f"{result[name]:.3g}"] for name in names]
    return "## Ceilings, predicted\n\n" + format_table(["what", "value"], body)


def _operators(part: str, rows: list[dict[str, Any]], gpu: GPU) -> str:
    name = "Operators" if part == "operators" else "Operators against compiled expansions"
    introduction = (
        f"## {name}, predicted\n\nMicroseconds in kernels. GB/s: the bytes that must move over that time; `of copy`: "
        "over the bandwidth above. Bounds as shares of the time."
    )
    alternatives = [
        [title(row), passes(row), candidate, *_of_candidate(found)]
        for row in rows
        for candidate, found in row["candidates"].items()
        if not row["cudnn_benchmark"]  # the same figures
    ]
    header = ["operator", "pass", "candidate", "kernels", "launches", "MB moved", "bounds that hold", "rests on"]
    sections = [introduction, operators_table(rows, gpu.dram_bytes_per_second)]
    sections += [f"## {name}, every candidate, predicted", format_table(header, alternatives)]
    if part == "operators":
        sections += ["## Launches of crossd_ops, predicted", _launches(rows)]
    return "\n\n".join(sections)


def _of_candidate(found: Result) -> list[str]:
    counts = [micro(found["kernel_seconds"]), str(found["launches"]), mega(found["moved_bytes"])]
    return [*counts, percentages(found["bounds"]), basis_note(found["bases"])]


def _launches(rows: list[dict[str, Any]]) -> str:
    """Bounds as shares of the time that the bytes take in DRAM; that time over the longest: of bandwidth."""
    names = ["L2", "load-store", "issue", "arithmetic", "tensor"]
    header = ["kernel", "of", "DRAM us", *(f"{name} %" for name in names), "holds", "of bandwidth"]
    body = []
    for row in rows:
        if row["pass"] == "forward" or row["operator"] not in ("fourier_shift_slice", "fourier_shift", "rotation_head"):
            continue  # the launches of a forward pass are in the row of both, too, and those of others are these
        for one in row["candidates"]["fused"]["predicted"]:
            if one.basis == BASES[0]:
                dram = one.bounds["DRAM"]
                of_dram = [f"{one.bounds[name] / dram:.0%}" for name in names]
                cells = [one.launch.kernel, title(row), f"{dram * 1e6:.2f}", *of_dram, one.holds]
                body.append([*cells, f"{dram / one.bounds[one.holds]:.0%}"])
    return format_table(header, body)


def _networks(result: Result) -> str:
    introduction = (
        "## Training steps, predicted\n\nMilliseconds in kernels; memory of tensors, without workspaces of libraries. "
        "What the host takes to queue a step, and so the step's time where that is longer, is not predicted: these "
        "counts say nothing of a processor."
    )
    sections = [introduction, networks_table(result["rows"]), "## Parts of a training step, predicted"]
    header = ["network", "variant", "part", "kernels ms", "of step", "launches", "GB moved", "bounds that hold"]
    body = []
    for row in result["rows"]:
        for variant, found in row["variants"].items():
            names = {part: [one for one in found["predicted"] if one.part == part] for part in PARTS}
            for part, predicted in {**names, "all": found["predicted"]}.items():
                if predicted:
                    cells = _of_part(predicted, found["kernel_seconds"])
                    body.append([row["network"], variant, part, *cells])
    sections.append(format_table(header, body))
    sections += ["## What a training step's time rests on, predicted", _bases(result["rows"])]
    return "\n\n".join(sections)


def _of_part(predicted: list[Prediction], total: float) -> list[str]:
    seconds, moved = sum(one.seconds for one in predicted), sum(one.moved for one in predicted)
    bounds = percentages(shares(predicted, lambda one: one.holds))
    return [milli(seconds), f"{seconds / total:.0%}", str(len(predicted)), f"{moved / 1e9:.2f}", bounds]


def _bases(rows: list[dict[str, Any]]) -> str:
    """With the step's time, and its ratio to plain, where a guess were ten times too slow."""
    header = ["network", "variant", "kernels ms", *BASES, "ms, grouped convolutions ten times faster", "times plain"]
    body = []
    for row in rows:
        plain = row["variants"]["plain"]["kernel_seconds"]
        for variant, found in row["variants"].items():
            seconds, bases = found["kernel_seconds"], found["bases"]
            faster = seconds * (1 - 0.9 * bases.get(BASES[2], 0.0))
            cells = [row["network"], variant, milli(seconds), *(f"{bases.get(name, 0.0):.0%}" for name in BASES)]
            body.append([*cells, milli(faster), f"{faster / plain:.2f}"])
    return format_table(header, body)


def _convolutions(result: Result) -> str:
    introduction = (
        "Microseconds in kernels, building those of each sample included. `plain` is nn.Conv2d, `grouped` the "
        "library's grouped convolution."
    )
    rows = [row for row in result["rows"] if not row["cudnn_benchmark"]]  # the same figures
    losing = "\n".join(losing_choices(rows)) or "None."
    return (
        f"## Methods of the per-sample convolution, predicted\n\n{introduction}\n\n{convolutions_table(rows)}\n\n"
        f"## Where the choice loses, predicted\n\nMethods that are faster than the chosen one.\n\n{losing}"
    )
