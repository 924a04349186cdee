"""H-ReNet (Yan et al., 2016): one group of ReNet layers on top of a fully convolutional VGG-16.

On the papers' data sets it is row (d) of its Table 4: with batch normalisation and several levels, before the CRF.
The paper's first kernels are --config.model.kernel_std=0.1; it freezes conv1 and conv2, which it has pretrained.

python main.py --config=configs/hrenet.py          the embedded data set, minutes on two cores
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
        config.model.backbone.dropout = 0.0  # the paper's Table 2 has none
        config.model.context.levels = ("pool4", "pool5", "conv7")
        config.model.context.entering = "batch"
        config.model.context.units = (120,)
    return config
