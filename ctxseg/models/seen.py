"""Arrays that modules keep for pictures: the collection `seen`, kept only if it is requested (`mutable=["seen"]`)."""

from collections.abc import Callable

import flax.linen as nn


def show(module: nn.Module, title: str, maps: Callable[[], dict]) -> None:
    """Keeps `maps()`, {name: array}, under `title` of the module. `maps` is called only if `seen` is requested.

    Maps `[B,h,w,C]` are drawn as the colours of their principal components, `[B,h,w]` as greys. Two titles are drawn specially:
    `super-pixels` with `adjacency` `[B,R,R]`, and `scales` with `weights` `[B,h,w,S]` or `chosen`, int32 `[B,h,w]`. A module that is
    called several times, such as at several scales, keeps the maps of each call in order.
    """
    if module.is_mutable_collection("seen") and not module.is_initializing():
        module.sow("seen", title, maps())
