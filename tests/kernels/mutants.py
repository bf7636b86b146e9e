"""Mutants of the kernels: small faults of which each must be found, compiled all at once and switched on one by one."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from emulator.build import CSRC, EMULATOR, SANITIZER_ENVIRONMENT, altered_sources, compile_program, run_program
from emulator.cpu_build import stand_in_for_torch
from emulator.cuda_head_harness import want_few_blocks
from mutant_sources import CPU_KERNELS, CPU_LAUNCH, MUTANT_HEADER, SCRATCH


@dataclass(frozen=True)
class Mutant:
    """A fault in a file of csrc: `old`, an expression or a statement, becomes `new`.

    `old` stands there once, or `occurrence` says which of them is meant, counted from 0. `finding`: what must be said
    of it, a regular expression; without one, any complaint does.
    """

    file: str
    old: str
    new: str
    occurrence: int | None = None
    finding: str = ""

    def __str__(self) -> str:
        which = "" if self.occurrence is None else f" {self.occurrence}"
        return f"{self.file}: {self.old}{which} -> {self.new or 'nothing'}"

    def applied(self, text: str, number: int) -> str:
        """The file's text with both versions in it: `new` runs where the environment says CROSSD_MUTANT=number."""
        pieces = text.split(self.old)
        if self.occurrence is None and len(pieces) != 2:
            raise ValueError(f"{self}: expected the old text once, found it {len(pieces) - 1} times")
        chosen = f"(::crossd_ops::mutant_in_force == {number})"
        if ";" in self.old:
            both = f"if {chosen} {{ {self.new}\n}} else {{ {self.old}\n}}"
        else:
            both = f"({chosen} ? ({self.new}) : ({self.old}))"
        before = 1 + (self.occurrence or 0)
        return self.old.join(pieces[:before]) + both + self.old.join(pieces[before:])


def missing_barriers(files: str) -> list[Mutant]:
    """Each barrier of the kernels in these files of csrc left out."""
    mutants = []
    for path in sorted(CSRC.glob(files)):
        for barrier in ("__syncthreads();", "__syncwarp();"):
            count = path.read_text().count(barrier)
            mutants += [Mutant(str(path.relative_to(CSRC)), barrier, "", occurrence) for occurrence in range(count)]
    return mutants


CUDA_SHIFT = [
    Mutant("shift/cuda/cubic3_spectrum.cuh", "-root * (difference[0] + differences)",
           "root * (difference[0] + differences)"),
    Mutant("shift/cuda/cubic3_spectrum.cuh", "rest + root * imaginary[y]", "rest + half * imaginary[y]"),
    Mutant("shift/cuda/cubic3_spectrum.cuh", "a - b + c", "a - b - c"),
    Mutant("shift/cuda/cubic3_spectrum.cuh", "phase == 4", "phase == 3"),
    Mutant("shift/cuda/cubic3_spectrum.cuh", "-static_cast<Acc>(shape.first_slice)",
           "static_cast<Acc>(shape.first_slice)"),
    Mutant("shift/cuda/cubic3_spectrum.cuh", "cosine * imaginary - sine * real", "cosine * imaginary + sine * real"),
    Mutant("shift/cuda/cubic3.cuh", "i / 9 * x + i / 3 % 3 * y + i % 3 * z",
           "i / 9 * x + i / 3 % 3 * z + i % 3 * y"),
    Mutant("shift/cuda/cubic3.cuh", "element < warp_.count * kRow", "element < (warp_.count - 1) * kRow"),
    Mutant("shift/cuda/cubic3.cuh", "chunk + kChunk <= group_samples", "chunk < group_samples"),
    Mutant("shift/cuda/cubic3_backward.cuh", "cosine * c - sine * b", "cosine * c + sine * b"),
    Mutant("shift/cuda/cubic3_backward.cuh", "q[1] + q[2] - q[3]", "q[1] - q[2] + q[3]"),
    Mutant("shift/cuda/cubic3_backward.cuh", "grad_weight[18 + i] += sine * h[i]",
           "grad_weight[18 + i] -= sine * h[i]"),
    Mutant("shift/cuda/cubic3_backward.cuh", "wait_copies<1>();", "wait_copies<2>();"),
    Mutant("shift/cuda/cubic3_backward.cuh", "warp.lane % kLanesOfRow * kElements",
           "warp.lane % kLanesOfRow * (kElements - 1)"),
    Mutant("shift/cuda/cubic3_backward.cuh", "other < sample_warps", "other < sample_warps - 1"),
    Mutant("shift/cuda/general.cuh", "sum.real -= b * values.imaginary[j * stride]",
           "sum.real += b * values.imaginary[j * stride]"),
    Mutant("shift/cuda/general.cuh", "n + 1 == size ? 0 : n + 1", "n == 0 ? size - 1 : n - 1"),
    Mutant("shift/cuda/general.cuh", "shares[0] -= h.imaginary * d0.imaginary",
           "shares[0] += h.imaginary * d0.imaginary"),
    Mutant("shift/cuda/general.cuh", "from < tile.k0", "from < tile.k0 - 1"),
    Mutant("shift/cuda/general.cuh", "element - pair * tile.plane", "element"),
    Mutant("shift/cuda/cubic3.cuh", "kTapMajor ? warp.first + warp.lane : warp.first * kRow", "warp.first * kRow"),
    Mutant("shift/cuda/rows.cuh", "tap * pairs + rows.lane", "tap * pairs"),
    Mutant("shift/cuda/rows.cuh", "turn * kLanes * rows.kPlane", "0"),
    Mutant("shift/cuda/rows.cuh", "in_group == 0", "sample == begin"),
    Mutant("shift/cuda/rows_tile.cuh", "n > 0", "n > 1"),
    Mutant("shift/cuda/rows_tile.cuh", "kAdjoint ? j - i + kSize : i - j + kSize", "i - j + kSize"),
    Mutant("shift/cuda/rows_tile.cuh", "kAdjoint ? -circle.derivative[n] : circle.derivative[n]",
           "circle.derivative[n]"),
    Mutant("shift/cuda/rows_backward.cuh", "shares[1] += h[y] * derived[y]", "shares[1] += e[y] * derived[y]"),
    Mutant("shift/cuda/rows_backward.cuh", "buffers + turn * Shared::kElements", "buffers"),
    Mutant("shift/cuda/rows_backward.cuh", "of_lanes * strides.sample + of_sample * kWidth", "of_sample * kWidth"),
    Mutant("shift/cuda/rows_backward.cuh", "of_lanes < left", "true", 0),
    Mutant("shift/cuda/rows_backward.cuh", "pair < rows.count && of_lanes < left", "pair < rows.count"),
    Mutant("shift/cuda/rows_backward.cuh", "rows.sample < rest ? rows.sample : rest - 1", "rows.sample"),
    Mutant("shift/cuda/rows_backward.cuh", "sum_of_warp(grad_weight[x][y], kRowsFewPairs)",
           "grad_weight[x][y]"),
    Mutant("shift/cuda/rows_backward.cuh", "in_group + step == kRowsGroup", "false"),
    Mutant("shift/cuda/rows_backward.cuh", "in_group + rows.sample", "in_group"),
    Mutant("shift/cuda/tile.cuh", "first % 2 * 16", "0"),
    Mutant("shift/cuda/cubic3_grad.cuh", "sample * stride()", "0"),
    Mutant("shift/cuda/cubic3_grad.cuh", "row * stride()", "0"),
    Mutant("shift/cuda/cubic3_grad.cuh", "vector % kOfTap * kVectorBytes", "0"),
    Mutant("shift/cuda/cubic3_grad.cuh", "(slice * kCubic3Plane + i) * kLanes + warp_.lane",
           "(slice * kCubic3Plane + i) * kLanes"),
    Mutant("shift/cuda/cubic3_grad.cuh", "element * kLanes + warp_.lane", "element * kLanes"),
    Mutant("shift/cuda/rows_backward.cuh", "tap_major ? vector % kOfTap : vector", "vector"),
    Mutant("shift/cuda/rows_backward.cuh", "vectors.grad_is_tap_major ? i % kLanes : i / rows.kPlane",
           "i / rows.kPlane"),
    Mutant("shift/cuda/partial_sums.cuh", "sums[warp * kGroup * 3 + task]", "sums[task]"),
    Mutant("shift/cuda/partial_sums.cuh", "warp < kWarps", "warp < kWarps - 1"),
    Mutant("shift/cuda/partial_sums.cuh", "sample * 3 + select(problem.shape.axis, axis)", "task"),
    Mutant("shift/cuda/partial_sums.cuh", "blockIdx.x * partial_stride(problem.shape.samples)",
           "blockIdx.x * 3 * problem.shape.samples"),
    Mutant("shift/cuda/partial_sums.cuh", "tile * stride + row", "tile * stride"),
    Mutant("shift/cuda/partial_sums.cuh", "distance >= nearest", "distance > nearest"),
    Mutant("shift/cuda/general.cuh", "sample - in_group", "sample"),
    Mutant("shift/cuda/general.cuh", "in_group + 1 == kGeneralGroup", "false"),
    Mutant("shift/cuda/pairs.cuh", "pair - out_channel * in_channels", "pair"),
    Mutant("shift/cuda/taps.cuh", "tap.imaginary += sine", "tap.imaginary -= sine"),
    Mutant("shift/cuda/taps.cuh", "2 * (cosine_index * cosine + sine_index * sine)",
           "2 * (cosine_index * cosine - sine_index * sine)"),
    Mutant("shift/cuda/taps.cuh", "n % 2", "n % 2 == 0"),
    Mutant("shift/cuda/taps.cuh", "fma(static_cast<Acc>(-size), rint(product / size), product)", "product"),
]  # fmt: skip
CUDA_HEAD = [
    Mutant("head/cuda/rotation.cuh", "(element - v) + 1", "(element - v) - 1"),
    Mutant("head/cuda/rotation.cuh", "join_lanes(total, kHeadChannels)", "join_lanes(total, 2 * kHeadChannels)"),
    Mutant("head/cuda/rotation.cuh", "sum *= factor, weighted *= factor, maximum = to;",
           "sum *= factor, maximum = to;"),
    Mutant("head/cuda/rotation.cuh", "part * kHeadChannels + lane % kHeadChannels", "part * kHeadChannels"),
    Mutant("head/cuda/rotation.cuh", "(kPeriod == 1 ? warp : warp * kHeadChannels) * 3", "warp * 3"),
    Mutant("head/cuda/rotation.cuh", "past == past_boundary(grad + begin)", "true"),
    Mutant("head/cuda/rotation.cuh", "load(i + kStep, next)", "load(i, next)"),
    Mutant("head/cuda/rotation.cuh", "lane == 0 ? grad_v[0] : grad_v[1]", "grad_v[0]"),
    Mutant("head/rotation_math.h", "a.z * b.x - a.x * b.z", "a.z * b.x + a.x * b.z"),
    Mutant("head/rotation_math.h", "(1 - rotation.tanh) * (1 + rotation.tanh)",
           "(1 - rotation.tanh) * (1 - rotation.tanh)"),
    Mutant("head/cuda/rotation.cuh", "last < pixels ? last : pixels", "last"),
]  # fmt: skip
CPU_SHIFT = [
    Mutant("shift/cpu/harmonic3.h", "(b - c) * kInverseRoot3", "(c - b) * kInverseRoot3"),
    Mutant("shift/cpu/harmonic3.h", "c = rest - s", "c = rest + s"),
    Mutant("shift/cpu/harmonic3.h", "h[6 + i] * u[3 + i] - h[3 + i] * u[6 + i]", "h[6 + i] * u[3 + i]"),
    Mutant("shift/cpu/harmonic3.h", "h0[3 + x] * cosine - h0[x] * sine", "h0[3 + x] * cosine + h0[x] * sine"),
    Mutant("shift/cpu/direct.h", "re -= tap.im[d] * in.im[at];", "re += tap.im[d] * in.im[at];"),
    Mutant("shift/cpu/direct.h", "kTranspose ? j - i : i - j", "i - j"),
    Mutant("shift/cpu/direct.h", "correlations + n.k0 + n.k1", "correlations + n.k0"),
    Mutant("shift/cpu/direct.h", "grad_weight[i * n.plane + j] -= tap0.im[x - i] * h.im[j];", ""),
    Mutant("shift/cpu/taps.h", "step * (sine_[i] * c - cosine_[i] * s)", "step * (sine_[i] * c + cosine_[i] * s)"),
    Mutant("shift/cpu/taps.h", "sign * kPi * c", "sign * kPi * s"),
    Mutant("shift/cpu/taps.h", "shape.axis[i % 3]", "i % 3"),
    Mutant("shift/cpu/kernels.h", "__builtin_memset(shift_sums, 0, sizeof(Vector<Acc>) * all_sums);",
           "if (chunk == begin) __builtin_memset(shift_sums, 0, sizeof(Vector<Acc>) * all_sums);"),
    Mutant("shift/cpu/kernels.h", "(chunk * samples + sample) * 3", "sample * 3"),
    Mutant("shift/cpu/kernels.h", "(plan.pairs < stop ? plan.pairs : stop) - pair", "stop - pair"),
    Mutant("shift/cpu/tile.h", "if (++c == in_channels) c = 0, ++o;", "if (++c == in_channels) c = 0;"),
    Mutant("common/cpu/element.h", "bits + 0x7fffu + ((bits >> 16) & 1u)", "bits"),
    Mutant("shift/cpu/shift_cpp.h", "partial[chunk * samples * 3 + i]", "partial[i]"),
]  # fmt: skip
CPU_HEAD = [
    Mutant("head/cpu/rotation_kernels.h", "total.weighted * factor + other.weighted",
           "total.weighted + other.weighted"),
    Mutant("head/cpu/rotation_kernels.h", "weighted += weighted2", "weighted += sum2"),
    Mutant("head/cpu/rotation_kernels.h", "if (++column == columns) column = 0, ++row;",
           "if (++column == columns) column = 0;"),
    Mutant("head/cpu/rotation_kernels.h", "every_lane(static_cast<Acc>(left))",
           "every_lane(static_cast<Acc>(lanes))"),
    Mutant("head/cpu/rotation_kernels.h", "last < parts.pixels ? last : parts.pixels", "last"),
]  # fmt: skip
COLUMNS = "convolution/cpu/columns_cpp.h"
CPU_COLUMNS = [
    Mutant(COLUMNS, "end - to >= (count + kRun - 1) / kRun * kRun", "true"),
    Mutant(COLUMNS, "last * of_channel", "problem.samples * problem.channels * of_channel"),
    Mutant(COLUMNS, "sizes_[0] * sizes_[1] * sizes_[2] + kRunBytes / sizeof(T)", "sizes_[0] * sizes_[1] * sizes_[2]"),
    Mutant(COLUMNS, "padded.clear();", ""),
    Mutant(COLUMNS, "h * problem_.dilation[1]", "h"),
    Mutant(COLUMNS, "y * problem_.stride[1]", "y"),
    Mutant(COLUMNS, "problem_.padding[2]", "0"),
    Mutant(COLUMNS, "row[x * stride]", "row[x]"),
    Mutant(COLUMNS, "from[x * stride]", "from[x]"),
    Mutant(COLUMNS, "channel % problem.channels", "channel"),
    Mutant(COLUMNS, "columns + first * of_channel", "columns", 1),
    Mutant(COLUMNS, "return of_types(c10::BFloat16{}, float{});", "return of_types(c10::BFloat16{}, c10::BFloat16{});"),
    Mutant("convolution/cpu/small_product_kernels.h", "left < 2 * kLanes<T> ? left : 2 * kLanes<T>", "2 * kLanes<T>"),
    Mutant("convolution/cpu/small_product_kernels.h", "(row + r) * p.bias_stride", "row * p.bias_stride"),
]  # fmt: skip


Place = tuple[int, int]  # of a case: its stage from 0, and its number in it from 1


@dataclass(frozen=True)
class Suite:
    """Mutants that one check program looks for.

    `stages`: the program's arguments, cheap ones first. A later stage runs where all before it passed.
    `level`: of optimisation. -Og compiles in half the time that -O1 takes, which long runs win back.
    """

    name: str
    mutants: list[Mutant]
    check: str
    stages: tuple[tuple[str, ...], ...]
    variant: str = "plain"
    level: str = "-Og"

    def program(self) -> Path:
        """The check compiled with all mutants in it, once for each state of the sources."""
        csrc, folder = altered_sources(f"mutants_{self.name}", partial(plant, self.mutants))
        lines = [f'#include "{EMULATOR / self.check}"']
        if self.name.startswith("cpu"):
            lines.insert(0, '#include "cpu_kernels.h"')
        if self.name in ("cpu_head", "cpu_columns"):
            lines.insert(0, "#define CHECK_CPU")
        source = folder / f"{self.name}.cpp"
        source.write_text("\n".join(lines) + "\n")
        return compile_program(source, self.variant, csrc=csrc, folder=folder, flags=(self.level,))

    def found_at(self, program: Path, mutant: int) -> Place | None:
        """The last case that is needed to find a mutant; None where the check is content or says something else."""
        for stage, options in enumerate(self.stages):
            # What is to be said may be said of a later case than the first that fails.
            for stopping in (("--first-failure",), ()):
                returncode, output = run_mutant(program, mutant, "--numbers", *stopping, *options)
                if returncode == 0:
                    break
                cases = re.findall(r"^case (\d+)$", output, re.MULTILINE)
                if cases and re.search(self.mutants[mutant - 1].finding, output):
                    return stage, int(cases[-1])
            else:
                return None
        return None

    def complaint_until(self, program: Path, last: Place) -> str:
        """What the check says of the sources themselves, up to a case; empty where it is content."""
        stage, case = last
        for options in [*self.stages[:stage], (*self.stages[stage], f"--cases={case}")]:
            returncode, output = run_mutant(program, 0, *options)
            if returncode:
                return output
        return ""


def run_mutant(program: Path, mutant: int, *options: str) -> tuple[int, str]:
    """The exit status of a check of one mutant, or of none, and what it says."""
    # Nobody reads where a mutant was found; to name functions takes as long as many a run.
    quiet = [f"{name}={value}:symbolize=0" for name, value in SANITIZER_ENVIRONMENT.items() if mutant]
    try:
        process = run_program(Path("/usr/bin/env"), f"CROSSD_MUTANT={mutant}", *quiet, str(program), *options)
    except subprocess.TimeoutExpired as expired:  # a mutated bound may make a kernel run for ever
        output = expired.stdout or b""
        return -1, output if isinstance(output, str) else output.decode(errors="replace")
    return process.returncode, process.stdout


BRIEF = (("--one-order", "brief"),)
SHIFT_STAGES, HEAD_STAGES = (("--one-order", "brief", "special"), ("brief", "sizes")), (*BRIEF, ())
SUITES = [
    Suite("cpu_shift", CPU_SHIFT, "check_kernels.cpp", SHIFT_STAGES),
    Suite("cpu_head", CPU_HEAD, "rotation_head_check.cpp", HEAD_STAGES),
    Suite("cpu_columns", CPU_COLUMNS, "columns_check.cpp", BRIEF, "address"),
    # ThreadSanitizer sees a race in any order of threads, which the order of a run may hide.
    Suite("shift_barriers", missing_barriers("shift/cuda/*.cuh"), "check_kernels.cpp", BRIEF, "thread"),
    Suite("head_barriers", missing_barriers("head/cuda/rotation*.cuh"), "rotation_head_check.cpp", BRIEF, "thread"),
]


def plant(mutants: list[Mutant], csrc: Path) -> None:
    """Puts the mutants, numbered from 1, into a copy of csrc, and what the check programs need beside it."""
    (csrc / "mutant.h").write_text(MUTANT_HEADER)
    for name in ("convolution/cpu/columns", "shift/cpu/shift", "head/cpu/rotation"):
        shutil.copy(CSRC / f"{name}.cpp", csrc / f"{name}_cpp.h")
    # Few blocks: each loops over all samples and many pairs, so that every barrier matters.
    launch = csrc / "shift" / "cuda" / "launch.cuh"
    launch.write_text(launch.read_text().replace("kWantedBlocks = 1024;", "kWantedBlocks = 1;"))
    want_few_blocks(csrc)
    for number, mutant in enumerate(mutants, start=1):
        path = csrc / mutant.file
        path.write_text(mutant.applied(path.read_text(), number))
    for name in {mutant.file for mutant in mutants}:
        path = csrc / name
        path.write_text(f'#include "mutant.h"\n{path.read_text()}')
    if "/cpu/" not in mutants[0].file:
        return
    host = f'{SCRATCH}#include "head/cpu/rotation_cpp.h"' if mutants is CPU_HEAD else '#include "shift/cpu/shift_cpp.h"'
    kernels = f'#include "{COLUMNS}"' if mutants[0].file == COLUMNS else CPU_KERNELS + host
    (csrc / "cpu_kernels.h").write_text(f"{kernels}\n")
    stand_in_for_torch(csrc)
    launch.write_text(CPU_LAUNCH)
