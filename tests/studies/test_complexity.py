"""Counts of operations compared with numbers computed by hand, and the mode that prints them."""

import json
import os
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax import lax

from ctxseg import commands
from ctxseg.commands import command_line
from ctxseg.configs import fcn
from ctxseg.errors import UserError
from ctxseg.models.attention import attention
from ctxseg.models.convolution import convolve
from ctxseg.models.deformable import deformable_convolve
from ctxseg.models.layers import ConvNorm, relu
from ctxseg.runs import workdir
from ctxseg.studies import complexity
from ctxseg.studies.complexity import ROWS, measure
from ctxseg.studies.operations import count_flops, count_multiply_adds

FCN = "--config=configs/fcn.py"
TINY = ("--config.complexity.input=1,16,16,32", "--config.complexity.channels=16")


@pytest.fixture(autouse=True)
def root(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def plain(x, kernel, **options):
    options = {"window_strides": (1, 1), "padding": "SAME"} | options
    return lax.conv_general_dilated(x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)


def scanned(x, kernel, conv=convolve):
    return lax.scan(lambda x, _: (conv(x, kernel), None), x, None, length=5)[0]


@jax.custom_vjp
def with_gradient(x, kernel):
    return plain(x, kernel)


with_gradient.defvjp(lambda x, kernel: (plain(x, kernel), (x, kernel)), lambda residuals, dy: residuals)


@jax.custom_jvp
def with_tangent(x, kernel):
    return plain(x, kernel)


with_tangent.defjvp(lambda primals, tangents: (plain(*primals), plain(*tangents)))


def deformed(x, kernel, stride):
    return deformable_convolve(x, jnp.zeros((1, 5, 4, 2, 3, 3, 2)), kernel, stride)


def by_platform(x, kernel):
    def cpu(x, kernel):
        return plain(plain(x, kernel), kernel)

    return lax.platform_dependent(x, kernel, cpu=cpu, default=plain)


K = shape(3, 3, 4, 6)
COUNTS = {
    # function, map, kernel, output positions · k² · input channels · output channels
    "3×3": (plain, shape(1, 8, 10, 4), K, 80 * 9 * 4 * 6),
    "batch": (plain, shape(3, 8, 10, 4), K, 3 * 80 * 9 * 4 * 6),
    "unpadded": (partial(plain, padding="VALID"), shape(1, 8, 10, 4), K, 6 * 8 * 9 * 4 * 6),
    "grouped": (partial(plain, feature_group_count=2), shape(1, 8, 8, 8), K, 64 * 9 * 4 * 6),
    "depthwise": (partial(plain, feature_group_count=6), shape(1, 8, 8, 6), shape(3, 3, 1, 6), 64 * 9 * 6),
    "channels first": (
        partial(lax.conv, window_strides=(1, 1), padding="SAME"), shape(1, 4, 8, 10), shape(6, 4, 3, 3), 80 * 9 * 4 * 6,
    ),
    "1×1": (convolve, shape(2, 8, 8, 4), shape(1, 1, 4, 6), 2 * 64 * 4 * 6),
    "1×1, strided": (partial(convolve, stride=2), shape(1, 9, 7, 4), shape(1, 1, 4, 6), 5 * 4 * 4 * 6),
    "strided": (partial(convolve, stride=2), shape(1, 9, 7, 4), K, 5 * 4 * 9 * 4 * 6),
    "dilated": (partial(convolve, dilation=12), shape(1, 8, 8, 4), K, 64 * 9 * 4 * 6),
    "Winograd on a CPU": (convolve, shape(1, 8, 8, 64), shape(3, 3, 64, 64), 64 * 9 * 64 * 64),
    "deformable": (partial(deformed, stride=2), shape(1, 9, 7, 4), K, 5 * 4 * 9 * 4 * 6),
    "scan": (scanned, shape(1, 8, 8, 4), shape(3, 3, 4, 4), 5 * 64 * 9 * 4 * 4),
    "scan in a scan": (partial(scanned, conv=scanned), shape(1, 8, 8, 4), shape(3, 3, 4, 4), 25 * 64 * 9 * 4 * 4),
    "map": (lambda x, k: lax.map(lambda x: plain(x[None], k), x), shape(7, 8, 8, 4), K, 7 * 64 * 9 * 4 * 6),
    "vmap": (lambda x, k: jax.vmap(lambda x: convolve(x[None], k))(x), shape(7, 8, 8, 4), K, 7 * 64 * 9 * 4 * 6),
    "custom_vjp": (with_gradient, shape(1, 8, 8, 4), K, 64 * 9 * 4 * 6),
    "custom_jvp": (with_tangent, shape(1, 8, 8, 4), K, 64 * 9 * 4 * 6),
    "platform_dependent": (by_platform, shape(1, 8, 8, 4), shape(3, 3, 4, 4), 64 * 9 * 4 * 4),
    "jit, checkpoint": (jax.jit(jax.checkpoint(jax.jit(convolve))), shape(1, 8, 8, 4), K, 64 * 9 * 4 * 6),
    "twice": (lambda x, k: relu(convolve(x, k)) + convolve(x, k), shape(1, 8, 8, 4), K, 2 * 64 * 9 * 4 * 6),
    "matrix product": (lambda x, k: jnp.einsum("bhwc,klco->bhwklo", x, k), shape(1, 8, 8, 4), K, 0),
}  # fmt: skip


@pytest.mark.parametrize("case", COUNTS)
def test_multiply_adds(case):
    function, x, kernel, expected = COUNTS[case]
    assert count_multiply_adds(function, x, kernel) == expected


def test_multiply_adds_of_a_layer():
    module = ConvNorm(6, 3, stride=2)
    x = shape(2, 9, 7, 4)
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, False), x)
    assert count_multiply_adds(lambda v, x: module.apply(v, x, False), variables, x) == 2 * 5 * 4 * 9 * 4 * 6


@pytest.mark.parametrize("count", [count_multiply_adds, count_flops])
def test_control_flow_on_data_cannot_be_counted(count):
    with pytest.raises(ValueError, match="`while`.* data"):
        count(lambda x: lax.while_loop(lambda x: x.sum() < 9, lambda x: 2 * x, x), shape(4))
    with pytest.raises(ValueError, match="`cond`.* data"):
        count(lambda x: lax.cond(x[0] > 0, jnp.sin, jnp.cos, x), shape(4))


def test_flops():
    assert count_flops(jnp.matmul, shape(5, 7), shape(7, 11)) == 2 * 5 * 7 * 11
    assert count_flops(jax.jit(lambda x: x * x + x), shape(5, 7)) == 2 * 5 * 7
    assert (
        count_flops(lambda c, x: lax.scan(lambda c, x: (c @ x, None), c, x)[0], shape(4, 4), shape(9, 4, 4)) == 9 * 128
    )
    # Unpadded, since XLA does not count taps on padding.
    unpadded = partial(plain, padding="VALID")
    assert count_flops(unpadded, shape(1, 8, 8, 4), K) == 2 * count_multiply_adds(unpadded, shape(1, 8, 8, 4), K)
    # The count of the definition, not of the implementation for the CPU.
    x, kernel = shape(1, 8, 8, 64), shape(3, 3, 64, 64)
    assert count_flops(convolve, x, kernel) == count_flops(plain, x, kernel)


def test_operations_are_counted_on_the_cpu(monkeypatch):
    """For other devices, JAX has no cost analysis before compilation."""
    local_devices, asked = jax.local_devices, []

    def recorded(backend=None):
        asked.append(backend)
        return local_devices(backend=backend)

    def missing(backend=None):
        raise RuntimeError(f"Unknown backend {backend}")

    monkeypatch.setattr(jax, "local_devices", recorded)
    assert count_flops(jnp.matmul, shape(2, 3), shape(3, 4)) == 2 * 2 * 3 * 4 and asked == ["cpu"]
    monkeypatch.setattr(jax, "local_devices", missing)
    with pytest.raises(UserError, match="JAX_PLATFORMS.* add cpu"):
        count_flops(jnp.matmul, shape(2, 3), shape(3, 4))


def test_flops_of_attention_do_not_depend_on_its_chunks():
    x = shape(1, 64, 32)
    whole, parts = (count_flops(lambda x, c=c: attention(x, x, x, chunk=c), x) for c in (64, 16))
    products = 2 * 2 * 64 * 64 * 32
    assert products < whole < 1.2 * products and parts == pytest.approx(whole, rel=1e-4)


class Evaluated(nn.Module):
    """A layer in evaluation mode, as a function of only its map."""

    @nn.compact
    def __call__(self, x):
        return ConvNorm(6, 3)(x, False)


def test_measure():
    counted, executed = (measure(Evaluated(), (shape(1, 8, 8, 4),), repeats) for repeats in (0, 2))
    assert counted["parameters"] == 9 * 4 * 6 + 2 * 6 and counted["multiply_adds"] == 64 * 9 * 4 * 6
    assert counted["memory_bytes"] is None and counted["milliseconds"] is None
    arrays = 9 * 4 * 6 + 4 * 6 + 64 * (4 + 6)  # kernel; scale, bias, mean and variance; input and result
    assert 4 * arrays <= executed["memory_bytes"] < 40 * arrays and executed["milliseconds"] > 0
    del executed["memory_bytes"], executed["milliseconds"]
    assert executed.items() <= counted.items()


# The mode.


def call(capsys, *arguments):
    """The lines of the table, and the JSON that `main` writes."""
    commands.main(["main.py", FCN, "--mode=complexity", *map(str, arguments)])
    lines = capsys.readouterr().out.splitlines()
    return lines, json.loads(Path(lines[-1]).read_text())


def test_dca_has_the_parameters_of_the_paper(capsys, tmp_path):
    lines, result = call(
        capsys, "--config.complexity.repeats=0", "--config.complexity.contexts=dca,renet", f"--workdir={tmp_path}"
    )
    by_name = {row["context"]: row for row in result["rows"]}
    row = by_name["dca"]
    # 3×3 2048→512, 3×3 1024→512; g_q and g_k: 512→256→256; g_v: 512→256; g_o: 256→512.
    kernels = 9 * 2048 * 512 + 9 * 1024 * 512 + 2 * (512 * 256 + 256 * 256) + 2 * 512 * 256
    assert row["parameters"] == kernels + 2 * (2 * 512 + 5 * 256 + 512) == 14816768
    assert row["multiply_adds"] == 128 * 128 * kernels
    assert row["multiply_adds"] / 1e9 == pytest.approx(complexity.PAPER["dca"][1], rel=1e-3)
    assert row["paper"] == {"parameters_m": 14.82, "multiply_adds_g": 242.80}
    # Plus two matrix products of 128⁴ by 256, minus the convolutions' taps on padding.
    assert row["flops"] == pytest.approx(2 * row["multiply_adds"] + 2 * 2 * 128**4 * 256, rel=0.02)
    dca = next(line for line in lines if line.startswith("dca"))
    assert dca.split()[:5] == ["dca", "14.82", "14.82", "242.67", "242.80"] and dca.split()[-2:] == ["–", "–"]
    renet = next(line for line in lines if line.startswith("renet"))
    assert renet.split()[2:5:2] == ["–", "–"] and "paper" not in by_name["renet"]
    assert any("Table 3" in line for line in lines)


def test_the_table_and_the_file(capsys, tmp_path):
    lines, result = call(
        capsys, *TINY, "--config.complexity.contexts=renet,rce",
        "--config.complexity.repeats=2", f"--workdir={tmp_path}/new",
    )  # fmt: skip
    assert lines[0].startswith("input [1,16,16,32], 16 channels, float32, on ")
    assert "paper" not in "".join(lines)
    titles = ["parameters, M", "multiply-adds, G", "FLOPs, G", "memory, MiB", "ms"]
    assert lines[1].startswith("context") and [t for t in titles if t in lines[1]] == titles
    assert [line.split()[0] for line in lines[2:4]] == ["renet", "rce"]
    assert all(len(line.split()) == 6 and len(line) == len(lines[1]) for line in lines[2:4])
    assert any(line.startswith("rce ") and line.endswith("input is [1,16,16,16]") for line in lines)

    assert os.listdir(tmp_path / "new") == ["complexity.json"]  # the folder does not become a run's
    assert lines[-1] == f"{tmp_path}/new/complexity.json"
    assert (result["input"], result["channels"], result["repeats"]) == ([1, 16, 16, 32], 16, 2)
    assert (result["dtype"], result["jax"]) == ("float32", jax.__version__) and result["device"]
    assert [(row["context"], row["input"]) for row in result["rows"]] == [
        ("renet", [1, 16, 16, 32]),
        ("rce", [1, 16, 16, 16]),
    ]
    rce = result["rows"][1]
    assert rce["multiply_adds"] == 256 * 9 * 16 * 48
    for row, line in zip(result["rows"], lines[2:4], strict=True):
        values = [row["parameters"] / 1e6, row["multiply_adds"] / 1e9, row["flops"] / 1e9, row["memory_bytes"] / 2**20]
        assert [float(cell) for cell in line.split()[1:]] == pytest.approx([*values, row["milliseconds"]], rel=0.06)
        assert row["memory_bytes"] > 4 * row["parameters"] and row["milliseconds"] > 0 and "paper" not in row


def test_overrides_of_a_context_reach_its_row(capsys, tmp_path):
    command = (*TINY, "--config.complexity.repeats=0", "--config.complexity.contexts=rce", f"--workdir={tmp_path}")
    (row,) = call(capsys, *command, "--config.model.context.subdivisions=(2,)")[1]["rows"]
    assert row["multiply_adds"] == 256 * 9 * 16 * 16


@pytest.mark.parametrize("name", ROWS)
def test_every_row_can_be_counted(name):
    config = fcn.get_config()
    # Large compared with the dilations of ASPP.
    config.complexity.input, config.complexity.channels = (1, 96, 96, 32), 16
    module, inputs = ROWS[name](config)
    row = measure(module, inputs, repeats=0)
    assert row["parameters"] > 0 and row["flops"] > 0 and 2 * row["multiply_adds"] <= 1.5 * row["flops"]


def test_the_default_folder():
    assert command_line.parse(["main.py", FCN, "--mode=complexity"]).workdir == "runs"
    assert command_line.parse(["main.py", FCN, "--mode=complexity", "--workdir=x"]).workdir == "x"


def test_a_run_continues_with_other_fields_of_complexity(tmp_path):
    config = fcn.get_config()
    workdir.claim(tmp_path, config)
    config.complexity.repeats = 0
    workdir.check(tmp_path, config)


def test_a_context_from_outside(capsys, tmp_path):
    """It has the costs of the same context in the package."""
    names = "ppm,ctxseg.models.context.ppm:PPM"
    call(
        capsys, *TINY, f"--config.complexity.contexts={names}", "--config.complexity.repeats=0", f"--workdir={tmp_path}"
    )
    ours, outside = json.loads((tmp_path / "complexity.json").read_text())["rows"]
    assert outside == ours | {"context": "ctxseg.models.context.ppm:PPM"}


BAD_VALUES = {
    "contexts=dcaa": "config.complexity.contexts has 'dcaa'.*fcn, renet, .*dca",
    "contexts=none": "config.complexity.contexts has 'none'.*fcn, renet, .*dca",
    "input=1,0,16,32": r"config.complexity.input is \(1, 0, 16, 32\).*images, height, width and channels",
    "input=1,16,32": r"config.complexity.input is \(1, 16, 32\).*\(1, 128, 128, 2048\)",
    "channels=0": "config.complexity.channels is 0.*at least 1",
    "repeats=-1": "config.complexity.repeats is -1.*at least 0",
}


@pytest.mark.parametrize("change", BAD_VALUES)
def test_bad_values_are_reported_in_one_line(change, capsys, tmp_path):
    with pytest.raises(UserError, match=f"^{BAD_VALUES[change]}") as error:
        call(capsys, f"--config.complexity.{change}", f"--workdir={tmp_path}/new")
    assert "\n" not in str(error.value) and not (tmp_path / "new").exists()


def test_an_unusable_folder_is_reported(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="^--workdir=.*file "):
        call(capsys, *TINY, f"--workdir={tmp_path}/file")
