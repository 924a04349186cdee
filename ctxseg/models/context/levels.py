"""The choice of the maps that a context module reads: those of the backbone, or those of the connections."""

import re
from collections.abc import Iterable

from jaxtyping import Float

from ctxseg.errors import UserError
from ctxseg.models.shapes import Array, Maps


def select(
    features: Maps, levels: tuple[str, ...], count: int, field: str = "context.levels"
) -> tuple[Float[Array, "b _ _ _"], ...]:
    """The maps of `features` that `levels` names, finest first; if it names none, those of `last`.

    Args:
        features: the maps to choose from.
        levels: names of maps, the value of `field`.
        count: how many maps the module reads by default.
        field: field of `config.model`, for the message.

    Raises:
        UserError: there is no map of that name.
    """
    for name in levels:
        if name not in features:
            raise UserError(f"config.model.{field} has {name!r}; expected some of {', '.join(features)}")
    return tuple(features[name] for name in levels or last(features, count))


def last(names: Iterable[str], count: int) -> list[str]:
    """The last `count` of the names of a backbone's maps. More than two are of its pyramid, `res2` … `res5`, if it has as many.

    HRNet and the transformers have further maps after the coarsest one of their pyramid, for contexts that read one or two.
    """
    names = list(names)
    pyramid = [name for name in names if re.fullmatch(r"res\d", name)]
    return (pyramid if 2 < count <= len(pyramid) else names)[-count:]
