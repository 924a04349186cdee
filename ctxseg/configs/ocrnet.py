"""OCRNet (Yuan et al., ECCV 2020): object-contextual representations.

python main.py --config=configs/ocrnet.py          the built-in data set, minutes on two cores
python main.py --config=configs/ocrnet.py:ade20k
"""

from ctxseg.configs import datasets, defaults


def get_config(dataset: str = "scenes"):
    config = defaults.get_config()
    config.system = "ocrnet"
    datasets.set_protocol(config, dataset)
    config.model.context.name = "ocr"
    if dataset in datasets.SMALL:
        config.model.context.channels = 64
        config.model.context.key_channels = 32
    else:
        datasets.dilated_resnet50(config)
        config.model.auxiliary.levels = ()  # OCR has its own auxiliary scores on res4
    return config
