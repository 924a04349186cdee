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
    # Sized for two cores and training from scratch; None gives the paper's 3 stages and 256 channels.
    config.model.context.stages = 2
    config.model.context.channels = 24
    return config
