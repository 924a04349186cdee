"""The fully convolutional baseline (Long et al., CVPR 2015): a backbone and a 1×1 classifier.

python main.py --config=configs/fcn.py          the built-in data set, minutes on two cores
python main.py --config=configs/fcn.py:voc2012
"""

from ctxseg.configs import datasets, defaults


def get_config(dataset: str = "scenes"):
    config = defaults.get_config()
    config.system = "fcn"
    datasets.set_protocol(config, dataset)
    config.model.context.name = "none"
    if dataset not in datasets.SMALL:
        config.model.backbone.name = "resnet101"
    return config
