"""The choice of the maps that a context module reads: those of the backbone, or those of the connections."""

import itertools

from jaxtyping import Float

from ctxseg.errors import UserError
from ctxseg.models.shapes import Array, Maps


def select(
    features: Maps, levels: tuple[str, ...], count: int, section: str = "context"
) -> tuple[Float[Array, "b _ _ _"], ...]:
    """The maps of `features` that `levels` names, finest first; if it names none, those of `last`.

    Args:
        features: the maps to choose from.
        levels: names of maps, a field of the context module.
        count: how many maps the module reads by default.
        section: section of `config.model` that the field belongs to, for the message.

    Raises:
        UserError: there is no map of that name.
    """
    for name in levels:
        if name not in features:
            raise UserError(f"config.model.{section}.levels has {name!r}; expected some of {', '.join(features)}")
    return tuple(features[name] for name in levels or last(features, count))


def last(features: Maps, count: int) -> list[str]:
    """Names of the last `count` maps that follow each other from fine to coarse: no map is larger than the one before it.

    A backbone may return a fine map after its coarsest one, as HRNet does. With `count` 1, that map is read; with more, those before it.
    """
    names = list(features)
    for end in range(len(names), count - 1, -1):
        chosen = names[end - count : end]
        sizes = [features[name].shape[1:3] for name in chosen]
        if all(m >= n for before, after in itertools.pairwise(sizes) for m, n in zip(before, after, strict=True)):
            return chosen
    return names[-count:]
