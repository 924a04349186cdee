"""Which of the backbone's maps a context module reads."""

from ctxseg.errors import UserError


def select(features: dict, levels: tuple[str, ...], count: int) -> tuple:
    """The maps of `features` that `levels` names, finest first; if it names none, the last `count` that there are.

    Args:
        features: {name: map `[B,h,w,C]`}, finest first.
        levels: the field of the context module.
        count: how many maps the module reads by default.

    Raises:
        UserError: no map of that name.
    """
    for name in levels:
        if name not in features:
            raise UserError(f"config.model.context.levels has {name!r}, but the backbone gives {', '.join(features)}")
    return tuple(features[name] for name in levels or list(features)[-count:])
