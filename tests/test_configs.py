"""The config files: each resolves, to a network of the right size, and has the settings of its paper."""

import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctxseg.configs import datasets, defaults, mcibi
from ctxseg.configs.tables import mcibi_frameworks, mcibi_fusion, mcibi_generalization
from ctxseg.data import instance_transforms, transforms
from ctxseg.errors import UserError
from ctxseg.models import create_model
from ctxseg.settings import reading
from ctxseg.training import optimizers
from ctxseg.training.state import create_state
from ctxseg.training.step import train_step

SYSTEMS = sorted(p.stem for p in (Path(__file__).parents[1] / "configs").glob("*.py"))
SYSTEMS = [s for s in SYSTEMS if s not in ("__init__", "datasets", "defaults")]
PAPER = {
    "fcn": "voc2012", "largefov": "pascal_person_part", "nrenet": "stanford_background", "hrenet": "voc2012",
    "attention": "pascal_person_part", "msci": "pascal_context", "zigzag": "voc2012", "mcibi": "ade20k",
    "pspnet": "ade20k", "deeplabv3": "cityscapes", "deeplabv3plus": "voc2012", "encoder_decoder": "voc2012",
    "ocrnet": "lip",
}  # fmt: skip


# {system: cells along each axis of a mask}.
DETECTORS = {"mask_rcnn": 28, "deformable_rcnn": 28, "deformable_faster_rcnn": 28, "fcis": 21}
DETECTORS |= {f"zigzag_{system}": cells for system, cells in DETECTORS.items() if system != "deformable_faster_rcnn"}

pytestmark = pytest.mark.usefixtures("plain_convolutions")


def test_one_config_per_system():
    assert SYSTEMS == sorted([*PAPER, *DETECTORS])


def config_of(system, dataset):
    return importlib.import_module(f"ctxseg.configs.{system}").get_config(dataset)


@pytest.mark.parametrize("system", PAPER)
def test_resolves(system):
    for dataset in (PAPER[system], "scenes"):
        config = config_of(system, dataset)
        assert config.system == system and config.data.name == dataset
        size = config.data.crop
        model = create_model(config.model, 21)
        images, regions = jnp.zeros((1, *size, 3)), jnp.zeros((1, *size), jnp.int32)
        output, variables = jax.eval_shape(
            lambda r, m=model, i=images, s=regions: m.init_with_output(r, i, s), jax.random.PRNGKey(0)
        )
        assert output.logits.shape[0] == 1 and output.logits.shape[3] == 21
        assert size[0] / 16 <= output.logits.shape[1] <= size[0]
        count = sum(x.size for x in jax.tree.leaves(variables["params"]))
        assert count < 2e6 if dataset == "scenes" else count > 5e5
        optimizers.create_optimizer(config.optimizer, config.train.steps, tuple(config.model.frozen))
        optimizers.frozen_mask(variables["params"], tuple(config.model.frozen))
        optimizers.rate_factors(variables["params"], optimizers.parse_rates(config.optimizer.rates))


@pytest.mark.parametrize("system", DETECTORS)
def test_detectors(system):
    """COCO's classes, and small networks for the small data sets. `:folder` is that of objects."""
    small = [("folder", 3)] if not system.startswith("zigzag") else []
    for dataset, classes in (("coco_instances", 80), ("scenes_instances", 8), *small):
        config = config_of(system, dataset)
        assert config.system == system
        assert config.data.name == {"folder": "folder_instances"}.get(dataset, dataset)
        model = create_model(config.model, classes)
        variables = jax.eval_shape(
            lambda r, m=model, c=config: m.init(r, *m.example(c.data.crop)), jax.random.PRNGKey(0)
        )
        found = jax.eval_shape(model.apply, variables, *model.example(config.data.crop))
        assert found.masks.shape[1:] == ((100 if classes == 80 else 30), *[DETECTORS[system]] * 2)
        count = sum(x.size for x in jax.tree.leaves(variables["params"]))
        assert count > 4e7 if classes == 80 else count < 1e7
        optimizers.frozen_mask(variables["params"], tuple(config.model.frozen))
        optimizers.rate_factors(variables["params"], optimizers.parse_rates(config.optimizer.rates))


def test_fcis_has_the_settings_of_its_release():
    """resnet_v1_101_coco_fcis_end2end_ohem.yaml: per image on 8 devices, whose gradients are added; flipped images are further images."""
    config = config_of("fcis", "coco_instances")
    optimizer, detector = config.optimizer, config.model.detector
    # w ← w − 0.0005·(Σ g + 0.0005·w) = w − 0.004·(mean of g + 0.0000625·w)
    assert (optimizer.learning_rate, optimizer.weight_decay, optimizer.rates) == (0.004, 6.25e-5, ("neck=3",))
    assert config.train.batch_size == 8 and config.train.steps == 8 * (2 * 118_287 // 8)
    assert optimizer.step_boundaries == (157_613,)
    assert (config.data.base_size, config.data.max_side, config.loss.mask) == ((600,), 1000, 10)
    assert not detector.border_anchors and detector.anchor_sizes == (64,)


def test_zigzagnet_changes_the_nms_of_fcis_on_coco_only():
    """On small data sets, detectors with and without ZigZagNet are compared."""
    for dataset, expected in (("coco_instances", 0.5), ("scenes_instances", 0.3)):
        assert create_model(config_of("zigzag_fcis", dataset).model, 8).nms == expected
    assert create_model(config_of("fcis", "scenes_instances").model, 8).nms == 0.3


@pytest.mark.parametrize("dataset", datasets.PROTOCOLS)
def test_every_protocol(dataset):
    objects = dataset.endswith("instances")
    config = config_of("mask_rcnn" if objects else "fcn", dataset)
    assert config.data.name == dataset and config.train.steps >= 700
    optimizers.create_optimizer(config.optimizer, config.train.steps)
    (instance_transforms if objects else transforms).create_augmentation(config.data)


def test_largefov_on_the_small_backbone_is_the_fcn():
    """Only its VGG-16 makes it DeepLab-LargeFOV, so the README's table has one row for both."""
    assert config_of("largefov", "scenes").to_dict() | {"system": "fcn"} == config_of("fcn", "scenes").to_dict()


def test_papers_settings():
    """A system uses its own paper's settings on any data set, and output stride 32 where its levels are upsampled."""
    for system in ("attention", "largefov"):
        config = config_of(system, "voc2012")
        assert (config.data.crop, config.data.scale_range, config.data.rotate) == ((321, 321), (1.0, 1.0), 0)
        optimizer = config.optimizer
        assert (config.train.batch_size, optimizer.learning_rate) == (30, 1e-3)
        assert (optimizer.schedule, optimizer.step_boundaries) == ("step", (2_000, 4_000))
        assert (optimizer.momentum, optimizer.weight_decay) == (0.9, 5e-4)
    assert config_of("attention", "coco_subset").model.scales.scales == (1.0, 0.75, 0.5)
    assert config_of("attention", "scenes").model.scales.scales == (1.0, 0.5)
    config = config_of("hrenet", "ade20k")
    assert (config.data.crop, config.data.brightness, config.train.batch_size) == ((400, 500), 0, 10)
    assert (config.optimizer.schedule, config.optimizer.step_boundaries) == ("step", (20_000,))
    for system, steps, batch in (("msci", 120_000, 12), ("zigzag", 120_000, 16)):
        config = config_of(system, "voc2012")
        assert (config.train.steps, config.train.batch_size) == (steps, batch)
        assert (config.model.backbone.output_stride, config.optimizer.learning_rate) == (32, 1e-3)
    for dataset, training, testing in (
        ("ade20k", (512,), (512,)),
        ("coco_stuff10k", (512,), (512,)),
        ("lip", (520, 520), (473, 473)),
        ("cityscapes", (), ()),
    ):
        config = config_of("mcibi", dataset)
        assert (config.data.base_size, config.eval.size) == (training, testing)
    config = config_of("mcibi", "ade20k")
    assert config.train.steps == 130 * 20_210 // 16 and config.optimizer.schedule == "poly"


@pytest.mark.parametrize("context", ["none", "msc"])
def test_only_the_final_classifier_layer_has_ten_times_the_rate(context):
    """Attention to Scale, §4: "0.01 for the final classifier layer", so not for its attention head or DeepLab-MSc's heads."""
    config = config_of("attention", "pascal_person_part")
    config.model.context.name = context
    model = create_model(config.model, 7)
    params = jax.eval_shape(lambda r: model.init(r, jnp.zeros((1, 32, 32, 3))), jax.random.PRNGKey(0))["params"]
    factors = optimizers.rate_factors(params, optimizers.parse_rates(config.optimizer.rates))
    by_name = {jax.tree_util.keystr(p, simple=True, separator="/"): f for p, f in jax.tree.leaves_with_path(factors)}
    assert {name for name, factor in by_name.items() if factor == 10} == {
        "classifier/scores/kernel",
        "classifier/scores/bias",
    }
    assert {factor for name, factor in by_name.items() if not name.startswith("classifier/scores")} == {1}


def row_model(table, name, dataset):
    """`config.model` of a table's row, as a dict."""
    (row,) = [row for row in table.rows if row.name == name]
    config = config_of(row.system, dataset)
    config.update_from_flattened_dict(row.overrides)
    return config.model.to_dict()


@pytest.mark.parametrize("dataset", ["ade20k", "scenes"])
def test_rows_without_the_memory_equal_their_own_configs(dataset):
    """Rows with the memory have the same backbone, context and auxiliary heads: they differ only by the memory."""
    table, generalization = (t.get_table(dataset) for t in (mcibi_frameworks, mcibi_generalization))
    for name, system in (("PSPNet", "pspnet"), ("DeepLabV3", "deeplabv3"), ("OCRNet", "ocrnet")):
        without_memory = config_of(system, dataset).model.to_dict()
        assert row_model(table, name, dataset) == without_memory
        with_memory = row_model(table, f"{name} + MCIBI", dataset)
        assert with_memory["memory"]["name"] == "mcibi"
        for section in ("backbone", "context", "auxiliary"):
            assert with_memory[section] == without_memory[section]
    assert row_model(generalization, "DeepLabV3", dataset) == config_of("deeplabv3", dataset).model.to_dict()
    fcn = row_model(table, "FCN", dataset)
    assert fcn["auxiliary"] == row_model(table, "FCN + MCIBI", dataset)["auxiliary"]
    assert fcn["auxiliary"]["levels"] == (() if dataset == "scenes" else ("res4",))
    assert (
        fcn == row_model(generalization, "FCN", dataset) == row_model(mcibi_fusion.get_table(dataset), "FCN", dataset)
    )


def test_parameters_of_the_fcn_that_mcibi_is_compared_with():
    """Counted by hand: 3×3 2048 → 512, 3×3 512 → 512, each with batch norm, and 1×1 to K."""
    config = config_of("mcibi", "ade20k")
    config.update_from_flattened_dict(mcibi.fcn("ade20k"))
    model = create_model(config.model, 150)
    shapes = jax.eval_shape(lambda r: model.init(r, jnp.zeros((1, 32, 32, 3))), jax.random.PRNGKey(0))["params"]
    count = {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in shapes.items()}
    conv = lambda size, i, o: size**2 * i * o + 2 * o  # noqa: E731
    assert count["context"] == conv(3, 2048, 512) + conv(3, 512, 512) and "memory" not in count
    assert count["classifier"] == 512 * 150 + 150
    assert count["auxiliary"] == conv(3, 1024, 512) + 512 * 150 + 150  # on res4, only in training


def test_eval_size_follows_base_size_until_it_is_set():
    """Setting data.base_size changes eval.size; setting eval.size does not change data.base_size."""
    config = config_of("fcn", "voc2012")
    config.data.base_size = (256,)
    assert config.eval.size == config.to_dict()["eval"]["size"] == (256,)
    config.eval.size = ()
    assert (config.data.base_size, config.eval.size) == ((256,), ())


def test_unknown_data_set():
    with pytest.raises(UserError, match="'voc2007'.*voc2012"):
        config_of("fcn", "voc2007")


def test_normal_kernels_after_the_backbone():
    """The H-ReNet paper's initial weights: all convolutions that are not pretrained, including VGG's conv6 and conv7."""
    config = defaults.get_config()
    config.model.backbone.update({"name": "vgg16", "width": 2, "conv7_kernel": 3})
    config.model.context.update({"name": "renet", "units": (3,)})
    config.model.classifier.hidden = 64
    model = create_model(config.model, 21)
    optimizer = optimizers.create_optimizer(config.optimizer, 10)
    default, normal = (create_state(model, optimizer, (16, 16), 0, std).params for std in (0.0, 0.1))
    assert normal["classifier"]["scores"]["kernel"].std() == pytest.approx(0.1, rel=0.1)
    assert (normal["classifier"]["hidden"]["conv"]["kernel"] != default["classifier"]["hidden"]["conv"]["kernel"]).all()
    for name in ("conv6", "conv7"):
        assert normal["backbone"][name]["conv"]["kernel"].std() == pytest.approx(0.1, rel=0.1)
        normal["backbone"][name]["conv"] = default["backbone"][name]["conv"]
    for name in ("backbone", "context"):  # recurrent kernels are not convolutions
        jax.tree.map(np.testing.assert_array_equal, normal[name], default[name])


def test_hrenet_is_row_d_of_its_table_4():
    """The whole network, which rows of tables reduce. conv1 and conv2 are frozen if there are pretrained weights."""
    config = config_of("hrenet", "voc2012")
    context = config.model.context
    assert (context.levels, context.entering, context.units) == (("pool4", "pool5", "conv7"), "batch", (120,))
    assert (config.model.kernel_std, config.train.steps) == (0.0, 40_000)
    assert config.model.frozen == ("backbone/conv1", "backbone/conv2")
    assert reading.unread(config)["model.frozen"] == "config.model.pretrained"
    assert (config.optimizer.learning_rate, config.optimizer.step_boundaries) == (1e-3, (20_000,))


@pytest.mark.parametrize("merge", ["none", "average"])
def test_frozen_layers_do_not_change(merge):
    """No gradient, weight decay or momentum reaches them, and their batch statistics stay the same."""
    config = defaults.get_config()
    config.model.backbone.width = 4
    config.model.frozen = ("backbone/stem", "backbone/res2")
    config.model.scales.merge = merge
    model = create_model(config.model, 3, axis_name="devices")
    optimizer = optimizers.create_optimizer(config.optimizer, 10, tuple(config.model.frozen))
    state = create_state(model, optimizer, (16, 16), 0)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (2, 16, 16, 3), np.uint8),
        "label": rng.integers(0, 3, (2, 16, 16), np.uint8),
    }

    @jax.jit
    def step(state, batch):
        on_one_device = jax.tree.map(lambda x: x[None], (state, batch))
        run = lambda s, b: train_step(s, b, model=model, optimizer=optimizer, config=config)  # noqa: E731
        return jax.tree.map(lambda x: x[0], jax.vmap(run, axis_name="devices")(*on_one_device)[0])

    new = step(step(state, batch), batch)
    momentum = optax.tree_utils.tree_get(new.opt_state, "trace")
    for (path, before), after, trace in zip(
        jax.tree_util.tree_flatten_with_path(state.params)[0],
        jax.tree.leaves(new.params),
        jax.tree.leaves(momentum),
        strict=True,
    ):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.startswith(config.model.frozen):
            np.testing.assert_array_equal(before, after, err_msg=name)
        elif name.endswith("kernel"):
            assert (before != after).any() and np.abs(trace).max() > 0, name
    frozen, free = (
        [jax.tree.map(np.asarray, s.batch_stats["backbone"][name]) for s in (state, new)] for name in ("stem", "res3_1")
    )
    assert jax.tree.all(jax.tree.map(np.array_equal, *frozen)) and not jax.tree.all(jax.tree.map(np.array_equal, *free))


def test_unknown_frozen_name():
    params = {"backbone": {"conv1_1": {"conv": {"kernel": np.zeros(1)}}}}
    with pytest.raises(UserError, match="config.model.frozen has 'backbone/conv8'.*backbone/conv1_1"):
        optimizers.frozen_mask(params, ("backbone/conv8",))
