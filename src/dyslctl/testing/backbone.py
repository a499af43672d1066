"""The backbone contract (:class:`dyslctl.backbone.Backbone`), rule by rule."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dyslctl.backbone import Backbone
from dyslctl.errors import ConfigError
from dyslctl.testing import head_rules, layer_rules
from dyslctl.testing.case import Case
from dyslctl.testing.report import Check, CheckReport
from dyslctl.types import Observation

CHECKS: tuple[Check[Case], ...] = (
    Check(
        layer_rules.spec,
        "fill BackboneSpec from the loaded weights, and workload() from the spec",
    ),
    Check(
        layer_rules.encoded,
        "hidden [B,T,H] in the backbone's dtype and device; positions and kinds [B,T] int64, positions ascending",
    ),
    Check(
        layer_rules.encode_pure,
        "no randomness (eval mode, seeded weights), no state kept between calls, no in-place operation on the inputs",
    ),
    Check(
        layer_rules.bad_observation,
        "check view names, dtype uint8 and shape [height, width, 3] first, and say which view is wrong",
    ),
    Check(
        layer_rules.run_layer,
        "return a new tensor; x = x + f(x), never x += f(x)",
    ),
    Check(
        layer_rules.resume,
        "run_layer(i, state) may depend on i and state alone: eval mode, no cache filled by an earlier layer",
    ),
    Check(
        layer_rules.fork,
        "never write into what state.context holds; replace it",
    ),
    Check(
        layer_rules.select,
        "take rotary tables from state.positions and the attention mask from state.mask, never from arange(T); "
        "let the head find its tokens by kind",
    ),
    Check(
        layer_rules.attention,
        "softmax of the queries' rows in float32, with the mask and the positions that run_layer has",
    ),
    Check(
        layer_rules.beside,
        "append the others' keys and values to the tokens' own, with a mask by original positions if it is causal",
    ),
    Check(
        layer_rules.last_live,
        "usually num_layers - 1; less only if the head reads an earlier hidden state",
    ),
    Check(
        head_rules.predict,
        "one normalised action for each of the chunk's N steps; write nothing into the hidden state",
    ),
    Check(
        head_rules.reads,
        "find what the head reads by its kind, and give it the kind PROPRIO, TEXT or ACTION",
    ),
    Check(
        head_rules.batch,
        "mask padding in every layer and in the head, and give real tokens the positions they have alone",
    ),
    Check(
        head_rules.gradient,
        "model.requires_grad_(False) in load; no torch.no_grad or inference_mode inside run_layer and predict",
    ),
    Check(
        head_rules.memory,
        "snapshot must copy whatever predict changes, and restore must copy it again",
    ),
    Check(
        head_rules.decode,
        "actions and normalized are float32 [N,A]; the gripper of normalized is the executed -1 or 1; "
        "decode_action(normalize(actions)) gives actions back",
    ),
    Check(
        head_rules.task_loss,
        "reduce over N and A only",
    ),
)


def check_backbone(backbone: Backbone, observations: Sequence[Observation]) -> CheckReport:
    """Run every rule of the backbone contract.

    Args:
        backbone: A loaded backbone. The memory of its head is reset.
        observations: Two or more of its task suite, with instructions of different length if the model pads.

    Raises:
        PluginError: If any rule is broken; lists all of them.
        ConfigError: If there are fewer than two observations.
    """
    if len(observations) < 2:
        raise ConfigError(f"check_backbone needs two or more observations, found {len(observations)}")
    with torch.no_grad():
        report = CheckReport.of(type(backbone).__name__, Case(backbone, tuple(observations)), CHECKS)
    backbone.reset()
    return report.require()
