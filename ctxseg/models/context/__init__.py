"""Context within the image: {name: feature map} → one map for the classifier. SPEC §2 to §7.

Every module is called as `module(features, regions=None, train=False)` and returns the map, `[B,h,w,C]`, and a dict of
auxiliary logits {name: float32 `[B,h',w',K]`} that only the loss reads, mostly empty. `levels` names the maps it reads.
"""

from ctxseg.models.context.msci import MSCI
from ctxseg.models.context.none import NoContext
from ctxseg.models.context.rce import RegionContextEncoding
from ctxseg.models.context.renet import ReNet
from ctxseg.models.context.zigzag import ZigZag

CONTEXTS = {
    "none": NoContext,
    "renet": ReNet,
    "msci": MSCI,
    "rce": RegionContextEncoding,
    "zigzag": ZigZag,
}
