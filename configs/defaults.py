"""Every field that exists, with its default. A config file changes some of them; the command line, any.

A field that is `None` takes the default of the module it belongs to. A field that the chosen module does not have is not read, and an
override of one that nothing reads is an error (`ctxseg/settings/reading.py`). A `name` may also be of something outside of the package,
`package.module:Class`, which is looked for in the working directory too.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.system = ""  # the config file's name, for titles and the default work directory
    config.seed = 0  # of initial weights, order of images and augmentation

    config.model = ConfigDict()
    config.model.dtype = "float32"  # of the computation: float32 or bfloat16; parameters are float32 always
    config.model.frozen = ()  # beginnings of names ("backbone/conv1") of parameters that stay as they are
    config.model.kernel_std = (
        0.0  # of first kernels, normal, of vgg16's conv6 and conv7 and convolutions after the backbone; 0: He's
    )
    config.model.backbone = backbone = ConfigDict()
    backbone.name = "tiny"  # tiny, vgg16, resnet18, resnet34, resnet50, resnet101, resnet152; none (raw pixels); or package.module:Class
    backbone.output_stride = (
        8  # tiny, resnet*: 32, 16 or 8: pixels per position of the coarsest map; 16 and 8 by dilation
    )
    backbone.stem = placeholder(str)  # resnet*: conv7 (7×7), or three 3×3: conv3_32 (32, 32, 64), conv3 (64, 64, 128)
    backbone.width = placeholder(int)  # tiny, vgg16: channels of the first convolution
    backbone.norm = placeholder(str)  # vgg16: none or batch
    backbone.layout = placeholder(str)  # vgg16: largefov (DeepLab) or hrenet (its paper's baseline): poolings and conv7
    backbone.conv7_kernel = placeholder(int)  # vgg16: 1 or 3; 0: as the layout has it
    backbone.dropout = placeholder(float)  # vgg16: after conv6 and conv7

    config.model.context = context = ConfigDict()
    context.name = (
        "none"  # none (the FCN), a key of ctxseg.models.CONTEXTS: renet, msci, zigzag, ppm, …; or package.module:Class
    )
    context.levels = placeholder(tuple)  # names of the backbone's maps it reads, finest first
    context.channels = placeholder(int)  # C, to which the maps are projected
    context.norm = placeholder(str)  # batch or none, inside the context module
    context.stages = placeholder(int)  # msci, zigzag: T
    context.units = placeholder(tuple)  # renet: LSTM units per direction of each group
    context.patch = placeholder(tuple)  # renet: height, width of the patches that the first layer sweeps
    context.cell = placeholder(str)  # renet: lstm, gru or irnn
    context.entering = placeholder(str)  # renet: none, batch or l2 normalisation of the maps that enter
    context.l2_scale = placeholder(float)  # renet: λ of l2
    context.superpixels = placeholder(bool)  # msci, Table 1: context of regions, or of 3×3 windows of the other level
    context.cell_states = placeholder(bool)  # msci, Table 1: LSTM cell states kept over stages and phases
    context.reset_states = placeholder(bool)  # msci: cell states 0 before each phase
    context.phases = placeholder(str)  # msci: all (the paper) or one
    context.directions = placeholder(str)  # msci: both (the paper); up: fine to coarse alone; down
    context.region_shape = placeholder(str)  # msci: superpixels (the paper) or grid
    context.regions = placeholder(int)  # msci: super-pixels of an image, at most
    context.region_context = placeholder(
        str
    )  # zigzag, Table 2: rce, global_image, global_subregion, gcn, ppm, aspp, none
    context.subdivisions = placeholder(tuple)  # zigzag, rce: K' of the branches of the region context encoding
    context.region_pool = placeholder(str)  # msci, zigzag, rce: sum (the paper) or mean over a subregion
    context.combine = placeholder(str)  # zigzag: product (the paper) or sum (its ablation SCF) of context maps
    context.context_norm = placeholder(str)  # zigzag: gate, batch or none (the paper), on context maps
    context.fuse_kernel = placeholder(int)  # zigzag: size of the convolutions W that fuse directions; aspp: of its last
    context.fuse_order = placeholder(str)  # zigzag, in W: conv_norm_relu, norm_conv_relu or norm_relu_conv
    context.bring = placeholder(str)  # zigzag, a context map to a coarser level: bilinear, average or strided
    context.readout = placeholder(str)  # zigzag, what the classifier reads: down (P^{1,d}) or up (P^{1,u})
    context.convolutions = placeholder(int)  # fcn: how many 3×3 ones
    context.bins = placeholder(tuple)  # ppm, apcnet, ann: cells of the grids along either axis
    context.dilations = placeholder(tuple)  # aspp, encoder_decoder, deeplabv3plus, and zigzag with region_context=aspp
    context.aspp = placeholder(bool)  # encoder_decoder: ASPP on the coarsest map
    context.low_channels = placeholder(int)  # deeplabv3plus: of the fine map
    context.key_channels = placeholder(int)  # ocr: of queries, keys and values
    context.kernel = placeholder(int)  # gcn: k
    context.kind = placeholder(str)  # global_fc: image or subregion
    context.grid = placeholder(int)  # global_fc: subregions along either axis
    context.recurrence = placeholder(int)  # ccnet: times that attention is applied
    context.temperature = placeholder(float)  # dnl: of the pairwise term
    context.exchange = placeholder(bool)  # zigzag, Table 1: several passes between top-down and bottom-up
    context.fusion = placeholder(bool)  # zigzag, Table 1: fuse the two directions' maps
    context.dense = placeholder(bool)  # zigzag, Table 1: context of all levels passed, or of the adjacent one

    config.model.connections = connections = ConfigDict()  # before the context, of MSCI's fields above
    connections.name = "none"  # none, or msci: one phase of its T stages
    connections.levels = placeholder(tuple)
    connections.channels = placeholder(int)
    connections.stages = placeholder(int)
    connections.directions = placeholder(str)
    connections.superpixels = placeholder(bool)
    connections.cell_states = placeholder(bool)
    connections.region_shape = placeholder(str)
    connections.region_pool = placeholder(str)
    connections.regions = placeholder(int)
    connections.norm = placeholder(str)

    config.model.memory = memory = ConfigDict()
    memory.name = "none"  # none, mcibi
    memory.channels = placeholder(int)  # C of the representations
    memory.fusion = placeholder(str)  # concat (the paper), add or weighted_add
    memory.dropout = placeholder(float)  # in the classifier of class distributions
    memory.first = placeholder(
        str
    )  # what entries begin as: random (the paper: a pixel) or clustering, over training batches; mean: at first sight
    memory.clustering_batches = placeholder(int)  # random, clustering: training batches before the first step
    memory.cosine = placeholder(bool)  # Table 2: weight pixels by dissimilarity with the entry they update
    memory.polynomial = placeholder(bool)  # Table 2: the update's momentum falls over the run
    memory.momentum = placeholder(float)  # m_0
    memory.power = placeholder(float)  # p of the momentum's fall
    memory.consistency_norm = placeholder(
        str
    )  # consistent learning normalises by: running or the entries' own statistics

    config.model.auxiliary = auxiliary = ConfigDict()
    auxiliary.levels = ()  # names of the backbone's maps that have a head of their own, which only the loss reads; (): none
    auxiliary.channels = placeholder(int)  # of a head's 3×3 convolution
    auxiliary.dropout = placeholder(float)  # in a head

    config.model.classifier = ConfigDict()
    config.model.classifier.hidden = 0  # channels of a convolution before the last; 0: none
    config.model.classifier.dropout = 0.0  # before the last convolution

    config.model.scales = scales = ConfigDict()
    scales.merge = "none"  # none (one scale), attention, average or max
    scales.scales = (1.0, 0.5)  # of the image, each run through the network
    scales.head_input = placeholder(str)  # attention: context (fc7), logits (fc8) or a map of the backbone (conv6)
    scales.head_layers = placeholder(int)  # attention: 2 or 1
    scales.head_kernel = placeholder(int)  # attention: of the first layer
    scales.head_filters = placeholder(int)  # attention: of the first layer

    config.loss = ConfigDict()
    config.loss.name = "cross_entropy"  # of the scores at pixels: cross_entropy, or package.module:function
    # Weights, relative to the scores' own loss.
    config.loss.auxiliary = 0.4  # of auxiliary classifiers: ocr's soft regions, mcibi's class distributions (α)
    config.loss.heads = 0.4  # of the auxiliary heads of config.model.auxiliary
    config.loss.memory = 1.0  # mcibi: representation consistent learning (β); 0: off
    config.loss.scales = 1.0  # extra supervision of each scale's own scores; 0: off

    config.data = data = ConfigDict()
    data.name = "scenes"  # scenes, folder (your own), camvid, voc2012, … : the keys of ctxseg.data.DATASETS; or package.module:Class
    data.data_dir = "~/.cache/ctxseg"  # where prepared data sets are kept
    data.manual_dir = placeholder(
        str
    )  # the data set as its makers ship it; not needed for scenes, nor once prepared or downloaded
    data.superpixels = 0  # regions of an image at most, by SLIC, for msci: 1000 for photographs; 0: none
    data.base_size = ()  # to which images are resized first: (shorter side,), (height, width), or (), their own
    data.crop = (128, 128)  # height, width of a training crop
    data.padding = (
        "ignore"  # what surrounds an image smaller than the crop: ignore (labelled 255) or reflect (its mirror image)
    )
    data.flip = True  # horizontally, one image in two; classes named left … and right … change places
    data.scale_range = (1.0, 1.0)  # factor of random scaling, of the base size
    data.rotate = 0.0  # at most, degrees either way
    data.rotate_share = 1.0  # of the images that are rotated
    data.brightness = 0.0  # colour jitter: factors in 1 ± this
    data.contrast = 0.0
    data.saturation = 0.0
    data.hue = 0.0  # shift by at most this share of the colour circle
    data.threads = 2  # that read and augment

    config.train = train = ConfigDict()
    train.split = "train"  # of the data set; several as "fold1+fold2"
    train.steps = 600  # optimiser updates
    train.batch_size = 16  # images a step, over all devices
    train.log_every = 20  # steps
    train.loggers = ("tensorboard",)  # beside metrics.jsonl: tensorboard, or package.module:Class
    train.eval_every = 0  # steps between evaluations on the validation split; 0: at the end alone
    train.checkpoint_every = 200  # steps
    train.keep = 2  # last checkpoints kept, beside the best one

    config.optimizer = optimizer = ConfigDict()
    optimizer.name = "sgd"  # sgd, or package.module:function
    optimizer.learning_rate = 0.01  # at its highest
    optimizer.momentum = 0.9  # Attention to Scale's; the other papers give none
    optimizer.nesterov = False
    optimizer.weight_decay = 5e-4  # L2, on kernels alone; Attention to Scale's and MCIBI's, the others give none
    optimizer.rates = ()  # "classifier/scores=10": factor of the rate, by the beginning of names (as model.frozen)
    optimizer.clip_norm = 0.0  # global norm that gradients are clipped to; 0: not
    optimizer.schedule = "poly"  # poly, step or constant
    optimizer.warmup_steps = 0  # linear, from 0
    optimizer.poly_power = 0.9  # (1 - t/T)^power
    optimizer.step_boundaries = ()  # step: the rate is multiplied by step_factor at each of these steps
    optimizer.step_factor = 0.1

    config.eval = ConfigDict()
    config.eval.split = "val"
    config.eval.data = (
        ""  # a prepared data set of the same classes to test on, or other data of data.name; "": those trained on
    )
    config.eval.batch_size = 8  # images of one size a step, over all devices
    config.eval.samples = 8  # images shown in the report
    config.eval.scales = (1.0,)  # factors of an image's height and width, over which probabilities are averaged
    # At other scales than 1. image: the image's, resized with it; scale: of the resized image; scale_by_area: likewise, s² times as many.
    config.eval.superpixels = "image"
    config.eval.flip = False  # the mirror image counts as much as the image
    config.eval.size = data.get_oneway_ref("base_size")  # likewise, in testing; unless it is given, as in training
    config.eval.score = "original"  # where size is given: at the labels' own size, or resized as the image is
    config.eval.window = ()  # height, width of a sliding window; (): the whole image at once
    config.eval.stride = 2 / 3  # of the window, as a share of it
    config.eval.crf = crf = (
        ConfigDict()
    )  # fully connected CRF over the probabilities; the papers give no values: near DeepLab's
    crf.iterations = 0  # of its mean field; 0: none, 10 is usual
    crf.spatial_weight = 3.0
    crf.spatial_sigma = 3.0  # pixels
    crf.bilateral_weight = 4.0
    crf.bilateral_sigma = 67.0  # pixels
    crf.colour_sigma = 4.0  # of 0..255
    config.eval.crf_images = 50  # images of the split that --mode=crf tries parameters on
    config.eval.max_pixels = (
        4_000_000  # predict: larger images are labelled at this size, and the labels brought to theirs
    )
    config.eval.shapes = (
        "buckets"  # buckets (padded to one of few shapes, each compiled once) or exact (each size is compiled)
    )

    config.complexity = complexity = ConfigDict()  # of the mode of that name
    complexity.input = (1, 128, 128, 2048)  # images, height, width and channels of the map that each context reads
    complexity.channels = 512  # of each context
    complexity.contexts = ()  # names of rows: contexts, dca, "aspp + dca"; (): all
    complexity.repeats = 5  # timed executions; 0: operations are counted, and nothing is executed
    return config
