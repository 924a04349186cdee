"""H-ReNet (Yan et al., 2016): one group of ReNet layers on top of a fully convolutional VGG-16.

python main.py --config=configs/hrenet.py          the embedded data set, minutes on two cores
python main.py --config=configs/hrenet.py:voc2012
"""

from configs import datasets, defaults


def get_config(dataset: str = "scenes"):
    config = defaults.get_config()
    config.system = "hrenet"
    datasets.set_protocol(config, dataset, paper=datasets.hrenet)
    config.model.context.name = "renet"
    if dataset in datasets.SMALL:
        config.model.context.units = (48,)
    else:
        config.model.backbone.name = "vgg16"
        config.model.backbone.conv7_kernel = 3
        config.model.context.units = (120,)
        config.model.frozen = ("backbone/conv1", "backbone/conv2")
    return config
