"""Parameter names of older checkpoints. Renaming a parameter needs a rule here, so that old runs still load."""

from collections.abc import Container, Mapping


def current(arrays: Mapping, current_names: Container[str]) -> dict:
    """The arrays of a checkpoint under their current names: parameters, batch statistics and optimiser state.

    Args:
        arrays: {name: array} as in the checkpoint: `params/context/stages/fuse_down1/conv/kernel`, `opt_state/1/trace/context/…`.
        current_names: names of the current state. An array with one of these names keeps it.
    """
    result: dict = {}
    for name, array in arrays.items():
        before, stacked, after = name.partition("/context/stages/")
        if stacked and array.shape and name not in current_names:
            # ZigZagNet's stages 2 … T−1 were a scan. Its arrays had an extra leading axis of length T−2.
            result |= {f"{before}/context/stage{t}/{after}": array[t - 2] for t in range(2, 2 + len(array))}
        else:
            result[name] = array
    return result
