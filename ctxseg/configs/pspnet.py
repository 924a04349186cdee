"""PSPNet (Zhao et al., CVPR 2017): pyramid pooling.

python main.py --config=configs/pspnet.py          the built-in data set, minutes on two cores
python main.py --config=configs/pspnet.py:ade20k
"""

from ctxseg.configs import datasets, defaults


def get_config(dataset: str = "scenes"):
    config = defaults.get_config()
    config.system = "pspnet"
    datasets.set_protocol(config, dataset)
    config.model.context.name = "ppm"
    if dataset in datasets.SMALL:
        config.model.context.channels = 64
    else:
        datasets.dilated_resnet50(config)
    return config
