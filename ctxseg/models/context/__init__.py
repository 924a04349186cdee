"""Context within the image: {name: feature map} → one map for the classifier. SPEC §2 to §7."""

from ctxseg.models.context.none import NoContext
from ctxseg.models.context.zigzag import ZigZag

CONTEXTS = {
    "none": NoContext,
    "zigzag": ZigZag,
}
