"""Settings that make no sense together, refused before anything is written. It knows no method by name."""

from itertools import pairwise

from satbench.core.errors import BadInput
from satbench.methods import Method
from satbench.numerics.threat import ThreatModel
from satbench.training.attacked import excluded
from satbench.training.config import TrainConfig
from satbench.training.settings import DataConfig
from satbench.training.stages import Stage, method_of, stage_configs


def refuse_undefined(config: TrainConfig) -> None:
    """Raise `BadInput` for the first combination of a run, or of one of its stages, that is undefined.

    No source defines it, or it could have no effect.
    """
    stages = stage_configs(config)
    methods = [method_of(one) for one in stages]
    for stage, method in zip(stages, methods, strict=True):
        _refuse_within(stage, method)
    if methods[0].needs_trained and config.init_from is None:
        raise BadInput(
            f"undefined: {stages[0].method.name} of an untrained network; set init_from to a trained one, or give "
            "stages of which an earlier one trains it"
        )
    for number, (before, now) in enumerate(pairwise(stages), 2):
        ours, theirs = ((one.optimizer.name, one.optimizer.decay) for one in (now, before))
        if config.stages[number - 1].keep_optimizer and ours != theirs:
            raise BadInput(
                f"undefined: keep_optimizer in stage {number}, whose optimizer is {' '.join(ours)} and the one before "
                f"{' '.join(theirs)} (name, decay); leave it out, or give equal ones"
            )


def _refuse_within(config: TrainConfig, method: Method) -> None:
    """Raise `BadInput` for the first such combination within a stage, or a run without stages."""
    method.refuse(ThreatModel(config.threat.norm, config.threat.eps))
    surrogate, speed = config.surrogate, config.speed
    inner = config.method.params.get("method")
    name = f"{config.method.name} around {inner}" if inner else config.method.name
    crafts = method.crafts
    no_copy = excluded(config, method)
    for refused, what in (
        (surrogate.attacker and not crafts, f"surrogate.attacker with {name}, whose attacker takes no pass of its own"),
        (config.attack_bn_mode == "train" and not crafts, f"attack_bn_mode=train with {name}, which crafts no image"),
        (speed.precision == "bf16-attack" and not crafts, f"speed.precision=bf16-attack with {name}, use bf16"),
        (speed.search_copy is True and no_copy is not None, f"speed.search_copy=true with {no_copy}"),
        (
            (surrogate.attacker or surrogate.optimizer) and config.activation != "relu",
            f"a surrogate derivative with {config.activation}; it stands in for that of relu",
        ),
        (
            (surrogate.attacker or surrogate.optimizer) and speed.compile,
            "a surrogate derivative with speed.compile; switch one of them off",
        ),
        (
            method.second_order and (speed.compile or speed.precision != "float32"),
            f"speed.compile or bfloat16 with {name}, whose loss holds a gradient; train it in float32",
        ),
        (
            method.second_order and (surrogate.attacker or surrogate.optimizer),
            f"a surrogate derivative with {name}, whose loss holds a gradient",
        ),
        (
            config.label_smoothing.amount > 0 and not method.soft_targets,
            f"label smoothing with {name}, whose loss is defined for "
            + ("hard labels" if method.labelled else "no labels"),
        ),
        (
            config.augment == "none" and method.views > 1,
            f"augment=none with {name}, which learns from {method.views} views of every image that differ; set augment",
        ),
        (
            speed.compile and not method.labelled,
            f"speed.compile with {name}, which reads the representation inside the network",
        ),
        (
            config.accumulation > 1 and not method.separable,
            f"accumulation with {name}, whose loss weighs the images of a batch against each other",
        ),
        (
            config.threat.warmup_epochs > 0 and not crafts,
            f"threat.warmup_epochs with {name}, which crafts no image from the start",
        ),
        (
            config.sync_batch_norm and config.attack_bn_mode == "train",
            "sync_batch_norm with attack_bn_mode=train, whose attack would wait for the other processes at every step",
        ),
        (
            config.sync_batch_norm and config.accumulation > 1,
            "sync_batch_norm with accumulation, whose parts of a batch go through the network one after another",
        ),
        (
            speed.activation_checkpointing and speed.compile,
            "speed.activation_checkpointing with speed.compile, whose compiler decides what is recomputed",
        ),
        (
            speed.activation_checkpointing and method.two_modes,
            f"speed.activation_checkpointing with {name}, whose loss runs the network in two modes; set accumulation",
        ),
        (
            config.data.extra is None and config.data.extra_fraction != DataConfig().extra_fraction,
            "data.extra_fraction without data.extra, whose share it is",
        ),
        (
            config.data.val == "none" and (config.stop.patience is not None or config.stop.collapse != "note"),
            "stop.patience or stop.collapse with data.val=none, since both look at the validation split",
        ),
        (
            config.measure.every > 1 and len(method.reads) > 0,
            f"measure.every={config.measure.every} with {name}, which reads {', '.join(method.reads)} of the "
            "validation split after every epoch; set measure.every=1",
        ),
        (
            config.measure.every > 1 and config.stop.collapse == "rollback",
            "stop.collapse=rollback with measure.every above 1: the epoch before was not measured",
        ),
    ):
        if refused:
            raise BadInput(f"undefined: {what}")


def refuse_late_starts(stage: Stage) -> None:
    """Raise `BadInput` where a warm-up, or what the method waits with, is still to come when the stage ends."""
    config, method, epochs = stage.config, stage.method, stage.epochs
    if max(config.threat.warmup_epochs, config.optimizer.warmup_epochs) >= epochs:
        raise BadInput(f"undefined: a warm-up that is not over before the {epochs:g} epochs are; shorten it")
    if method.start_epoch >= epochs:
        raise BadInput(
            f"undefined: {config.method.name} that starts after epoch {method.start_epoch} of {epochs:g}; set "
            "method.start_epoch"
        )
    method.refuse_length(epochs, stage.last - stage.first)


def refuse_small_parts(config: TrainConfig, images: int, processes: int) -> None:
    """Raise `BadInput` where `accumulation` leaves a part of a process's share of a batch fewer than two images."""
    own = min(config.batch_size, images) // processes
    if config.accumulation > max(1, own // 2):
        raise BadInput(
            f"accumulation={config.accumulation} cuts the {own} images that a process gets of a batch into parts of "
            f"fewer than two; give at most {max(1, own // 2)}"
        )
