"""One training step and one of evaluation on a forced number of host devices, run by `tests/training/test_loop.py`.

python -m tests.step_on_devices N OUT.npz
"""

import os
import sys

if __name__ == "__main__":
    count, out = int(sys.argv[1]), sys.argv[2]
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count={count}"

    import jax
    import numpy as np

    from ctxseg import devices
    from ctxseg.configs import zigzag
    from ctxseg.evaluation import semantic
    from ctxseg.inference.protocol import Protocol
    from ctxseg.models import convolution, create_model, layers
    from ctxseg.training import optimizers
    from ctxseg.training.step import create_train_step, fill_memory
    from tests.drawn import drawn_state

    assert jax.local_device_count() == count
    layers.convolve = convolution._plain  # compiles faster
    config = zigzag.get_config()
    config.model.backbone.width = 4
    config.model.context.update({"channels": 4, "stages": 1, "subdivisions": (2,), "levels": ("res2", "res4")})
    config.model.memory.update({"name": "mcibi", "channels": 4, "dropout": 0.5})
    config.model.scales.update({"merge": "average", "scales": (1.0,)})  # adds the scores of each scale to the loss
    model = create_model(config.model, 3, axis_name=devices.AXIS)
    optimizer = optimizers.create_optimizer(config.optimizer, 10)
    state = drawn_state(model, optimizer, (16, 16))

    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (6, 16, 16, 3), np.uint8),
        "label": rng.integers(0, 3, (6, 16, 16), np.uint8),
    }
    batch["label"][:2] = 255  # one of three devices has only ignored pixels
    batch["label"][2, 5:] = 255
    reversed_batch = {"image": batch["image"][::-1], "label": batch["label"][::-1]}
    initial = fill_memory(model, state, iter([reversed_batch, batch]), 2)
    replicas, placed = devices.replicate(initial), devices.put(batch)
    # With another placement, the step would copy the batch again.
    assert placed["label"].sharding.is_equivalent_to(jax.tree.leaves(replicas)[0].sharding, placed["label"].ndim)
    state, metrics = create_train_step(model, optimizer, config)(replicas, placed)
    confusion, labels, image_counts, confidences = semantic.create_eval_step(model, Protocol())(
        devices.replicate(initial.variables), devices.shard(batch), None
    )
    np.testing.assert_array_equal(confusion, np.stack([np.asarray(confusion[0])] * count))  # every device has the sum
    evaluation = {"confusion": np.asarray(confusion[0]), "labels": np.asarray(devices.gather(labels))}
    evaluation["image_counts"] = np.asarray(devices.gather(image_counts))
    evaluation["confidences"] = [np.asarray(devices.gather(x)) for x in confidences]
    tree = {
        "evaluation": evaluation,
        "label": batch["label"],
        "state": devices.unreplicate(state),
        "metrics": devices.unreplicate(metrics),
    }
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    np.savez(out, **{jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves})
