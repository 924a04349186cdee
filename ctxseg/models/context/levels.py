"""Which of the backbone's maps, or of those that connections make of them, a context module reads."""

from jaxtyping import Float

from ctxseg.errors import UserError
from ctxseg.models.shapes import Array, Maps


def select(
    features: Maps, levels: tuple[str, ...], count: int, section: str = "context"
) -> tuple[Float[Array, "b _ _ _"], ...]:
    """The maps of `features` that `levels` names, finest first; if it names none, the last `count` that there are.

    Args:
        features: the maps that there are.
        levels: the field of the context module.
        count: how many maps the module reads by default.
        section: of `config.model` that has the field.

    Raises:
        UserError: no map of that name.
    """
    for name in levels:
        if name not in features:
            raise UserError(f"config.model.{section}.levels has {name!r}, but there is {', '.join(features)}")
    return tuple(features[name] for name in levels or list(features)[-count:])
