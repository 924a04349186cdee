"""The fully convolutional baseline: a backbone and a 1×1 classifier.

python main.py --config=configs/fcn.py             the embedded data set, minutes on two cores
python main.py --config=configs/fcn.py:camvid --config.data.manual_dir=PATH/CamVid
"""

from configs import datasets, defaults


def get_config(dataset: str = "scenes"):
    config = defaults.get_config()
    config.system = "fcn"
    datasets.set_protocol(config, dataset)
    config.model.context.name = "none"
    return config
