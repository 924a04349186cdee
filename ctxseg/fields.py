"""What values the fields of a config can have, apart from what they mean."""

# Tuples whose entries have a meaning by their place; others may become longer or shorter.
FIXED = ("data.crop", "data.scale_range", "complexity.input")


def is_like(given: tuple, default: tuple | None, field: str) -> bool:
    """Whether a tuple has entries of the kind that the field's default has, and as many where their place says what they are."""
    if not default:
        return all(isinstance(value, str | int | float) for value in given)
    kinds = (int, float) if isinstance(default[0], float) else (type(default[0]),)
    return all(type(value) in kinds for value in given) and (field not in FIXED or len(given) == len(default))
