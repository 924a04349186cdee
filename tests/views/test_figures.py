"""Figures show the right numbers and colours, and a run gets the pictures that fit its network."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ctxseg import files
from ctxseg.configs import defaults
from ctxseg.errors import UserError
from ctxseg.models import create_model
from ctxseg.models.context import renet
from ctxseg.models.context.msci import adjacency
from ctxseg.models.resizing import resize
from ctxseg.models.scales import chosen_scale
from ctxseg.runs import checkpoints
from ctxseg.training import optimizers
from ctxseg.views import figures, pictures
from tests.drawn import drawn_state

PALETTE = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
NAMES = ["sky", "tree", "road"]


def rendered(figure):
    """The figure as an array, which must have more than two colours."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=40)
    picture = np.asarray(Image.open(buffer).convert("RGB"))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 2
    return picture


def image_of(axes):
    """The array of the image in axes."""
    return np.asarray(axes.images[0].get_array())


@pytest.fixture
def sample():
    rng = np.random.default_rng(0)
    label = np.zeros((8, 12), np.uint8)
    label[4:] = 2
    label[0, 0] = 255
    return rng.integers(0, 256, (8, 12, 3), dtype=np.uint8), label, np.ones((8, 12), np.int32)


def test_prediction_grid_has_a_column_for_each_network(sample):
    image, label, prediction = sample
    rows = [(image, label, prediction, prediction * 0)] * 2
    grid = figures.prediction_grid(rows, PALETTE, width=12, gap=2)
    assert grid.shape == (2 * 8 + 2, 4 * 12 + 3 * 2, 3)
    assert (grid[:8, 28:40] == PALETTE[1]).all() and (grid[:8, 42:] == PALETTE[0]).all()
    headed = figures.prediction_grid(rows, PALETTE, width=12, gap=2, headings=("a", "b", "c", "quite a long name"))
    np.testing.assert_array_equal(headed[-grid.shape[0] :], grid)


def test_attention_weights_are_drawn_from_dark_to_light(sample):
    weights = np.zeros((8, 12, 2))
    weights[..., 1] = 1
    figure = figures.attention_weights([(*sample, weights)], (1.0, 0.5), PALETTE, NAMES)
    rendered(figure)
    panels = figure.axes
    assert [a.get_title() for a in panels[3:5]] == ["weight of scale 1", "weight of scale 0.5"]
    np.testing.assert_array_equal(image_of(panels[2]), np.broadcast_to(PALETTE[1], (8, 12, 3)))
    assert (image_of(panels[4]) - image_of(panels[3])).sum(-1).min() > 1
    # The legend has only the classes in the samples, without ignored pixels.
    assert [t.get_text() for t in figure.legends[0].get_texts()] == NAMES


def test_overlay_blends_colour_and_grey():
    image = np.zeros((1, 2, 3), np.uint8)
    image[0, 1] = 255
    colours = np.full((1, 2, 3), [0.0, 0.5, 1.0])
    np.testing.assert_allclose(figures.overlay(image, colours), [[[0, 0.35, 0.7], [0.3, 0.65, 1.0]]])


def test_scale_choice_has_a_colour_for_each_scale(sample):
    index = np.zeros((8, 12), np.int32)
    index[:, :3] = 1
    figure = figures.scale_choice([(*sample, index)], (1.0, 0.5), PALETTE, NAMES)
    rendered(figure)
    panel = figure.axes[3]
    handles = panel.get_legend().get_patches()
    assert [t.get_text() for t in panel.get_legend().get_texts()] == ["scale 1: 75%", "scale 0.5: 25%"]
    for i, handle in enumerate(handles):
        colours = np.broadcast_to(handle.get_facecolor()[:3], (8, 12, 3))
        np.testing.assert_allclose(image_of(panel)[index == i], figures.overlay(sample[0], colours)[index == i])


def test_scale_choice_is_the_scale_of_the_winning_class():
    rng = np.random.default_rng(1)
    fine, coarse = rng.normal(size=(4, 6, 3)), rng.normal(size=(2, 3, 3))
    stacked = np.stack([np.asarray(resize(jnp.asarray(x)[None], (4, 6))[0]) for x in (coarse, fine)])
    expected = np.zeros((4, 6), int)
    for y, x in np.ndindex(4, 6):
        winner = stacked[:, y, x].max(0).argmax()
        expected[y, x] = stacked[:, y, x, winner].argmax()
    assert 0 < expected.mean() < 1
    np.testing.assert_array_equal(chosen_scale(jnp.asarray(stacked.transpose(1, 2, 0, 3))[None])[0], expected)


def test_class_distribution_shows_the_main_classes(sample):
    probabilities = np.full((8, 12, 3), [0.2, 0.1, 0.7])
    figure = figures.class_distribution([(*sample, probabilities)], PALETTE, NAMES, count=2)
    rendered(figure)
    assert [a.get_title() for a in figure.axes[3:6]] == ["most probable in W", "road", "sky"]
    np.testing.assert_array_equal(image_of(figure.axes[3]), np.broadcast_to(PALETTE[2], (8, 12, 3)))


def test_region_graph_equals_that_of_the_network():
    regions = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 2, 3], [-1, 2, 2, 3]], np.int32)
    touch = np.asarray(adjacency(jnp.asarray(regions)[None], 6)[0])
    edges, points = figures.region_graph(regions, touch)
    assert edges == [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)]
    assert points == {0: (0.5, 0.5), 1: (2.5, 0.5), 2: (1.2, 2.4), 3: (3.0, 2.5)}
    figure = figures.superpixels([(np.full((4, 4, 3), 90, np.uint8), regions, touch)])
    rendered(figure)
    left, right = figure.axes
    assert (left.get_title(), right.get_title()) == ("4 super-pixels", "5 adjacent pairs")
    segments = [tuple(map(tuple, s)) for s in right.collections[0].get_segments()]
    assert segments == [(points[i], points[j]) for i, j in edges]
    # A yellow line between regions 0 and 1, and none inside them.
    boundary = (image_of(left) == (255, 230, 0)).all(-1)
    assert boundary[:200, 250:262].any(1).all() and not boundary[20:200, 20:230].any()


def test_principal_colours_follow_the_first_components():
    rng = np.random.default_rng(2)
    first, second = rng.choice([-1.0, 1.0], (2, 6, 6))
    x = 5 + first[..., None] * [3, 0, 0, 0] + second[..., None] * [0, 0, 1, 0]
    colours, share = figures.principal_colours(x)
    assert colours.min() >= 0 and colours.max() <= 1 and share == pytest.approx(1)
    # Channels of variance 9 and 1: red has the full range, green about a third of it, and blue is constant.
    for channel, part in ((0, first), (1, second)):
        assert abs(np.corrcoef(colours[..., channel].ravel(), part.ravel())[0, 1]) > 0.9
    assert np.ptp(colours[..., 0]) > 2 * np.ptp(colours[..., 1]) > 0 and np.allclose(colours[..., 2], 0.5)
    grey, share = figures.principal_colours(np.ones((2, 3, 2)))
    assert (grey == 0.5).all() and grey.shape == (2, 3, 3) and share == 0


def test_confusion_matrix_is_in_percent_of_the_truth():
    figure = figures.confusion_matrix([[3, 1, 0], [0, 0, 0], [1, 1, 198]], NAMES)
    rendered(figure)
    axes = figure.axes[0]
    np.testing.assert_allclose(np.ma.filled(image_of(axes), np.nan)[[0, 2]], [[75, 25, 0], [0.5, 0.5, 99]])
    texts = {t.get_position(): t.get_text() for t in axes.texts}
    assert texts == {(0, 0): "75", (1, 0): "25", (0, 2): "0", (1, 2): "0", (2, 2): "99"}  # (column, row)
    assert [t.get_text() for t in axes.get_yticklabels()] == NAMES


@pytest.mark.parametrize("classes", [11, 60])
def test_confusion_matrix_names_do_not_overlap(classes):
    figure = figures.confusion_matrix(np.eye(classes), [f"class {k} of them" for k in range(classes)])
    rendered(figure)
    boxes = [t.get_window_extent() for t in figure.axes[0].get_yticklabels()]
    assert all(below.y1 <= above.y0 + 1 for above, below in zip(boxes, boxes[1:], strict=False))


def test_memory_shows_cosines_and_pixels_in_class_colours():
    bank, seen = np.array([[1.0, 0], [1, 1], [5, 5]]), np.array([True, True, False])
    similarity = figures.cosine_similarity(bank, seen)
    np.testing.assert_allclose(similarity, [[1, 0.5**0.5, np.nan], [0.5**0.5, 1, np.nan], [np.nan] * 3])
    points, label = np.array([[0.0, 1], [2, 3]]), np.array([2, 0])
    figure = figures.memory({"b": similarity}, dict.fromkeys("ab", (points, label, "")), PALETTE, NAMES)
    rendered(figure)
    matrix, first, second = figure.axes[:3]
    assert [t.get_text() for t in matrix.texts] == ["1.00", "0.71", "0.71", "1.00"]
    for axes in (first, second):
        np.testing.assert_array_equal(axes.collections[0].get_offsets(), points)
        np.testing.assert_allclose(axes.collections[0].get_facecolor()[:, :3] * 255, [PALETTE[2], PALETTE[0]])


def test_sample_pixels_takes_equally_many_of_each_class():
    rng = np.random.default_rng(3)
    source = [{"label": rng.choice([0, 1, 255], (20, 10), p=[0.8, 0.1, 0.1]).astype(np.uint8)} for _ in range(3)]
    image, y, x, label = pictures.sample_pixels(source, 3)
    assert np.bincount(label).tolist() == [50, 50] and set(image) == {0, 1, 2}
    assert all(source[i]["label"][r, c] == k for i, r, c, k in zip(image, y, x, label, strict=True))
    assert len(set(zip(image, y, x, strict=True))) == len(label)
    np.testing.assert_array_equal(pictures.sample_pixels(source, 3)[1], y)


def intermediates(context, scales=None, merge="average"):
    """The collection `seen` of a small network with `context`, with random values, without compiling it."""
    config = defaults.get_config()
    config.model.backbone.width = 4
    config.model.context.update(context)
    if scales:
        config.model.scales.update({"merge": merge, "scales": scales})
    model = create_model(config.model, 3)
    image = jnp.zeros((32, 32, 3), jnp.uint8)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), image[None], jnp.zeros((1, 32, 32), jnp.int32)))
    regions = jnp.zeros((32, 32), jnp.int32) if context["name"] == "msci" else None
    _, seen, _ = jax.eval_shape(pictures._forward_function(model, ()), variables, image, regions)
    return jax.tree.map(lambda x: np.random.default_rng(0).normal(size=x.shape), seen)


def test_pictures_use_the_base_size():
    """The shorter side is resized to 64 pixels, and labels have the size of the image, as in an evaluation."""
    config = defaults.get_config()
    config.model.backbone.width = 4
    model = create_model(config.model, 3)
    image = jnp.zeros((32, 48, 3), jnp.uint8)
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), image[None]))
    output, _, labels = jax.eval_shape(
        pictures._forward_function(model, (64,)), variables, image, jnp.zeros((32, 48), jnp.int32)
    )
    assert output.logits.shape == (1, 8, 12, 3) and labels.shape == (32, 48)


def test_sweeps_of_renet(sample):
    seen = intermediates({"name": "renet", "units": (2, 3), "patch": (2, 2)}, scales=(0.5, 1.0))
    rows = pictures.seen_rows(seen, 1, 2)
    assert list(rows) == ["horizontal 1", "horizontal 2", "vertical 1", "vertical 2"]
    ends = ["from the left", "from the left, one unit", "from the right", "from the right, one unit"]
    assert sorted(rows["horizontal 2"]) == ends
    np.testing.assert_array_equal(
        rows["horizontal 2"]["from the right"], seen["context"]["horizontal 2"][1]["from the right"][0]
    )
    rendered(figures.feature_maps(sample[0], rows))


def test_the_unit_of_a_sweep_that_varies_most():
    x = np.random.default_rng(0).normal(size=(1, 4, 5, 6)) * [1, 3, 2, 1, 2, 9]
    maps = renet.sweeps(jnp.asarray(x), ("a", "b"))
    assert list(maps) == ["a", "a, one unit", "b", "b, one unit"]
    np.testing.assert_allclose(maps["a"], x[..., :3], rtol=1e-6)
    np.testing.assert_allclose(maps["a, one unit"], x[..., 1], rtol=1e-6)
    np.testing.assert_allclose(maps["b, one unit"], x[..., 5], rtol=1e-6)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_region_contexts_of_zigzag(stages):
    seen = intermediates({"name": "zigzag", "channels": 4, "stages": stages}, scales=(1.0, 0.5))
    rows = pictures.seen_rows(seen, 0, 2)
    down, up = {"level 4", "level 3", "level 2"}, {"level 1", "level 2", "level 3"}
    # Only level 1 of the last bottom-up pass is read, and it sends nothing.
    expected = {f"stage{t}, top down": down for t in range(1, stages + 1)}
    expected |= {f"stage{t}, bottom up": up for t in range(1, stages)}
    assert {name: set(maps) for name, maps in rows.items()} == expected
    # Level 1 has stride 4, the other levels 8.
    sizes = {level: x.shape[0] for maps in rows.values() for level, x in maps.items()}
    assert sizes == {level: 8 if level == "level 1" else 4 for maps in expected.values() for level in maps}


def test_seen_of_msci_and_scales():
    seen = intermediates({"name": "msci", "channels": 4, "regions": 5})
    (maps,) = seen["context"]["super-pixels"]
    assert maps["adjacency"].shape == (1, 5, 5)
    assert not intermediates({"name": "msci", "channels": 4, "region_shape": "grid", "regions": 4})
    weights = intermediates({"name": "none"}, (1.0, 0.5), "attention")["scales"][0]["weights"]
    chosen = intermediates({"name": "none"}, (1.0, 0.5), "max")["scales"][0]["chosen"]
    assert weights.shape == (1, 4, 4, 2) and chosen.shape == (1, 4, 4)


@pytest.fixture(scope="module")
def run(street, tmp_path_factory):
    """The folder and config of a small untrained network with MCIBI's memory and a hand-made evaluation."""
    folder = tmp_path_factory.mktemp("run")
    config = defaults.get_config()
    config.data.update({"name": "camvid", "manual_dir": str(street), "crop": (32, 32)})
    config.data.data_dir = str(tmp_path_factory.mktemp("prepared"))
    config.model.backbone.width = 4
    config.model.memory.update({"name": "mcibi", "channels": 4})
    model = create_model(config.model, 11)
    optimizer = optimizers.create_optimizer(config.optimizer, config.train.steps, ())
    state = drawn_state(model, optimizer, (32, 32))
    with checkpoints.Checkpoints(str(folder / "checkpoints")) as saved:
        saved.save(1, state, {})
    files.write_json(folder / "results.json", {"confusion": np.eye(11, dtype=int).tolist()})
    return folder, config


def test_pictures_of_a_run(run, monkeypatch):
    monkeypatch.setattr(pictures, "TSNE_PIXELS", 5)
    folder, config = run
    written = pictures.pictures([str(folder)], [config], (2, 0))
    assert [p.name for p in written] == ["predictions.png", "confusion.png", "distributions.png", "memory.png"]
    assert {p.parent for p in written} == {folder / "pictures"}
    for path in written:
        with Image.open(path) as picture:
            picture.load()
            assert len(path.read_bytes()) <= pictures.MAX_BYTES and min(picture.size) > 100


def test_errors_of_pictures(run, tmp_path):
    folder, config = run
    other = defaults.get_config()
    with pytest.raises(UserError, match=f"{tmp_path} .*on scenes, .*{folder} on camvid.*same data"):
        pictures.pictures([str(folder), str(tmp_path)], [config, other])
    with pytest.raises(UserError, match="--images has 3.*val of camvid.*0 to 2"):
        pictures.pictures([str(folder)], [config], (0, 3))
    with pytest.raises(UserError, match="--images is empty.*0,1,2"):
        pictures.pictures([str(folder)], [config], ())
    with pytest.raises(UserError, match="results.json is missing.*--mode=evaluate"):
        pictures.pictures([str(tmp_path)], [config])
    files.write_json(tmp_path / "results.json", {"mIoU": 0.5})
    with pytest.raises(UserError, match="results.json .*confusion matrix.*--mode=evaluate"):
        pictures.pictures([str(tmp_path)], [config])
    files.write_json(tmp_path / "results.json", {"confusion": np.eye(11, dtype=int).tolist()})
    with pytest.raises(UserError, match="has no checkpoint.*--mode=train"):
        pictures.pictures([str(tmp_path)], [config])
