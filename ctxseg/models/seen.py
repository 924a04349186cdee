"""What modules let pictures see: named arrays in the collection `seen`, kept where somebody asks for it (`mutable=["seen"]`)."""

from collections.abc import Callable

import flax.linen as nn


def show(module: nn.Module, title: str, maps: Callable[[], dict]) -> None:
    """Keeps `maps()`, {name: array}, as `title` of the module; nothing is computed for it otherwise.

    Maps `[B,h,w,C]` are drawn in the colours of their principal components, `[B,h,w]` in greys. Two titles have drawings of their
    own: `super-pixels` with `adjacency` `[B,R,R]`, and `scales` with `weights` `[B,h,w,S]` or `chosen`, int32 `[B,h,w]`. A module that is
    called several times, as at several scales, keeps one after the other.
    """
    if module.is_mutable_collection("seen") and not module.is_initializing():
        module.sow("seen", title, maps())
