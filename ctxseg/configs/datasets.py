"""The protocol of each data set: crop, schedule, augmentation and testing. A system's config starts from it.

A data set has the protocol of the paper that uses it most. A system passes the protocol of its own paper if that differs. Settings that a
paper does not give are our choice, and marked as such. Momentum 0.9 is from Attention to Scale, weight decay 5e-4 from Attention to Scale
and MCIBI; for the other papers, both are our choice.
The papers report mIoU, except N-ReNet on Stanford Background, which reports pixel accuracy and mean class accuracy. Every evaluation
computes all three.
"""

from ctxseg.errors import UserError

# Data sets for small networks, which train on two cores. On all others, systems have their papers' settings.
SMALL = ("scenes", "scenes_half", "scenes_rare", "scenes_instances", "camvid", "folder", "folder_instances")

# Overrides that start from ImageNet's weights, on a small data set. The first blocks, which see edges and textures, are frozen. What is new
# between backbone and classifier has batch normalisation, and learns at a higher rate than the others.
EFFICIENTNET_LITE0 = {
    "model.backbone.name": "efficientnet_lite0",
    "model.pretrained": "efficientnet_lite0",
    "model.frozen": ("backbone/stem", "backbone/block1", "backbone/block2"),
    "optimizer.learning_rate": 0.2,
    "optimizer.rates": ("backbone=0.25", "classifier=0.25"),
}
# The same for systems that read several maps. The finest has stride 4, so the last one needs no stride of 8. All of the backbone is frozen,
# and what is new learns at a high rate: on CamVid, ZigZagNet with 64 channels is better so, in less time (docs/weights.md).
EFFICIENTNET_LITE0_LEVELS = {
    "model.backbone.name": "efficientnet_lite0",
    "model.backbone.output_stride": 32,
    "model.pretrained": "efficientnet_lite0",
    "model.frozen": ("backbone",),
    "optimizer.learning_rate": 0.4,
    "optimizer.rates": (),
}


# Training images of MCIBI's data sets and of COCO, from which numbers of epochs become numbers of steps; and the images of Cityscapes' val.
IMAGES = {
    "ade20k": 20_210,
    "lip": 30_462,
    "cihp": 28_280,
    "cityscapes": 2_975,
    "cityscapes_val": 500,
    "coco_instances": 118_287,
    "coco_stuff": 118_287,
    "coco_stuff10k": 9_000,
}


def set_protocol(config, dataset: str, paper=None) -> None:
    """Writes the protocol of `dataset` into `config`, in place.

    Args:
        config: a config with all fields at their defaults.
        dataset: a key of `PROTOCOLS`.
        paper: the protocol of the system's own paper, if it has one; used for all data sets but the small ones.

    Raises:
        UserError: no protocol of that name.
    """
    if dataset not in PROTOCOLS:
        raise UserError(
            f"unknown data set {dataset!r} after the colon of --config; expected one of {', '.join(PROTOCOLS)}"
        )
    config.data.name = dataset
    protocol = PROTOCOLS[dataset] if paper is None or dataset in SMALL else paper
    protocol(config)
    config.train.split, config.eval.split = SPLITS.get(dataset, ("train", "val"))


def scenes(config):
    """The built-in data set: minutes on two cores. No scaling, which would change the classes of the group `scale`, and no rotation."""
    config.data.crop = (128, 128)
    _from_scratch_on_two_cores(config)
    config.train.steps = 700


def camvid(config):
    """A copy of CamVid at half its published size, 240×180, from scratch."""
    config.data.crop = (176, 240)
    config.data.scale_range = (0.75, 1.5)
    config.data.rotate = 5.0
    config.data.brightness = config.data.contrast = config.data.saturation = 0.3
    config.data.hue = 0.05
    _from_scratch_on_two_cores(config)
    config.optimizer.learning_rate = 0.1
    config.train.steps = 700


def folder(config):
    """Your own images and labels (`ctxseg/data/builders/folder.py`), from ImageNet's weights: CamVid's settings, except crop and scale
    range."""
    camvid(config)
    config.data.crop = (256, 256)
    config.data.scale_range = (0.5, 2.0)
    config.update_from_flattened_dict(EFFICIENTNET_LITE0)


def scenes_instances(config):
    """The built-in data set of objects: minutes on two cores."""
    config.data.crop = (128, 128)
    config.data.max_objects = 8
    _from_scratch_on_two_cores(config)
    config.optimizer.learning_rate = 0.05
    config.optimizer.clip_norm = 10.0
    config.train.steps = 1000


def coco_instances(config):
    """ZigZagNet (CVPR 2019, §6.2): shorter side 800, batches of 8 images, a warm-up, learning rate 0.01 for 200k updates, 0.001 for 60k and
    0.0001 for 40k. The longer side, the length of the warm-up and the weight decay are Mask R-CNN's."""
    config.data.base_size = (800,)
    config.data.max_side = 1333
    config.data.crop = ()
    config.train.batch_size = 8
    _two_rates(config, 0.01, 200_000, 300_000)
    config.optimizer.step_boundaries = (200_000, 260_000)
    config.optimizer.warmup_steps = 500
    config.optimizer.weight_decay = 1e-4


def folder_instances(config):
    """Your own images and objects (`ctxseg/data/builders/folder_instances.py`), from ImageNet's weights."""
    scenes_instances(config)
    config.data.base_size = (256,)
    config.data.max_side = 384
    config.data.crop = ()
    config.data.max_objects = 50
    config.data.scale_range = (0.8, 1.25)
    config.data.brightness = config.data.contrast = config.data.saturation = 0.3
    config.update_from_flattened_dict(EFFICIENTNET_LITE0)
    config.optimizer.rates = ("backbone=0.25",)  # a detector has no classifier of pixels


def _from_scratch_on_two_cores(config):
    """A small network without pretrained weights learns fastest at a learning rate too high for fine-tuning."""
    config.train.batch_size = 8
    config.optimizer.learning_rate = 0.2
    config.optimizer.warmup_steps = 30
    config.optimizer.weight_decay = 1e-4


def voc2012(config):
    """ZigZagNet (CVPR 2019, §5), except its five test scales: 120k updates with batches of 16 crops of 473×473; the learning rate drops
    once. Flip, crop, scaling and rotation; the ranges are our choice."""
    config.data.crop = (473, 473)
    config.data.scale_range = (0.5, 2.0)
    config.data.rotate = 10.0
    config.train.batch_size = 16
    _two_rates(config, 1e-3, 60_000, 120_000)


def zigzag(config):
    """ZigZagNet (CVPR 2019, §5), with its five test scales."""
    voc2012(config)
    config.eval.scales = (0.6, 0.8, 1.0, 1.2, 1.4)


def nyudv2(config):
    """MSCI (ECCV 2018, §5), except its five test scales: 120k updates with batches of 12 images. The paper gives no crop size:
    ZigZagNet's is used. The ranges of scaling and rotation are our choice."""
    voc2012(config)
    config.train.batch_size = 12


def msci(config):
    """MSCI (ECCV 2018, §5), with its five test scales."""
    nyudv2(config)
    config.eval.scales = (0.4, 0.6, 0.8, 1.0, 1.2)


def stanford_background(config):
    """N-ReNet (2016, §4): crops 240×320, batch size 10, from scratch. The paper gives neither the learning rate (H-ReNet's is used) nor
    the number of updates (the baseline FCN's is used)."""
    config.data.crop = (240, 320)
    config.data.padding = "reflect"
    config.train.batch_size = 10
    _two_rates(config, 1e-3, 6_000, 12_000)


def hrenet(config):
    """H-ReNet (2016, §4 and §4.2): crops 400×500 and flips only, batch size 10. 40k updates with several levels (30k with one, 12k for
    the baseline FCN); the learning rate drops half way."""
    config.data.crop = (400, 500)
    config.data.padding = "reflect"
    config.train.batch_size = 10
    _two_rates(config, 1e-3, 20_000, 40_000)


def pascal_person_part(config):
    """Attention to Scale (CVPR 2016, §4): batch size 30, no random scaling, ten times the learning rate for the final classifier layer.

    The crop is DeepLab's, as the paper uses DeepLab's settings; 6k updates are our choice.
    """
    config.data.crop = (321, 321)
    config.train.batch_size = 30
    config.optimizer.rates = ("classifier/scores=10",)
    _two_rates(config, 1e-3, 2_000, 6_000)
    # "After 2000 iterations" may mean once, (2_000,), or every 2,000 iterations. DeepLab says every.
    config.optimizer.step_boundaries = (2_000, 4_000)


def ade20k(config):
    """MCIBI (ICCV 2021, §4.1): 130 epochs."""
    _mcibi(config, (512, 512), 16, epochs=130, images=IMAGES["ade20k"])
    config.data.base_size = (512,)


def lip(config):
    """MCIBI (§4.1): 150 epochs. The paper gives neither the scale range nor the rotation: both are from the published runs."""
    _mcibi(config, (473, 473), 32, epochs=150, images=IMAGES["lip"])
    _persons(config)
    config.data.scale_range = (0.75, 1.25)
    config.data.rotate = 30.0
    config.data.rotate_share = 0.6


def cihp(config):
    """LIP's settings, except scale range and rotation. The number of epochs is our choice: MCIBI trains on LIP and only tests on CIHP
    (Table 4: `eval.data=cihp`)."""
    _mcibi(config, (473, 473), 32, epochs=150, images=IMAGES["cihp"])
    _persons(config)


def _persons(config):
    """Resizes all images to one size, whatever their aspect ratio. As in the published runs, the size in testing is another."""
    config.data.base_size = (520, 520)
    config.eval.size = (473, 473)


def cityscapes(config):
    """MCIBI (§4.1): 220 epochs. Trained and tested with a shorter side of 1024 pixels, which is the images' own size."""
    _mcibi(config, (512, 1024), 8, epochs=220, images=IMAGES["cityscapes"])


def coco_stuff(config):
    """MCIBI (§4.1): 30 epochs of the 164k version."""
    _mcibi(config, (512, 512), 16, epochs=30, images=IMAGES["coco_stuff"])
    config.data.base_size = (512,)


def coco_stuff10k(config):
    """As the 164k version, which has 13 times as many images. The paper gives no number of epochs: 110 is from the published runs."""
    _mcibi(config, (512, 512), 16, epochs=110, images=IMAGES["coco_stuff10k"])
    config.data.base_size = (512,)


def dilated_resnet50(config):
    """The backbone and classifier of the networks that the MCIBI paper compares with (Tables 1 and 5): ResNet-50, output stride 8, the stem
    of the published weights.

    The auxiliary head on res4 is from the published runs of MCIBI and of these networks.
    """
    config.model.backbone.name = "resnet50"
    config.model.backbone.stem = "conv3_32"
    config.model.classifier.dropout = 0.1
    config.model.auxiliary.levels = ("res4",)


def _two_rates(config, rate, boundary, steps):
    config.optimizer.learning_rate = rate
    config.optimizer.schedule = "step"
    config.optimizer.step_boundaries = (boundary,)
    config.train.steps = steps


def _mcibi(config, crop, batch_size, epochs, images):
    """Settings of all of MCIBI's data sets. The paper gives neither base size nor scale range: both are from the published runs. The
    strength of the colour jitter is our choice.

    The paper says of testing that "the size of the input image […] is the same as […] during training": `eval.size` is `data.base_size`.
    """
    config.data.crop = crop
    config.data.scale_range = (0.5, 2.0)
    config.data.brightness = config.data.contrast = config.data.saturation = 0.5
    config.data.hue = 0.1
    config.train.batch_size = batch_size
    config.train.steps = epochs * images // batch_size
    config.optimizer.learning_rate = 0.01


# {data set: (training split, test split)}, of the data sets whose splits are not called train and val.
SPLITS = {
    "voc2012": ("train_aug", "val"),
    "nyudv2": ("train", "test"),
    "sunrgbd": ("train", "test"),
    "stanford_background": ("fold1+fold2+fold3+fold4", "fold0"),
}

PROTOCOLS = {
    "scenes": scenes,
    "scenes_half": scenes,
    "scenes_rare": scenes,
    "scenes_instances": scenes_instances,
    "camvid": camvid,
    "folder": folder,
    "folder_instances": folder_instances,
    "voc2012": voc2012,
    "pascal_context": voc2012,
    "nyudv2": nyudv2,
    "sunrgbd": nyudv2,
    "stanford_background": stanford_background,
    "pascal_person_part": pascal_person_part,
    "coco_subset": pascal_person_part,
    "coco_voc": voc2012,
    "ade20k": ade20k,
    "lip": lip,
    "cihp": cihp,
    "cityscapes": cityscapes,
    "coco_stuff": coco_stuff,
    "coco_stuff10k": coco_stuff10k,
    "coco_instances": coco_instances,
}
