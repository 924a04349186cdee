"""N-ReNet (Yan et al., 2016): three groups of ReNet layers on raw pixels; the classifier is the only convolution.

python main.py --config=configs/nrenet.py          the built-in data set, minutes on two cores
python main.py --config=configs/nrenet.py:stanford_background
"""

from ctxseg.configs import datasets, defaults


def get_config(dataset: str = "scenes"):
    config = defaults.get_config()
    config.system = "nrenet"
    datasets.set_protocol(config, dataset)
    config.model.backbone.name = "none"
    config.model.context.name = "renet"
    if dataset in datasets.SMALL:
        # Larger patches and fewer units, for two cores.
        config.model.context.patch = (4, 4)
        config.model.context.units = (24, 32, 48)
        config.optimizer.learning_rate = 0.5
        config.optimizer.clip_norm = 1.0
    else:
        config.model.context.patch = (2, 2)
        config.model.context.units = (64, 96, 128)
    return config
