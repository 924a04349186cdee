"""Context within the image: {name: feature map} → one map for the classifier. SPEC §2 to §7.

Every module is called as `module(features, regions=None, train=False)`. It returns the map, `[B,h,w,C]`, and a dict of auxiliary logits,
{name: float32 `[B,h',w',K]`}, which only the loss reads. The dict is empty for most modules; the others have the field `num_classes`.
`config.loss.auxiliary` weighs the auxiliary logits, unless they are `models.auxiliary.AuxiliaryLogits`, which name their weight.

The field `levels` names the maps that a module reads. If it names none, the module reads the last `READS` maps. A module may have
`READ_WHEN`: which fields it reads only for some values of other fields (see `ctxseg/settings/reading.py`).

A *neck* is a context that detectors can read (SPEC §9). Its method `pyramid`, with the same arguments, returns the maps of all levels,
finest first, all with `channels` channels. `READ_AS_NECK` names the fields that it reads whatever `READ_WHEN` says.
"""

from ctxseg.models.context.ann import ANN
from ctxseg.models.context.apcnet import APCNet
from ctxseg.models.context.aspp import ASPP
from ctxseg.models.context.ccnet import CCNet
from ctxseg.models.context.danet import DANet
from ctxseg.models.context.deeplabv3plus import DeepLabV3Plus
from ctxseg.models.context.dnl import DNL
from ctxseg.models.context.encoder_decoder import EncoderDecoder
from ctxseg.models.context.fcn import FCNHead
from ctxseg.models.context.fpn import FPN
from ctxseg.models.context.gcn import GCN
from ctxseg.models.context.global_fc import GlobalFC
from ctxseg.models.context.msc import MSc
from ctxseg.models.context.msci import MSCI
from ctxseg.models.context.none import NoContext
from ctxseg.models.context.ocr import OCR
from ctxseg.models.context.ppm import PPM
from ctxseg.models.context.project import Projection
from ctxseg.models.context.rce import RegionContextEncoding
from ctxseg.models.context.renet import ReNet
from ctxseg.models.context.zigzag import ZigZag

CONTEXTS = {
    "none": NoContext,
    "fcn": FCNHead,
    "renet": ReNet,
    "msc": MSc,
    "msci": MSCI,
    "zigzag": ZigZag,
    "rce": RegionContextEncoding,
    "ppm": PPM,
    "aspp": ASPP,
    "encoder_decoder": EncoderDecoder,
    "fpn": FPN,
    "project": Projection,
    "deeplabv3plus": DeepLabV3Plus,
    "ocr": OCR,
    "gcn": GCN,
    "global_fc": GlobalFC,
    "ccnet": CCNet,
    "danet": DANet,
    "ann": ANN,
    "dnl": DNL,
    "apcnet": APCNet,
}
