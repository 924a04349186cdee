"""In tests, an array with another shape than its annotation is an error: the import hook of `tests/conftest.py` works."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from ctxseg.evaluation.metrics import confusion_matrix
from ctxseg.inference.crf import mean_field
from ctxseg.models.context.fcn import FCNHead
from ctxseg.models.context.msci import region_sums
from ctxseg.models.layers import ConvNorm
from ctxseg.training.pixel_losses import cross_entropy


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def ids(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


# A function, shapes that it accepts, and shapes that it refuses.
CASES = {
    "regions of another size": (
        partial(region_sums, count=3), (floats(2, 4, 6, 5), ids(2, 4, 6)), (floats(2, 4, 6, 5), ids(2, 6, 4))
    ),
    "one image without the batch axis": (
        partial(region_sums, count=3), (floats(2, 4, 6, 5), ids(2, 4, 6)), (floats(4, 6, 5), ids(4, 6))
    ),
    "floats instead of ids": (
        partial(region_sums, count=3), (floats(2, 4, 6, 5), ids(2, 4, 6)), (floats(2, 4, 6, 5), floats(2, 4, 6))
    ),
    "labels with channels": (
        cross_entropy, (floats(2, 4, 6, 3), ids(2, 8, 12)), (floats(2, 4, 6, 3), ids(2, 8, 12, 1))
    ),
    "predictions at another size": (
        partial(confusion_matrix, num_classes=3), (ids(2, 8, 12), ids(2, 8, 12)), (ids(2, 8, 12), ids(2, 4, 6))
    ),
    "images of another size": (
        mean_field, (floats(1, 4, 6, 3), floats(1, 4, 6, 3)), (floats(1, 4, 6, 3), floats(1, 8, 12, 3))
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_wrong_shape_is_refused(case):
    function, right, wrong = CASES[case]
    jax.eval_shape(function, *right)
    with pytest.raises(TypeCheckError):
        jax.eval_shape(function, *wrong)


@pytest.mark.parametrize("channels, message", [(4, None), (5, "FCNHead.__call__")])
def test_module_with_a_wrong_result_is_refused(channels, message):
    """The annotation of a flax module's result may name the module's fields."""
    module = FCNHead(channels=4, convolutions=1, conv=lambda _, *args, **fields: ConvNorm(channels, *args, **fields))
    trace = partial(jax.eval_shape, module.init, jax.random.PRNGKey(0), {"res5": floats(1, 4, 6, 3)})
    if message is None:
        trace()
    else:
        with pytest.raises(TypeCheckError, match=message):
            trace()
