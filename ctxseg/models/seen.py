"""Arrays that modules store for pictures, in the collection `seen`, if it is requested (`mutable=["seen"]`)."""

from collections.abc import Callable

import flax.linen as nn


def show(module: nn.Module, title: str, maps: Callable[[], dict]) -> None:
    """Stores `maps()`, {name: array}, under `title` in the module. `maps` is called only if `seen` is requested.

    Maps `[B,h,w,C]` are drawn with their principal components as colours, maps `[B,h,w]` in grey. Two titles are drawn in another way:
    `super-pixels` with `adjacency` `[B,R,R]`, and `scales` with `weights` `[B,h,w,S]` or `chosen`, int32 `[B,h,w]`. If a module is
    called several times, such as at several scales, it stores the maps of each call, in order.
    """
    if module.is_mutable_collection("seen") and not module.is_initializing():
        module.sow("seen", title, maps())
