"""DeepLabV3+ (Chen et al., ECCV 2018): atrous spatial pyramid pooling, and a decoder.

python main.py --config=configs/deeplabv3plus.py          the built-in data set, minutes on two cores
python main.py --config=configs/deeplabv3plus.py:ade20k
"""

from ctxseg.configs import datasets, defaults


def get_config(dataset: str = "scenes"):
    config = defaults.get_config()
    config.system = "deeplabv3plus"
    datasets.set_protocol(config, dataset)
    config.model.context.name = "deeplabv3plus"
    if dataset in datasets.SMALL:
        config.model.context.channels = 64
        config.model.context.low_channels = 16
        config.model.context.dilations = (2, 4, 6)  # on maps of 16×16
        if dataset == "folder":
            config.update_from_flattened_dict(datasets.EFFICIENTNET_LITE0_LEVELS)
            config.model.backbone.output_stride = 16
    else:
        datasets.dilated_resnet50(config)
    return config
