"""MCIBI (Jin et al., ICCV 2021): a memory of every class's representation, beyond the image.

python main.py --config=configs/mcibi.py          the built-in data set, minutes on two cores
python main.py --config=configs/mcibi.py:ade20k
"""

from ctxseg.configs import datasets, defaults


def fcn(dataset: str | None) -> dict:
    """Overrides that turn MCIBI into the FCN of the paper's tables: two 3×3 convolutions and a 1×1 one (2048 → 512 → 512 → K).

    The FCN keeps the bottleneck and replaces the fusion by a convolution, so that the difference is the memory's.
    """
    overrides = {"model.memory.name": "none", "model.context.name": "fcn", "model.classifier.hidden": 0}
    return overrides | ({"model.context.channels": 64} if dataset in datasets.SMALL else {})


def get_config(dataset: str = "scenes"):
    config = defaults.get_config()
    config.system = "mcibi"
    datasets.set_protocol(config, dataset)
    config.model.context.name = "none"
    config.model.memory.name = "mcibi"
    config.model.classifier.dropout = 0.1
    if dataset in datasets.SMALL:
        config.model.memory.channels = 64
        config.model.memory.clustering_batches = 20  # few classes: the first batch has nearly all of them
        config.model.classifier.hidden = 64
    else:
        datasets.dilated_resnet50(config)
        config.model.classifier.hidden = 512
    return config
