"""Devices and processes: the only file that knows about `pmap`, replication and the processes of a run."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ctxseg.errors import UserError

# The name of the axis that a batch is split over.
AXIS = "devices"


def check_batch_size(field: str, batch_size: int) -> None:
    """UserError if a batch of `batch_size` images cannot be split evenly over all devices. `field` is its name in the config."""
    if batch_size < 1:
        raise UserError(f"config.{field} is {batch_size}; expected at least 1")
    n = jax.device_count()
    if batch_size % n:
        nearest = max(round(batch_size / n), 1) * n
        raise UserError(f"config.{field} is {batch_size}, which cannot be split evenly over {n} devices; try {nearest}")


def check_micro_batches(count: int, batch_size: int) -> None:
    """UserError if each device's part of a batch of `batch_size` images cannot be split into `count` equal micro-batches."""
    images = batch_size // jax.device_count()
    if images % count:
        *divisors, last = (str(n) for n in range(1, images + 1) if images % n == 0)
        raise UserError(
            f"config.train.micro_batches is {count}, but each device has {images} of the {batch_size} images of config.train.batch_size, "
            f"which cannot be split evenly: set it to {', '.join(divisors)}{' or ' if divisors else ''}{last}"
        )


class Parallel:
    """`function(state, batch)` of `parallel`, which another thread may compile before it is called."""

    def __init__(self, function, static: tuple[int, ...] = ()):
        """`static`: see `parallel`."""
        self._function, self._static = parallel(function, static=static), static
        self._programs: dict[Any, Any] = {}

    def compile(self, *arguments) -> None:
        """Compiles the function for arguments of these shapes. Those that are not static may be arrays or `jax.ShapeDtypeStruct`s."""
        key = self._key(arguments)
        if key not in self._programs:
            known = [a if i in self._static else shapes(a) for i, a in enumerate(arguments)]
            self._programs[key] = self._function.lower(*known).compile()

    def __call__(self, *arguments):
        program = self._programs.get(self._key(arguments)) if self._programs else None
        if program is None:
            return self._function(*arguments)
        return program(*(a for i, a in enumerate(arguments) if i not in self._static))

    def _key(self, arguments):
        leaves, structure = jax.tree.flatten([a for i, a in enumerate(arguments) if i not in self._static])
        return structure, *((x.shape, x.dtype) for x in leaves), *(arguments[i] for i in self._static)


def shapes(tree):
    """`tree` with the shape and dtype of each array in its place."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def parallel(function, donate: tuple[int, ...] = (), static: tuple[int, ...] = ()):
    """`function(state, batch)`, compiled to run on every local device, over the axis `AXIS`.

    `static` and `donate` are indices of arguments. A static argument is the same on all devices, and each new value of it compiles the
    function again. Every other argument has a leading device axis. The memory of a donated argument is reused for the result.
    """
    return jax.pmap(function, axis_name=AXIS, donate_argnums=donate, static_broadcasted_argnums=static)


def replicate(tree):
    """A copy on every local device: leaves `[…]` → `[devices, …]`."""
    n = jax.local_device_count()
    # By `pmap`, so that the sharding is that of the results of `parallel`: with another one, the second step would be compiled again.
    return jax.pmap(lambda _, t: t, axis_name=AXIS, in_axes=(0, None))(jnp.arange(n), tree)


def for_checkpoint(tree):
    """A copy that all processes can write together: leaves `[devices, …]` → `[…]`, on every device of all processes."""
    if jax.process_count() == 1:
        return unreplicate(tree)

    def joined(x):
        copies = [shard.data[0] for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape[1:], everywhere(), copies)

    return jax.tree.map(joined, tree)


def everywhere() -> NamedSharding:
    """The placement of an array that all devices of all processes have."""
    return NamedSharding(Mesh(np.array(jax.devices()), (AXIS,)), PartitionSpec())


def unreplicate(tree):
    """The first local device's copy: leaves `[devices, …]` → `[…]`."""
    return jax.tree.map(lambda x: x.addressable_shards[0].data[0], tree)


def shard(batch: dict) -> dict:
    """Splits this process's part of a batch: arrays `[B, …]` → `[devices, B/devices, …]`. Other entries are dropped."""
    n = jax.local_device_count()
    return {k: v.reshape(n, v.shape[0] // n, *v.shape[1:]) for k, v in batch.items() if hasattr(v, "reshape")}


def put(batch: dict) -> dict:
    """Starts to copy this process's part of a batch to the local devices, split as by `shard`."""
    # The placement that `pmap` gives its arguments; it would copy arrays with another one again.
    placement = NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec(AXIS))
    return jax.device_put(shard(batch), placement)


def gather(x):
    """Joins the results of the local devices: `[devices, B, …]` → `[devices·B, …]`."""
    return x.reshape(-1, *x.shape[2:])


def process() -> tuple[int, int]:
    """This process's index and the number of processes of the run."""
    return jax.process_index(), jax.process_count()
