"""ZigZagNet (Lin et al., CVPR 2019).

python main.py --config=configs/zigzag.py          the embedded data set, minutes on two cores
python main.py --config=configs/zigzag.py:camvid --config.data.manual_dir=PATH/CamVid
"""

from configs import datasets, defaults


def get_config(dataset: str = "scenes"):
    config = defaults.get_config()
    config.system = "zigzag"
    datasets.set_protocol(config, dataset)
    config.model.context.name = "zigzag"
    config.model.context.stages = 3
    config.model.context.channels = 32
    return config
