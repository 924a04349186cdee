"""Encoder-decoder (RefineNet-like, Lin et al., CVPR 2017): a top-down pass over the backbone's maps.

python main.py --config=configs/encoder_decoder.py          the built-in data set, minutes on two cores
python main.py --config=configs/encoder_decoder.py:voc2012
"""

from ctxseg.configs import datasets, defaults


def get_config(dataset: str = "scenes"):
    config = defaults.get_config()
    config.system = "encoder_decoder"
    datasets.set_protocol(config, dataset)
    config.model.context.name = "encoder_decoder"
    if dataset in datasets.SMALL:
        config.model.context.channels = 48
        if dataset == "folder":
            config.update_from_flattened_dict(datasets.EFFICIENTNET_LITE0_LEVELS)
            config.model.context.channels = 64
    else:
        config.model.backbone.name = "resnet101"
        config.model.backbone.output_stride = 32  # each level is half as large as the one before
        config.model.context.channels = 256
    return config
