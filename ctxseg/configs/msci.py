"""MSCI (Lin et al., ECCV 2018).

python main.py --config=configs/msci.py          the built-in data set, minutes on two cores
python main.py --config=configs/msci.py:voc2012
"""

from ctxseg.configs import datasets, defaults


def get_config(dataset: str = "scenes"):
    config = defaults.get_config()
    config.system = "msci"
    datasets.set_protocol(config, dataset, paper=datasets.msci)
    config.model.context.name = "msci"
    if dataset in datasets.SMALL:
        config.model.context.stages = 2
        config.model.context.channels = 24
        config.data.superpixels = 128
        # At this learning rate from scratch, sums and means over regions both overflow unless gradients are clipped.
        config.model.context.region_pool = "mean"
        config.optimizer.clip_norm = 1.0
        if dataset == "folder":
            config.update_from_flattened_dict(datasets.EFFICIENTNET_LITE0_LEVELS)
    else:
        config.model.backbone.name = "resnet152"
        config.model.backbone.output_stride = 32  # each level is half as large as the one before
        config.data.superpixels = 1000
    config.model.context.regions = config.data.get_ref("superpixels")
    # Other contexts on top of the connections (Table 2) have the same settings.
    for field in ("channels", "stages", "region_pool", "regions"):
        config.model.connections[field] = config.model.context.get_ref(field)
    return config
