"""Attention to Scale (Chen et al., CVPR 2016): DeepLab-LargeFOV at several scales.

python main.py --config=configs/attention.py          the built-in data set, minutes on two cores
python main.py --config=configs/attention.py:pascal_person_part
"""

from ctxseg.configs import datasets, defaults


def get_config(dataset: str = "scenes"):
    config = defaults.get_config()
    config.system = "attention"
    datasets.set_protocol(config, dataset, paper=datasets.pascal_person_part)
    config.model.context.name = "none"
    config.model.scales.merge = "attention"
    if dataset in datasets.SMALL:
        config.model.scales.scales = (1.0, 0.5)
        config.model.scales.head_filters = 64
    else:
        config.model.scales.scales = (1.0, 0.75, 0.5)
        config.model.backbone.name = "vgg16"
        config.model.backbone.layout = "largefov"
    return config
