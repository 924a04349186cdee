"""The logic of `benchmarks/gpu.py`, on a CPU and with tiny shapes."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn

from ctxseg import data
from ctxseg.configs import mask_rcnn
from ctxseg.data.instance_transforms import create_augmentation
from ctxseg.models import BACKBONES, CONNECTIONS, DETECTORS, MEMORIES, MERGES

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import gpu  # noqa: E402
from gpu_parts import attention, measuring, renet, schedule, steps, values, worker  # noqa: E402

DEVICE = {"device": "a GPU", "platform": "gpu", "devices": 1, "jax": "0.12.0", "flax": "0.12.8"}
FIGURES = {
    "ceilings": {"operations_per_second": 1e14},
    "crf": {"seconds": 0.5, "vertices": 90_000, "memory_bytes": 2**30, "memory_from": "device", "compile_seconds": 9.0},
}


class Process:
    """Stands in for `schedule.Worker`: gives every entry the same figures, except those in `answers`."""

    def __init__(self, commit="1111111", **answers):
        self.commit, self.answers, self.asked = commit, answers, []

    def ask(self, request, seconds):
        if request["part"] == "device":
            return DEVICE | {"commit": self.commit}
        self.asked.append(request["entry"])
        return self.answers.get(request["entry"], FIGURES[request["part"]])

    def close(self):
        pass


def run(path, process, *flags):
    return gpu.measure(gpu.parse([f"--output={path}", "--only=crf", *flags]), process)


def test_an_entry_that_fails_is_a_line_and_the_others_go_on(tmp_path, capsys):
    path, process = tmp_path / "gpu.json", Process(smooth={"error": "ValueError: too smooth"})
    assert run(path, process) is None
    assert process.asked[-3:] == ["smooth", "grainy", "noise"]
    stored = json.loads(path.read_text())
    assert stored["device"] == "a GPU" and stored["parts"]["crf"]["smooth"] == {"error": "ValueError: too smooth"}
    table = path.with_suffix(".md").read_text()
    assert "| smooth | error: ValueError: too smooth |" in table and "| noise | 500.0 | 90 | 1.00 | 9 |" in table
    assert "crf, smooth: error: ValueError: too smooth\ncrf, grainy: 500.0" in capsys.readouterr().out


def test_what_is_in_the_file_is_not_measured_again_unless_it_failed_and_again_asks_for_it(tmp_path):
    path = tmp_path / "gpu.json"
    run(path, Process(smooth={"error": "ValueError: too smooth"}))
    for flags, asked in (([], []), (["--again"], ["smooth"]), (["--again"], [])):
        process = Process(commit="2222222")
        assert run(path, process, *flags) is None
        assert process.asked == asked
    assert json.loads(path.read_text())["commit"] == "1111111, 2222222"


def test_figures_of_two_devices_do_not_mix(tmp_path, capsys):
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps(DEVICE | {"device": "another GPU", "tiny": False, "parts": {}}))
    before, process = path.read_text(), Process()
    assert run(path, process) == 2
    assert path.read_text() == before and not process.asked
    assert "another GPU" in (message := capsys.readouterr().err) and "--output" in message


def test_what_the_time_of_a_part_does_not_reach_is_said_and_comes_in_the_next_run(tmp_path, capsys):
    path = tmp_path / "gpu.json"
    run(path, Process(), "--minutes=0")
    assert "crf: not reached: smooth, grainy, noise" in capsys.readouterr().out
    assert "| smooth | not reached |" in path.with_suffix(".md").read_text()
    stored = {"a": {}, "b": {"stopped": 3}, "d": {"error": "…"}, "e": {"skipped": "…"}}
    assert schedule.due(list("abcde"), stored, again=False) == ["c", "e", "b"]
    assert schedule.due(list("abcde"), stored, again=True) == ["c", "e", "b", "d"]


def test_a_part_ends_at_its_deadline_and_entries_get_the_time_that_is_left():
    now, asked = [0.0], []

    def ask(entry, images, seconds):
        asked.append((entry, seconds))
        now[0] += 4
        return {}

    assert [entry for entry, _ in schedule.run(list("abcd"), ask, 8, 10, lambda: now[0])] == ["a", "b", "c"]
    assert asked == [("a", 10), ("b", 6), ("c", 2)]


def test_half_as_many_images_while_memory_is_lacking():
    def ask(entry, images, seconds):
        return {"error": "…", "out_of_memory": True} if images > limits[entry] else {"images": images}

    limits = {"small": 8, "large": 2, "too large": 0}
    results = dict(schedule.run(list(limits), ask, 8, 1, lambda: 0.0))
    assert results["small"] == {"images": 8} and results["large"] == {"images": 2} and "error" in results["too large"]


def test_a_process_that_ends_or_does_not_answer_is_replaced():
    code = "import json, os, sys\nfor line in sys.stdin:\n  {}"
    answering = code.format("print(json.dumps({'got': json.loads(line)['entry']}), flush=True)")
    silent, killed = code.format("pass"), code.format("os.kill(os.getpid(), 9)")
    process = schedule.Worker([sys.executable, "-c", answering])
    assert [process.ask({"entry": entry}, 60) for entry in "ab"] == [{"got": "a"}, {"got": "b"}]
    process.close()
    assert schedule.Worker([sys.executable, "-c", silent]).ask({}, 0) == {"stopped": 0}
    process = schedule.Worker([sys.executable, "-c", killed])
    for _ in range(2):
        assert "SIGKILL" in process.ask({}, 60)["error"]


def test_a_process_that_ended_after_its_answer_is_replaced():
    code = "import sys\nsys.stdin.readline()\nprint('{}', flush=True)\nsys.stdin.close()\nsys.exit(3)"
    process = schedule.Worker([sys.executable, "-c", code])
    assert process.ask({}, 60) == {}
    process._process.wait()
    assert "status 3" in process.ask({}, 60)["error"]
    assert process.ask({}, 60) == {}
    process.close()


def test_an_exception_is_one_line_and_lack_of_memory_is_recognised(monkeypatch):
    request = {"part": "attention", "entry": "dca float32", "tiny": True, "images": 1}
    for message, lacking in (("first\nsecond", False), ("RESOURCE_EXHAUSTED: Out of memory", True)):

        def fail(*_, message=message):
            raise RuntimeError(message)

        monkeypatch.setattr(attention, "measure", fail)
        result = worker.answer(request)
        assert result["error"] == f"RuntimeError: {message}".replace("\n", " ")
        assert result.get("out_of_memory", False) == lacking


MISSING = (
    "ml_collections", "jaxtyping", "tensorflow_datasets", "grain", "orbax", "array_record", "PIL", "skimage", "cv2", "h5py", "filelock",
    "etils", "tqdm", "pycocotools", "torch",
)  # fmt: skip
WITHOUT = f"""
import json, sys
sys.modules.update(dict.fromkeys({MISSING!r}))
sys.path.insert(0, {str(BENCHMARKS)!r})
import gpu
gpu.main(["--list"])
from gpu_parts import steps
from ctxseg.models import create_model
configs = {{}}
for system in steps.SYSTEMS:
    config, classes, _ = steps._config(system, "bfloat16", False)
    create_model(config.model, classes)
    configs[system] = {{key: config[key] for key in ("model", "data", "train", "optimizer", "loss")}}
import jax._src.xla_bridge
assert not jax._src.xla_bridge._backends, "the process that measures nothing must not take a device's memory"
print(json.dumps(configs))
"""


def test_neither_data_pipelines_nor_config_packages_are_needed():
    """The stand-in for ml_collections gives the same configs."""
    result = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    *listed, configs = result.stdout.splitlines()
    assert [line.split(":")[0] for line in listed] == ["ceilings", "steps", "attention", "renet", "crf", "tests"]
    configs = json.loads(configs)
    for system in steps.SYSTEMS:
        expected = json.loads(steps._config(system, "bfloat16", False)[0].to_json())
        assert configs[system] == {key: expected[key] for key in configs[system]}, system


def test_numbers_of_classes_and_the_size_of_a_landscape_image():
    for system, (_, classes) in steps.SYSTEMS.items():
        config, _, _ = steps._config(system, "float32", False)
        assert len(data.metadata(config.data)["class_names"]) == classes, system
    augmentation = create_augmentation(mask_rcnn.get_config("coco_instances").data)
    assert steps._config("mask_rcnn", "float32", False)[2] == augmentation.canvas((480, 640))


def test_every_system_and_every_kind_of_network_has_an_entry():
    configs = {path.stem for path in (BENCHMARKS.parent / "configs").glob("*.py")} - {
        "__init__",
        "datasets",
        "defaults",
    }
    assert set(steps.SYSTEMS) == configs

    def files(backbones):
        return {getattr(BACKBONES[name], "func", BACKBONES[name]).__module__ for name in backbones}

    def named(field):
        return {fields[field] for fields in values.NETWORKS.values() if field in fields}

    assert files(named("model.backbone.name")) == files(BACKBONES)
    assert named("model.detector.name") == set(DETECTORS) - {"none"}
    assert named("model.memory.name") == set(MEMORIES) - {"none"}
    assert named("model.connections.name") == set(CONNECTIONS) - {"none"}
    assert named("model.scales.merge") == set(MERGES) - {"none"}


def test_operations_are_counted_as_often_as_they_are_executed():
    x, w = np.ones((8, 16), np.float32), np.ones((16, 16), np.float32)

    def repeated(x):
        x @ w  # without use
        return jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=5)[0]

    assert measuring.count_operations(repeated, x) == 5 * 2 * 8 * 16 * 16


def test_operations_of_a_convolution_with_its_gradients_are_three_times_those_without():
    convolution = partial(values.convolve, stride=1)
    x, kernel = np.ones((1, 8, 8, 4), np.float32), np.ones((1, 1, 4, 6), np.float32)
    once = measuring.count_operations(convolution, x, kernel)
    assert once == 2 * 8 * 8 * 4 * 6
    assert measuring.count_operations(values.differentiated(convolution), x, kernel) == 3 * once


def reference_lstm(x, h, c, weights, lengths, *fields):
    """`rnn.lstm`, which needs a GPU, by JAX's reference."""
    names = ("input_size", "hidden_size", "num_layers", "dropout", "bidirectional")
    fields = dict(zip(names, fields, strict=True))
    shapes = {name: value for name, value in fields.items() if name != "dropout"}
    return rnn.lstm_ref(x, h, c, *rnn.unpack_lstm_weights(weights, **shapes), seq_lengths=lengths, **fields)


@pytest.mark.parametrize("layer", renet.TINY)
@pytest.mark.parametrize("form", [form for form in renet.FORMS if form != "plain"])
def test_every_form_of_renet_computes_the_layer(form, layer):
    params, x = renet.example(*renet.TINY[layer])
    options = {"cudnn": {"lstm": reference_lstm}, "pallas": {"interpret": True}}.get(form, {})
    expected = renet.plain(params, x, jnp.float32)
    np.testing.assert_allclose(renet.FORMS[form](params, x, dtype=jnp.float32, **options), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", renet.DTYPES)
def test_the_kernel_of_renet_is_translated_for_a_gpu(dtype):
    """To Triton's language, at the full size. Nothing compiles it for a GPU here."""
    params, x = renet.example(*renet.LAYERS["nrenet"])
    traced = jax.jit(partial(renet.pallas, dtype=jnp.dtype(dtype))).trace(params, x)
    try:
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    except RuntimeError as error:
        if "No supported GPU devices found" not in str(error):
            raise
        pytest.skip("JAX 0.11 and 0.12 translate the kernel only where there is a GPU")
    assert "triton" in text


@pytest.mark.parametrize("entry", ["copy", "bfloat16", "float32 highest"])
def test_ceilings_are_measured(entry):
    figures = worker.answer({"part": "ceilings", "entry": entry, "tiny": True, "images": 1})
    assert [value > 0 for value in figures.values()] == [True]


def test_a_form_of_renet_is_measured():
    figures = worker.answer({"part": "renet", "entry": "nrenet float32 unroll 4", "tiny": True, "images": 1})
    assert figures["difference"] < 1e-6 and figures["both_seconds"] > 0
    assert renet.cells("", figures, {})[-1].endswith("(planned)")


def test_difference_names_the_array_that_differs_most():
    expected = {"a": np.ones(4, np.float32), "b": np.full(4, 100, np.float32), "n": np.arange(4)}
    assert values.difference(expected, expected)[0] == 0
    for name, changed, relative in (
        ("a", [1, 1, 1, 1.2], 0.1),
        ("b", [100, 100, 100, np.nan], np.inf),
        ("n", [0, 1, 2, 4], 0.25),
    ):
        found, place = values.difference(expected | {name: np.array(changed, expected[name].dtype)}, expected)
        assert found == pytest.approx(relative) and name in place


def test_a_context_and_the_values_of_an_operation_are_measured():
    figures = worker.answer({"part": "attention", "entry": "aspp float32", "tiny": True, "images": 1})
    assert figures["operations"] > 0 and figures["memory_bytes"] > 0
    assert len(attention.cells("aspp float32", figures, {"attention": {}})) == len(attention.COLUMNS) - 1
    figures = worker.answer({"part": "tests", "entry": "masks", "tiny": True, "images": 1})
    assert figures["values"] == 0 and values.cells("masks", figures, {}) == ["0.0e+00", None, "yes"]
    assert values.cells("masks", figures | {"values": 1.0}, {})[-1].startswith("no")


def test_a_training_step_is_measured(monkeypatch):
    def smallest(*arguments):
        config, classes, _ = created(*arguments)
        config.model.backbone.name = "none"  # compiles fastest
        return config, classes, (16, 16)

    created = steps._config
    monkeypatch.setattr(steps, "_config", smallest)
    figures = worker.answer({"part": "steps", "entry": "fcn float32", "tiny": True, "images": 1})
    assert figures["crop"] == (16, 16) and figures["operations"] > 0
    cells = steps.cells("fcn float32", figures, {"ceilings": {"float32": {"operations_per_second": 1e15}}})
    assert len(cells) == len(steps.COLUMNS) - 1 and cells[3].endswith("%")
