"""H-ReNet (Yan et al., 2016): one group of ReNet layers on top of a fully convolutional VGG-16.

On the papers' data sets this is row (d) of Table 4: batch normalisation and several levels, no CRF.
The paper starts from VGG-16, --config.model.pretrained=vgg16.pth, freezes its conv1 and conv2, and draws the other kernels with
--config.model.kernel_std=0.1.

python main.py --config=configs/hrenet.py          the built-in data set, minutes on two cores
python main.py --config=configs/hrenet.py:voc2012
"""

from ctxseg.configs import datasets, defaults


def get_config(dataset: str = "scenes"):
    config = defaults.get_config()
    config.system = "hrenet"
    datasets.set_protocol(config, dataset, paper=datasets.hrenet)
    config.model.context.name = "renet"
    if dataset in datasets.SMALL:
        config.model.context.units = (48,)
    else:
        config.model.backbone.name = "vgg16"
        config.model.backbone.layout = "hrenet"
        config.model.backbone.dropout = 0.0  # none in the paper's Table 2
        config.model.context.levels = ("pool4", "pool5", "conv7")
        config.model.context.entering = "batch"
        config.model.context.units = (120,)
        config.model.frozen = ("backbone/conv1", "backbone/conv2")  # once pretrained weights fill them
    return config
