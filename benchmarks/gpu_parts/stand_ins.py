"""Stand-ins for ml_collections and jaxtyping, which configs and networks import, so that the benchmark needs neither."""

import sys
import types


class ConfigDict(dict):
    """The part of `ml_collections.ConfigDict` that the configs use. A reference to a field is its current value."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    __setattr__ = dict.__setitem__

    def get_ref(self, name):
        return self[name]

    get_oneway_ref = get_ref

    def update_from_flattened_dict(self, values):
        for path, value in values.items():
            *sections, name = path.split(".")
            section = self
            for key in sections:
                section = section[key]
            section[name] = value


class Annotation:
    """Stands in for `Float` and the others: `Float[Array, "b h w c"]` is `Array`. Only tests check shapes."""

    def __class_getitem__(cls, entries):
        return entries[0]


def install() -> None:
    """Makes the stand-ins importable in place of packages that are not installed."""
    try:
        import ml_collections  # noqa: F401
    except ImportError:
        sections = types.ModuleType("ml_collections.config_dict")
        vars(sections).update(ConfigDict=ConfigDict, placeholder=lambda field_type: None)
        package = types.ModuleType("ml_collections")
        vars(package).update(ConfigDict=ConfigDict, config_dict=sections)
        sys.modules |= {"ml_collections": package, "ml_collections.config_dict": sections}
    try:
        import jaxtyping  # noqa: F401
    except ImportError:
        package = types.ModuleType("jaxtyping")
        package.__getattr__ = lambda name: Annotation  # type: ignore[method-assign]
        sys.modules["jaxtyping"] = package
