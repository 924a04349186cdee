"""DeepLabV3 (Chen et al., 2017): atrous spatial pyramid pooling.

python main.py --config=configs/deeplabv3.py          the built-in data set, minutes on two cores
python main.py --config=configs/deeplabv3.py:ade20k
"""

from ctxseg.configs import datasets, defaults


def get_config(dataset: str = "scenes"):
    config = defaults.get_config()
    config.system = "deeplabv3"
    datasets.set_protocol(config, dataset)
    config.model.context.name = "aspp"
    if dataset in datasets.SMALL:
        config.model.context.channels = 64
        config.model.context.dilations = (2, 4, 6)  # on maps of 16×16
    else:
        datasets.dilated_resnet50(config)
    return config
