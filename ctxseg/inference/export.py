"""`--mode=export`: a trained segmenter as one file that runs without this package.

The file is a zip archive of

- `model.jax`: the network with the protocol of `config.eval`, serialised by `jax.export` for any batch size and images of any size, padded
  to multiples of 32, see `lower`. `classes.json` lists its arguments. It gives the same labels as `--mode=predict`;
- `weights.npz`: the weights, {name: array}. They are an argument of the network, not constants in it;
- `classes.json`: names and colours of the classes, and descriptions of the arguments;
- `run.py`: `ctxseg/inference/exported.py`, a script that labels a photograph and needs the archive, jax, flatbuffers, numpy and pillow;
- `images.py`, `sizes.py`: the script's code to read and resize images;
- `superpixels.py`: code to compute super-pixels of an image, if the system uses them (needs scikit-image);
- `crf.py`, `lattice.py`: code to refine probabilities, if the protocol has a CRF.
"""

import contextlib
import dataclasses
import inspect
import json
import os
import tempfile
import zipfile

import flax
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax import export as jax_export

from ctxseg.data import images, sizes, superpixels
from ctxseg.errors import UserError
from ctxseg.files import is_remote, make_folder, move
from ctxseg.inference import crf, lattice
from ctxseg.inference import exported as exported_script
from ctxseg.inference.probabilities import predict_probabilities
from ctxseg.inference.protocol import create_protocol, superpixel_views
from ctxseg.models import extent
from ctxseg.runs import checkpoints, provenance, workdir

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
MEANINGS = {
    "weights": "the arrays of weights.npz, {name: array}",
    "images": "RGB, 0 to 255, in the upper left corner; the rest is padding",
    "sizes": "height and width of each image without padding",
    "regions": "ids of super-pixels, from 0, and -1 in the padding: see superpixels.py",
    "canvas": "only its shape is used: it has room for each image with its shorter side resized to base_size",
}
# The imports of superpixels.py.
SUPERPIXELS = """\
from collections.abc import Sequence

import numpy as np
from skimage import segmentation, transform

from sizes import base_size_of
"""


def export(config, folder, path=None, overwrite: bool = False, checkpoint=None) -> epath.Path:
    """Writes a checkpoint of the run in `folder` as an archive (see the top of this file), atomically.

    Args:
        config: config of the run; with `data.superpixels` above 0, the network has the argument `regions`.
        folder: folder of the run.
        path: path of the archive; default `FOLDER/export.zip`.
        overwrite: whether an existing file at `path` is replaced.
        checkpoint: see `checkpoints.restore_run`.

    Returns:
        The archive's path.

    Raises:
        UserError: there is no run or checkpoint; the checkpoint is of another model; `path` exists, or cannot be written.
    """
    workdir.check_same(os.path.join(folder, "config.json"), config)
    path = epath.Path(path or os.path.join(folder, "export.zip"))
    if path.is_dir() or (path.exists() and not overwrite):
        raise UserError(f"--output={path} exists: choose another, or give --overwrite to replace a file")
    if config.model.detector.name != "none":
        raise UserError(
            "--mode=export: a detector cannot be exported yet; ctxseg.load and --mode=predict find objects with it"
        )
    metadata = provenance.metadata(config, folder)
    model, state = checkpoints.restore_run(config, folder, checkpoint)
    weights = flax.traverse_util.flatten_dict(state.variables, sep="/")
    protocol = create_protocol(config.eval, metadata["class_names"])
    views = superpixel_views(config)
    exported, names = lower(model, weights, protocol, len(views))
    about = {
        "system": config.system,
        "data": config.data.name,
        "step": int(state.step),
        "protocol": str(protocol),
        "class_names": list(metadata["class_names"]),
        "palette": [list(c) for c in metadata["palette"]],
        "labels": "a label is an index into class_names and palette (RGB), from 0",
        "base_size": list(protocol.size),
        "pixels": model.pixels.effective(dataclasses.asdict(model.pixels)),
        "max_pixels": config.eval.max_pixels,
        "longest": extent.LONGEST,
        "superpixels": [list(view) for view in views],
        "crf": protocol.crf,
    } | _signature(exported, names)
    _write(path, exported, weights, about)
    return path


def lower(model, weights: dict, protocol, views: int = 0) -> tuple[jax_export.Exported, tuple[str, ...]]:
    """The segmenter for all `PLATFORMS`, any batch size and any size of images, as a function of its weights.

    Args:
        model: a segmenter.
        weights: {'params/…': array}, its flattened variables; only shapes and dtypes are read.
        protocol: a `Protocol`: scales, mirror images and windows. Its CRF is not exported.
        views: number of super-pixel views, see `superpixels.views`.

    Returns:
        The function, and the names of its arguments. It returns probabilities, float32 `[b,32·h,32·w,K]`. Its arguments are the weights;
        the images, uint8 `[b,32·h,32·w,3]`; the sizes, int32 `[b,2]`, their heights and widths without padding; with `views`, the regions,
        int32 `[b,32·h,32·w]` or `[b,32·h,32·w,views]`; and, if the base size is a shorter side alone, the canvas, bool `[32·y,32·x]`, whose
        shape has room for each image at its base size.

    Raises:
        UserError: the network cannot be traced with symbolic shapes.
    """
    protocol = dataclasses.replace(protocol, crf=None)

    def segment(weights, images, sizes, regions=None, canvas=None):
        variables = flax.traverse_util.unflatten_dict(weights, sep="/")
        canvas = None if canvas is None else canvas.shape
        return predict_probabilities(model, variables, images, regions, sizes, protocol, canvas)

    b, h, w, y, x = jax_export.symbolic_shape("b, 32*h, 32*w, 32*y, 32*x")
    arguments = {
        "weights": {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in weights.items()},
        "images": jax.ShapeDtypeStruct((b, h, w, 3), jnp.uint8),
        "sizes": jax.ShapeDtypeStruct((b, 2), jnp.int32),
    }
    if views:
        arguments["regions"] = jax.ShapeDtypeStruct((b, h, w) if views == 1 else (b, h, w, views), jnp.int32)
    if len(protocol.size) == 1:
        arguments["canvas"] = jax.ShapeDtypeStruct((y, x), jnp.bool_)

    def positional(*values):
        return segment(**dict(zip(arguments, values, strict=True)))

    with _without_folders():
        try:
            # `keep_unused`, because only the shape of the canvas is used.
            function = jax.jit(positional, keep_unused=True)
            return jax_export.export(function, platforms=PLATFORMS)(*arguments.values()), tuple(arguments)
        except (jax.errors.InconclusiveDimensionOperation, jax.errors.ConcretizationTypeError) as e:
            reason = str(e).partition(".\n")[0].partition("\n")[0]
            raise UserError(
                f"this network cannot be exported, because it computes with the size of its maps: {reason}"
            ) from e


@contextlib.contextmanager
def _without_folders():
    """Removes folders of this machine from the source locations that an exported program records for each operation."""
    name = "jax_hlo_source_file_canonicalization_regex"
    previous = getattr(jax.config, name)
    jax.config.update(name, r".*[/\\]")
    try:
        yield
    finally:
        jax.config.update(name, previous)


def _signature(exported, names):
    """The entries of classes.json that describe the exported function; `names` are the names of its arguments."""
    values, _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
    arguments = [
        {"name": name, "meaning": MEANINGS[name]} | ({} if name == "weights" else _array(value))
        for name, value in zip(names, values, strict=True)
    ]
    return {
        "arguments": arguments,
        "results": [{"name": "probabilities"} | _array(exported.out_avals[0])],
        "platforms": list(exported.platforms),
        "jax": jax.__version__,
        "calling_convention_version": exported.calling_convention_version,
    }


def _array(aval):
    return {"dtype": str(aval.dtype), "shape": [n if isinstance(n, int) else str(n) for n in aval.shape]}


def _write(path, exported, weights, about):
    sources = {"run.py": exported_script, "images.py": images, "sizes.py": sizes}
    sources |= {"crf.py": crf, "lattice.py": lattice} if about["crf"] else {}
    # In the archive, modules are beside each other.
    sources = {
        name: inspect.getsource(module).replace("from ctxseg.inference.", "from ") for name, module in sources.items()
    }
    if about["superpixels"]:
        functions = (superpixels.slic, superpixels.compute, superpixels.stack)
        sources["superpixels.py"] = "\n\n".join([SUPERPIXELS, *map(inspect.getsource, functions)])
    try:
        make_folder(path.parent)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=None if is_remote(path) else path.parent) as folder:
            incomplete = os.path.join(folder, path.name)
            with zipfile.ZipFile(incomplete, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("model.jax", exported.serialize())
                with archive.open(zipfile.ZipInfo("weights.npz"), "w", force_zip64=True) as f:
                    np.savez(f, **jax.device_get(weights))
                archive.writestr("classes.json", json.dumps(about, indent=2) + "\n")
                for name, source in sources.items():
                    archive.writestr(name, source)
            move(incomplete, path)
    except OSError as e:
        raise UserError(f"--output={path} cannot be written: {e.strerror}") from e
