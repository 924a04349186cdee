"""`--mode=export`: a trained segmenter as one file that runs without this package.

A zip of

- `model.jax`: the network, as `config.eval` tests it, serialised by `jax.export` for images of one size, in batches of any number:
  (weights, images uint8 `[b,H,W,3]`[, regions int32 `[b,H,W]`]) → (labels int32 `[b,H,W]`, probabilities float32 `[b,H,W,K]`);
- `weights.npz`: its weights, {name: array}, which are an argument and no constants of it;
- `classes.json`: names and colours of the classes, and what the arguments are;
- `run.py`: a script that labels a photograph and needs the archive, jax, flatbuffers, numpy and pillow. It resizes the photograph to that
  size, and says so if that changes its aspect;
- `images.py`: how that script reads an image file, see `data.images`;
- `superpixels.py`: how regions come from an image, of systems that take them (scikit-image).
"""

import contextlib
import inspect
import json
import os
import re
import tempfile
import zipfile
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from ctxseg import checkpoints, evaluate, inference, provenance, workdir
from ctxseg.data import images, superpixels, transforms
from ctxseg.errors import UserError

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
SMALLEST, LARGEST = 32, 8192  # pixels along either axis; the coarsest maps have a position for 32

RUN = '''\
"""Labels a photograph with an exported segmenter. Needs jax, flatbuffers, numpy and pillow, and scikit-image if it takes super-pixels.

    python run.py SEGMENTER.zip PHOTO LABELS.png
"""

import io
import json
import sys
import zipfile
from functools import partial

import jax
import numpy as np
from jax import export
from PIL import Image


def load(path):
    """Returns (images[, regions]) → (labels, probabilities), and what classes.json says of them."""
    try:
        with zipfile.ZipFile(path) as archive:
            about = json.loads(archive.read("classes.json"))
            exported = export.deserialize(bytearray(archive.read("model.jax")))
            with np.load(io.BytesIO(archive.read("weights.npz"))) as weights:
                weights = jax.device_put(dict(weights))
    except Exception as e:
        sys.exit(f"error: {path} cannot be read as an exported segmenter: {e}")
    return partial(jax.jit(exported.call), weights), about


def main(path, photo, output):
    segment, about = load(path)
    sys.path.insert(0, path)  # images.py and superpixels.py are in the archive
    from images import read

    try:
        image = Image.fromarray(read(photo)[0])
    except Exception as e:
        sys.exit(f"error: {photo} cannot be read as an image: {e}")
    height, width = about["size"]
    if abs(image.height * width / (image.width * height) - 1) > 0.02:
        factor = (height * width / (image.height * image.width)) ** 0.5
        better = f"{round(image.height * factor)},{round(image.width * factor)}"
        note = f"the photograph is squashed to {height}×{width}; an archive of --size={better} keeps its aspect"
        print(f"note: {note}", file=sys.stderr)
    inputs = [np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))]
    if about["superpixels"]:
        from superpixels import compute, stack

        inputs.append(stack([compute(inputs[0], view) for view in about["superpixels"]]))
    labels, _ = segment(*(array[None] for array in inputs))
    result = Image.fromarray(np.asarray(labels[0], np.uint8))
    result.putpalette(sum(about["palette"], []))
    result.resize(image.size, Image.Resampling.NEAREST).save(output)
    for i, count in enumerate(np.bincount(np.ravel(labels), minlength=len(about["class_names"]))):
        if count:
            print(f"{about['class_names'][i]:24} {count / labels.size:7.2%}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
'''


def export(
    config, folder, path=None, size: tuple[int, int] | None = None, overwrite: bool = False, checkpoint=None
) -> Path:
    """Writes a checkpoint of the run in `folder` as an archive (see the top of this file), whole or not at all.

    Args:
        config: of the run; `data.superpixels` above 0 makes regions an argument.
        folder: of the run.
        path: of the archive; default `FOLDER/export.zip`.
        size: height and width of the images that it will take, and resize itself to their base size, `config.eval.size`; default
            `config.data.crop`.
        overwrite: whether `path` may exist.
        checkpoint: see `checkpoints.restore_run`.

    Returns:
        The archive's path.

    Raises:
        UserError: no run or checkpoint there, or one of another model; a size that cannot be; `path` exists, or cannot be written.
    """
    workdir.check_same(os.path.join(folder, "config.json"), config)
    path = Path(path or os.path.join(folder, "export.zip"))
    if path.is_dir() or (path.exists() and not overwrite):
        raise UserError(f"--output={path} exists: choose another, or give --overwrite to replace a file")
    size = tuple(config.data.crop) if size is None else tuple(size)
    if not all(SMALLEST <= n <= LARGEST for n in size):
        raise UserError(f"--size={size[0]},{size[1]} cannot be: height and width are {SMALLEST} to {LARGEST} each")
    metadata = provenance.metadata(config, folder)
    model, state = checkpoints.restore_run(config, folder, checkpoint)
    weights = flax.traverse_util.flatten_dict(state.variables, sep="/")
    protocol = inference.create_protocol(config.eval, metadata["class_names"])
    views = evaluate.views(config)
    exported = lower(model, weights, size, protocol, len(views))
    about = {
        "system": config.system,
        "data": config.data.name,
        "step": int(state.step),
        "protocol": str(protocol),
        "class_names": list(metadata["class_names"]),
        "palette": [list(c) for c in metadata["palette"]],
        "labels": "a label is a position in class_names and in palette (RGB), from 0",
        "size": list(size),
        "superpixels": [list(view) for view in views],
    } | _signature(exported)
    _write(path, exported, weights, about)
    return path


def parse_size(text: str | None) -> tuple[int, int] | None:
    """`--size=HEIGHT,WIDTH` → (height, width); None → None. UserError if `text` is anything but two whole numbers."""
    if text is not None and not re.fullmatch(r"\d+,\d+", text):
        raise UserError(f"--size={text} cannot be: it wants a height and a width, --size=360,480")
    return text and tuple(int(n) for n in text.split(","))


def lower(model, weights: dict, size: tuple[int, int], protocol, views: int = 0) -> jax_export.Exported:
    """The segmenter for all `PLATFORMS` and any batch size, as a function of its weights.

    Args:
        model: a segmenter.
        weights: {'params/…': array}, its flattened variables; only shapes and dtypes are read.
        size: height and width of the images.
        protocol: an `inference.Protocol`: scales, mirror images and windows.
        views: how many views of super-pixels it takes, see `superpixels.views`.

    Returns:
        (weights, images uint8 `[b,H,W,3]`, and, of `views`, regions int32 `[b,H,W]` or `[b,H,W,views]`) → (labels int32 `[b,H,W]`,
        probabilities float32 `[b,H,W,K]`).
    """

    def segment(weights, images, regions=None):
        variables = flax.traverse_util.unflatten_dict(weights, sep="/")
        probabilities = inference.predict_probabilities(model, variables, images, regions, None, protocol)
        return probabilities.argmax(-1).astype(jnp.int32), probabilities

    (b,) = jax_export.symbolic_shape("b")
    arguments = [
        {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in weights.items()},
        jax.ShapeDtypeStruct((b, *size, 3), jnp.uint8),
    ]
    if views:
        arguments.append(jax.ShapeDtypeStruct((b, *size) if views == 1 else (b, *size, views), jnp.int32))
    with _without_folders():
        return jax_export.export(jax.jit(segment), platforms=PLATFORMS)(*arguments)


@contextlib.contextmanager
def _without_folders():
    """Source files, which a program names beside each operation, go without the folder that they are in on this machine."""
    name = "jax_hlo_source_file_canonicalization_regex"
    before = getattr(jax.config, name)
    jax.config.update(name, r".*[/\\]")
    try:
        yield
    finally:
        jax.config.update(name, before)


def _signature(exported):
    """What classes.json says of the artifact itself."""
    (_, *inputs), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
    meanings = {"images": "RGB, 0 to 255", "regions": "ids of super-pixels, from 0: superpixels.py"}
    arguments = [{"name": "weights", "meaning": "the arrays of weights.npz, {name: array}"}]
    arguments += [
        {"name": name, "meaning": meaning} | _array(aval)
        for (name, meaning), aval in zip(meanings.items(), inputs, strict=False)
    ]
    names = ("labels", "probabilities")
    return {
        "arguments": arguments,
        "results": [{"name": name} | _array(aval) for name, aval in zip(names, exported.out_avals, strict=True)],
        "platforms": list(exported.platforms),
        "jax": jax.__version__,
        "calling_convention_version": exported.calling_convention_version,
    }


def _array(aval):
    return {"dtype": str(aval.dtype), "shape": [n if isinstance(n, int) else str(n) for n in aval.shape]}


def _write(path, exported, weights, about):
    functions = (
        transforms.base_size_of, transforms.rounded_ratio, superpixels.slic, superpixels.compute, superpixels.stack
    )  # fmt: skip
    imports = (
        "from collections.abc import Sequence\n\nimport numpy as np\nfrom skimage import segmentation, transform\n"
    )
    source = "\n\n".join([imports, *map(inspect.getsource, functions)])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as folder:
            incomplete = os.path.join(folder, path.name)
            with zipfile.ZipFile(incomplete, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("model.jax", exported.serialize())
                with archive.open(zipfile.ZipInfo("weights.npz"), "w", force_zip64=True) as f:
                    np.savez(f, **jax.device_get(weights))
                archive.writestr("classes.json", json.dumps(about, indent=2) + "\n")
                archive.writestr("run.py", RUN)
                archive.writestr("images.py", inspect.getsource(images))
                if about["superpixels"]:
                    archive.writestr("superpixels.py", source)
            os.replace(incomplete, path)
    except OSError as e:
        raise UserError(f"--output={path} cannot be written: {e.strerror}") from e
