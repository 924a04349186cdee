"""The losses of a tiny detector and their gradients on a forced number of host devices, run by `tests/models/detectors/test_mask_rcnn.py`.

python -m tests.detector_on_devices N OUT.npz
"""

import os
import sys

if __name__ == "__main__":
    count, out = int(sys.argv[1]), sys.argv[2]
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count={count}"

    import jax
    import numpy as np

    from ctxseg import devices
    from ctxseg.models import convolution, layers
    from tests.models.detectors import example

    assert jax.local_device_count() == count
    layers.convolve = convolution._plain  # compiles faster
    model = example.detector(axis_name=devices.AXIS)
    variables, batch = example.variables(model), example.batch(4)

    def step(variables, batch):
        def loss(params):
            output, updated = example.apply(model, variables | {"params": params}, batch)
            loss, parts = example.total(output, devices.AXIS)
            return loss, (parts, updated)

        gradients, (parts, updated) = jax.grad(loss, has_aux=True)(variables["params"])
        return jax.lax.psum((parts, gradients), devices.AXIS), updated

    result = devices.unreplicate(devices.parallel(step)(devices.replicate(variables), devices.shard(batch)))
    leaves = jax.tree_util.tree_flatten_with_path(result)[0]
    np.savez(out, **{jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves})
