"""What parameters were called in older checkpoints. Whoever renames a parameter adds a rule here, so that old runs still load."""

from collections.abc import Container, Mapping


def current(arrays: Mapping, wanted: Container[str]) -> dict:
    """The arrays of a checkpoint under the names that they have now, in parameters, batch statistics and the optimiser's state alike.

    Args:
        arrays: {name: array}, as in the checkpoint: `params/context/stages/fuse_down1/conv/kernel`, `opt_state/1/trace/context/…`.
        wanted: names that the state has now. An array of such a name keeps it.
    """
    result: dict = {}
    for name, array in arrays.items():
        before, stacked, after = name.partition("/context/stages/")
        if stacked and array.shape and name not in wanted:
            # ZigZagNet's stages 2 … T−1 were a scan, whose arrays had one more axis, of length T−2, in front.
            result |= {f"{before}/context/stage{t}/{after}": array[t - 2] for t in range(2, 2 + len(array))}
        else:
            result[name] = array
    return result
