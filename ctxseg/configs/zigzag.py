"""ZigZagNet (Lin et al., CVPR 2019).

python main.py --config=configs/zigzag.py          the built-in data set, minutes on two cores
python main.py --config=configs/zigzag.py:voc2012
"""

from ctxseg.configs import datasets, defaults


def get_config(dataset: str = "scenes"):
    config = defaults.get_config()
    config.system = "zigzag"
    datasets.set_protocol(config, dataset, paper=datasets.zigzag)
    config.model.context.name = "zigzag"
    if dataset in datasets.SMALL:
        config.model.context.stages = 2
        config.model.context.channels = 24
        if dataset == "folder":
            config.update_from_flattened_dict(datasets.EFFICIENTNET_LITE0_LEVELS)
            config.model.context.channels = 64
    else:
        config.model.backbone.name = "resnet101"
        config.model.backbone.output_stride = 32  # each level is half as large as the one before
    return config
