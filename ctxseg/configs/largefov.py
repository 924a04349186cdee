"""DeepLab-LargeFOV (Chen et al., ICLR 2015), the baseline of Attention to Scale.

python main.py --config=configs/largefov.py          the built-in data set, minutes on two cores
python main.py --config=configs/largefov.py:pascal_person_part
"""

from ctxseg.configs import datasets, defaults


def get_config(dataset: str = "scenes"):
    config = defaults.get_config()
    config.system = "largefov"
    datasets.set_protocol(config, dataset, paper=datasets.pascal_person_part)
    config.model.context.name = "none"
    if dataset not in datasets.SMALL:
        config.model.backbone.name = "vgg16"
        config.model.backbone.layout = "largefov"
    return config
