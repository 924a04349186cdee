"""The losses of tiny detectors and their gradients on forced host devices, run by `tests/models/detectors/test_mask_rcnn.py`.

python -m tests.detector_on_devices FOLDER writes FOLDER/DETECTOR_COUNT.npz, for 1, 2 and 4 devices.
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"

    import jax
    import numpy as np

    from ctxseg import devices
    from ctxseg.models import convolution, layers
    from ctxseg.models.detectors.fcis import FCIS
    from tests.models.detectors import example

    assert jax.local_device_count() == 4
    layers.convolve = convolution._plain  # compiles faster
    batch = example.batch(4)
    # Deformable R-CNN trains on drawn regions here, and FCIS on its hard examples.
    drawn = example.DEFORMABLE | {"hard_examples": 0, "rois": 16}
    for name, fields in {"deformable": drawn, "fcis": {"kind": FCIS}}.items():
        model = example.detector(axis_name=devices.AXIS, **fields)
        variables = example.variables(model)

        def step(variables, batch, model=model):
            def loss(params):
                output, updated = example.apply(model, variables | {"params": params}, batch)
                loss, parts = example.total(output, devices.AXIS)
                return loss, (parts, updated)

            gradients, (parts, updated) = jax.grad(loss, has_aux=True)(variables["params"])
            return jax.lax.psum((parts, gradients), devices.AXIS), updated

        for count in (1, 2, 4):  # `parallel` runs on as many devices as its arguments' first axis is long
            copies = jax.tree.map(lambda x, n=count: np.stack([x] * n), variables)
            shares = {key: x.reshape(count, -1, *x.shape[1:]) for key, x in batch.items()}
            result = devices.parallel(step)(copies, shares)
            assert {x.device for x in jax.tree.leaves(result)[0].addressable_shards} == set(jax.local_devices()[:count])
            leaves = jax.tree_util.tree_flatten_with_path(devices.unreplicate(result))[0]
            arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
            np.savez(folder / f"{name}_{count}.npz", **arrays)
