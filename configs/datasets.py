"""The protocol of each data set: crop, schedule, augmentation. A system's config starts from it."""

from ctxseg.errors import UserError


def set_protocol(config, dataset: str) -> None:
    """Writes the protocol of `dataset` into `config`, in place.

    Raises:
        UserError: no protocol of that name.
    """
    if dataset not in PROTOCOLS:
        raise UserError(f"unknown data set {dataset!r} after the colon of --config: there is {', '.join(PROTOCOLS)}")
    config.data.name = dataset
    PROTOCOLS[dataset](config)


def scenes(config):
    """The embedded data set: minutes on two cores. No scaling or rotation, which would change what `scale` classes mean."""
    config.data.crop = (128, 128)
    _from_scratch_on_two_cores(config)
    config.train.steps = 700


def camvid(config):
    """CamVid at half resolution (240×180), from scratch."""
    config.data.crop = (176, 240)
    config.data.scale_range = (0.75, 1.5)
    config.data.rotate = 5.0
    config.data.brightness = config.data.contrast = config.data.saturation = 0.3
    config.data.hue = 0.05
    _from_scratch_on_two_cores(config)
    config.optimizer.learning_rate = 0.1
    config.train.steps = 700


def _from_scratch_on_two_cores(config):
    """Without pretrained weights, a small network learns most in few steps at a rate that fine-tuning would not bear."""
    config.train.batch_size = 8
    config.optimizer.learning_rate = 0.2
    config.optimizer.warmup_steps = 30
    config.optimizer.weight_decay = 1e-4


PROTOCOLS = {"scenes": scenes, "camvid": camvid}
