"""Recipes: every choice that decides what a run computes."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from nfx.augment import Augmentation, Stage
from nfx.train import PrecisionName


# Of `nfx.nn.Remat`, those that have a name.
RematName = Literal["none", "full", "convs"]


# What numbers of a recipe may be, if they are given.
# fmt: off
_RANGES: tuple[tuple[str, Callable[[float], bool], tuple[str, ...]], ...] = (
    ("at least 1", lambda x: x >= 1,
     ("steps", "batch_size", "image_size", "test_size", "microbatches", "unroll")),
    ("at least 0", lambda x: x >= 0,
     ("final_learning_rate", "warmup_steps", "weight_decay", "mixup", "sharpness_radius",
      "randaugment_layers", "randaugment_level")),
    ("more than 0", lambda x: x > 0, ("learning_rate", "clipping")),
    ("in (0, 1]", lambda x: 0 < x <= 1, ("crop_area",)),
    ("in [0, 1]", lambda x: 0 <= x <= 1, ("bad_share", "erase")),
    ("in [0, 1)", lambda x: 0 <= x < 1,
     ("momentum", "ema", "label_smoothing", "stochastic_depth", "dropout")),
    ("in [0, 2**32)", lambda x: 0 <= x < 2**32, ("seed",)),
)
# fmt: on


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What to train, on what, and how: on one machine, always with the same bits at the end.

    Attributes:
        data: What to train on: "sample", the images that nfx carries; a folder of images, as
            train/CLASS/*.jpg and test/CLASS/*.jpg, or CLASS/*.jpg with every tenth held out; what
            `nfx convert` wrote; or "noise", to measure with.
        image_size: Side of the training images, in pixels. The sample has 28.
        test_size: Side of the test images; None for that of the training images. Networks of this
            kind do best on test images larger than what they were trained on.
        color: Whether images are decoded to RGB or to gray. The sample is gray.
        crop_area: Smallest share of an image that a random crop keeps, 0.08 in the paper; 1 for no
            random crops, but the largest square in the centre.
        decoder: Who decodes and resizes training images: Pillow, or the faster OpenCV
            (pip install 'nfx[fast]'), whose pixels differ by about one level. Test images, and
            training images without random crops, are always Pillow's.
        bad_images: What to do with images that cannot be read: raise an error that names them, or
            skip them: another is drawn, and the run directory lists them.
        bad_share: Stop when more than this share of the images is skipped.
        model: A name that `nfx models` lists, as nfnet_micro or nf_regnet_b0.
        init: What to start from, in place of fresh parameters: the averaged ones of a run, of its
            latest checkpoint or of RUN@STEP or RUN@best; a file of weights; or weights on the
            Hugging Face Hub, as timm/dm_nfnet_f0.dm_in1k. The head is kept if the classes are
            the same, and otherwise a fresh one.
        freeze: What is not trained: all but the head ("backbone"), or nothing. What is
            frozen costs as much as what is not.
        steps: Steps of training in all.
        batch_size: Images in a step, over all devices.
        learning_rate: Peak rate for a batch of 256; it is scaled to the batch size.
        final_learning_rate: Where the rate ends, not scaled.
        warmup_steps: Steps over which the rate rises to its peak, to fall along a cosine after;
            half of the steps at most. A fraction is fine.
        momentum: Of the Nesterov momentum.
        weight_decay: L2 penalty on kernels; gains and biases have none.
        clipping: Adaptive gradient clipping's largest ratio of gradient to parameter norm; None
            for no clipping.
        sharpness_radius: Radius of sharpness-aware minimization, which doubles the cost of a step;
            0 for none.
        ema: Decay of the averaged parameters, by which the run is judged; 0 for no average.
        label_smoothing: Share of a label that is spread over all classes.
        stochastic_depth: Rate at which residual branches are dropped, at the end of the ramp.
        dropout: Rate before the head.
        flip: Whether half of the training images are mirrored left to right.
        randaugment_layers: How many of RandAugment's operations each training image goes
            through; 4 in the paper, 0 for none.
        randaugment_level: How strong they are; 5, 10 and 15 in the paper.
        randaugment_rules: What the operations do: "corrected", as timm does, or "official", as the
            official code did, quirks and all: it moves images by up to 150 pixels, however small
            they are.
        mixup: Parameter of MixUp's Beta distribution, 0.2 in the paper; 0 for no MixUp.
        cutmix: Whether to paste boxes between images. With MixUp too, each does half.
        erase: Probability that a box of a training image is erased.
        augment_order: What is done to training images, in this order; what is off does nothing.
            NFNets mix before RandAugment; NF-RegNets normalize before they mix.
        precision: In which dtypes the network computes in training: "float32"; "mixed", bfloat16
            with kernels standardized in float32; "official_bf16", bfloat16 throughout, as the
            official code. The state is in float32 whichever it is, and so are evaluations.
        microbatches: In how many parts, one after the other, each device takes its images of a
            step. It saves memory, and changes nothing but rounding.
        stack: Whether blocks that are alike run in one loop, for a smaller program: see
            `nfx.graph.stack_blocks`.
        remat: What the backward pass computes again of stacked blocks, to save memory: nothing,
            all, or all but convolutions.
        unroll: Blocks to each turn of the loop.
        seed: Of parameters, order and augmentation.
    """

    data: str = "sample"
    image_size: int = 28
    test_size: int | None = None
    color: Literal["rgb", "gray"] = "gray"
    crop_area: float = 1.0
    decoder: Literal["pillow", "opencv"] = "pillow"
    bad_images: Literal["raise", "skip"] = "raise"
    bad_share: float = 0.01
    model: str = "nfnet_micro"
    init: str = ""
    freeze: Literal["none", "backbone"] = "none"
    steps: int = 2000
    batch_size: int = 32
    learning_rate: float = 1.2
    final_learning_rate: float = 0.0
    warmup_steps: float = 156.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clipping: float | None = 0.02
    sharpness_radius: float = 0.0
    ema: float = 0.995
    label_smoothing: float = 0.1
    stochastic_depth: float = 0.1
    dropout: float = 0.2
    flip: bool = True
    randaugment_layers: int = 0
    randaugment_level: int = 10
    randaugment_rules: Literal["official", "corrected"] = "corrected"
    mixup: float = 0.0
    cutmix: bool = False
    erase: float = 0.0
    augment_order: tuple[Stage, ...] = Augmentation().order
    precision: PrecisionName = "float32"
    microbatches: int = 1
    stack: bool = False
    remat: RematName = "none"
    unroll: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks that every number is in its range, and takes NumPy's for Python's.

        Raises:
            ValueError: Listing all that are not.
        """
        for field in dataclasses.fields(self):
            if isinstance(value := getattr(self, field.name), np.generic):
                object.__setattr__(self, field.name, value.item())  # files have Python's alone
        problems = [
            f"{name}={value} must be {words}"
            for words, holds, names in _RANGES
            for name in names
            if (value := getattr(self, name)) is not None and not holds(value)
        ]
        peak = self.learning_rate * self.batch_size / 256
        if self.final_learning_rate > peak:
            problems.append(
                f"final_learning_rate={self.final_learning_rate} must be at most the peak, {peak:g}"
            )
        if not self.stack and (self.remat, self.unroll) != ("none", 1):
            problems.append(f"remat={self.remat!r} and unroll={self.unroll} need stack=True")
        if problems:
            raise ValueError(f"The recipe cannot be trained: {'; '.join(problems)}.")
        self.augmentation  # noqa: B018 (checks the order)

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return 3 if self.color == "rgb" else 1

    @property
    def resolved_test_size(self) -> int:
        """Side of the test images, in pixels."""
        return self.test_size or self.image_size

    @property
    def augmentation(self) -> Augmentation:
        """What the device does to training images."""
        return Augmentation(
            flip=self.flip,
            randaugment_layers=self.randaugment_layers,
            randaugment_level=self.randaugment_level,
            randaugment_rules=self.randaugment_rules,
            mixup_alpha=self.mixup,
            cutmix=self.cutmix,
            erase_probability=self.erase,
            order=self.augment_order,
        )


def recipe_from_config(config: Mapping[str, Any]) -> Recipe:
    """Rebuilds the recipe that a run directory's configuration records.

    Raises:
        ValueError: If its fields are not those of this version's recipes.
    """
    fields = {field.name for field in dataclasses.fields(Recipe)}
    saved = config.get("recipe", {})
    if set(saved) != fields:
        raise ValueError(
            f"The run's recipe has the fields {sorted(saved)}, and this version of nfx expects "
            f"{sorted(fields)}: use the version that wrote it."
        )
    return Recipe(**{**saved, "augment_order": tuple(saved["augment_order"])})  # JSON has lists


def check_same_recipe(run: str, saved: Recipe, asked: Recipe) -> None:
    """Raises a `ValueError` that lists the fields in which two recipes differ.

    Where the images are may differ, as they may have moved; and what to do with bad ones: up to
    the first, which may have stopped the run, it changes nothing.
    """
    old, new = dataclasses.asdict(saved), dataclasses.asdict(asked)
    differ = [
        f"{name}={old[name]!r}, and not {new[name]!r}"
        for name in old
        if old[name] != new[name] and name not in ("data", "bad_images", "bad_share")
    ]
    if differ:
        raise ValueError(
            f"{run!r} holds another run, with {'; '.join(differ)}. To resume it, leave these "
            "options out; to train otherwise, choose another --run-dir."
        )
