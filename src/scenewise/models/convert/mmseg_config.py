"""Settings in the config text of an mmsegmentation checkpoint; the text is parsed, never run.

0.x stores it as ``meta["config"]``, 1.x as ``meta["cfg"]``: Python with assignments of literals and
``dict(...)`` calls. A setting that the text leaves out has the default of mmsegmentation's code.
"""

import ast
import logging
from collections.abc import Mapping
from typing import Any

from scenewise.errors import UserError
from scenewise.models.preprocessing import Preprocessing

_log = logging.getLogger("scenewise")
_LIMIT = 1_000_000  # characters; published configs have about 10,000
_OPAQUE = object()  # what is not a literal
_RAW = Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "RGB", 255.0)  # without normalisation

# Network -> (option here, its key in the head's config, mmsegmentation's default).
HEAD_OPTIONS: dict[str, tuple[str, str, Any]] = {
    "ann": ("sizes", "key_pool_scales", (1, 3, 6, 8)),
    "ccnet": ("recurrence", "recurrence", 2),
    "deeplabv3": ("rates", "dilations", (1, 6, 12, 18)),
    "deeplabv3plus": ("rates", "dilations", (1, 6, 12, 18)),
    "dnl": ("temperature", "temperature", 0.05),
    "emanet": ("stages", "num_stages", 3),
    "fcn": ("dilation", "dilation", 1),
    "isa": ("tile", "down_factor", (8, 8)),
    "pspnet": ("bins", "pool_scales", (1, 2, 3, 6)),
    "upernet": ("bins", "pool_scales", (1, 2, 3, 6)),
}
# Strides and dilations of the four stages -> output stride.
_STRIDES: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {
    ((1, 2, 1, 1), (1, 1, 2, 4)): 8,
    ((1, 2, 2, 1), (1, 1, 1, 2)): 16,
    ((1, 2, 2, 2), (1, 1, 1, 1)): 32,
}
# Settings that change the result, with the only values that can be built; the first is the default.
_BACKBONE: dict[str, tuple[Any, ...]] = {
    "type": ("ResNet", "ResNetV1c"),
    "style": ("pytorch",),
    "avg_down": (False,),
    "conv_cfg": (None,),
    "dcn": (None,),
    "plugins": (None,),
    "num_stages": (4,),
    "out_indices": ((0, 1, 2, 3),),
}
_CONCATENATED = {"concat_input": (True,), "dilation": (1,), "kernel_size": (3,)}
_NON_LOCAL = {**_CONCATENATED, "use_scale": (True,), "mode": ("embedded_gaussian",)}
_HEADS: dict[str, dict[str, tuple[Any, ...]]] = {
    "ann": {"query_scales": ((1,),)},
    "ccnet": _CONCATENATED,
    "dnl": _NON_LOCAL,
    "emanet": {"concat_input": (True,)},
    "encnet": {"add_lateral": (False,)},
    "fcn": {"concat_input": (True,)},
    "gcnet": {
        **_CONCATENATED,
        "pooling_type": ("att",),
        "fusion_types": (("channel_add",), "channel_add"),
    },
    "nonlocal": _NON_LOCAL,
    "ocr": {"scale": (1,)},
}
# The stages of heads that take several; EncNet uses the last of them without its lateral layers.
_STAGES = {"ann": ((2, 3),), "upernet": ((0, 1, 2, 3),), "encnet": (3, (1, 2, 3), (3,))}
_REGIONS = {"type": ("FCNHead",), "in_index": (2, -2), "concat_input": (False,), "dilation": (1,)}


class Config:
    """The literals of a config text.

    Args:
        file: the checkpoint's name, for error messages.
        values: name -> literal.
    """

    def __init__(self, file: str, values: Mapping[str, Any]) -> None:
        self.file, self.values = file, values
        self._model = self._section(values, "model")
        self._backbone = self._section(self._model, "backbone")

    def settings(self, network: str) -> dict[str, Any]:
        """The settings of backbone, head and preprocessing, by their names here.

        Raises:
            UserError: a setting is not a literal, or cannot be built.
        """
        self._check(self._model, neck=(None,))
        self._check(self._backbone, **_BACKBONE)
        self._check_layers(self._backbone)
        main = self._main_head(network)
        found: dict[str, Any] = {
            "output_stride": self._output_stride(),
            "multi_grid": self._integers(self._backbone, "multi_grid", None) or (),
            "contract_dilation": self._boolean(self._backbone, "contract_dilation"),
            "align_corners": self._boolean(main, "align_corners"),
        }
        if network in HEAD_OPTIONS:
            option, key, default = HEAD_OPTIONS[network]
            found[option] = self._head_option(main, key, default)
        if network.startswith("deeplabv3"):
            found["rates"] = self._rates(found["rates"])
        preprocessing = self._preprocessing()
        return found if preprocessing is None else {**found, "preprocessing": preprocessing}

    def threshold(self) -> float:
        """Of a network with one output channel; 0.3 is mmsegmentation's default."""
        heads = self._model.get("decode_head")
        main = heads[-1] if isinstance(heads, tuple) and heads else heads
        value = main.get("threshold") if isinstance(main, Mapping) else None
        if value is None:
            return 0.3
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._refusal("threshold", value, "a number")
        return float(value)

    def _main_head(self, network: str) -> Mapping[str, Any]:
        main: Mapping[str, Any]
        heads = self._model.get("decode_head")
        if network == "ocr":  # a cascade: coarse regions, then the head
            if not isinstance(heads, tuple) or len(heads) != 2:
                raise self._refusal("decode_head", heads, "a list of two heads")
            if not all(isinstance(head, Mapping) for head in heads):
                raise self._refusal("decode_head", heads, "literals")
            regions, main = heads
            self._check(regions, **_REGIONS)
            self._check_layers(regions)
        else:
            main = self._section(self._model, "decode_head")
        stages = _STAGES.get(network, (3,))
        self._check(main, in_index=(-1, *stages), **_HEADS.get(network, {}))
        self._check_layers(main)
        return main

    def _output_stride(self) -> int:
        strides = self._integers(self._backbone, "strides", (1, 2, 2, 2))
        dilations = self._integers(self._backbone, "dilations", (1, 1, 1, 1))
        stride = _STRIDES.get((strides or (), dilations or ()))
        if stride is None:
            known = " or ".join(f"{s} with {d}" for s, d in _STRIDES)
            raise self._refusal("strides and dilations", (strides, dilations), known)
        return stride

    def _head_option(self, head: Mapping[str, Any], key: str, default: Any) -> Any:
        if isinstance(default, tuple):
            return self._integers(head, key, default)
        value = head.get(key, default)
        number = (int, float) if isinstance(default, float) else int
        if isinstance(value, bool) or not isinstance(value, number) or value <= 0:
            raise self._refusal(key, value, "a positive number")
        return value

    def _rates(self, dilations: tuple[int, ...]) -> tuple[int, ...]:
        if dilations[0] != 1:
            raise self._refusal("dilations", dilations, "1 first")
        return dilations[1:]  # the first is the 1x1 convolution's

    def _preprocessing(self) -> Preprocessing | None:
        """Of 1.x's ``data_preprocessor`` or 0.x's ``img_norm_cfg``; None without either."""
        key = "data_preprocessor"
        section = self._model.get(key, self.values.get(key))
        if section is not None:
            section = self._section({key: section}, key)
            self._check(section, type=("SegDataPreProcessor",))
            rgb = self._boolean(section, "bgr_to_rgb") or self._boolean(section, "rgb_to_bgr")
        else:
            section = self.values.get("img_norm_cfg") or _normalize(self.values)
            if section is None:
                return None
            section = self._section({"img_norm_cfg": section}, "img_norm_cfg")
            rgb = self._boolean(section, "to_rgb", True)
        mean = self._numbers(section, "mean", _RAW.mean)
        std = self._numbers(section, "std", _RAW.std)
        return Preprocessing(mean, std, "RGB" if rgb else "BGR", 255.0)

    def _check(self, section: Mapping[str, Any], **known: tuple[Any, ...]) -> None:
        """Refuse a setting whose value is none of the known ones."""
        for key, values in known.items():
            value = section.get(key, values[0])
            if key == "type" and isinstance(value, str):
                value = value.rpartition(".")[2]  # 1.x may write the module too
            if value not in values:
                raise self._refusal(key, value, " or ".join(map(repr, values)))

    def _check_layers(self, section: Mapping[str, Any]) -> None:
        """Refuse other convolutions, activations, and epsilons of the batch norms."""
        self._check(section, conv_cfg=(None,))
        activation, norm = section.get("act_cfg"), section.get("norm_cfg")
        if activation is not None:
            self._check(self._section(section, "act_cfg"), type=("ReLU",))
        if norm is not None:
            self._check(
                self._section(section, "norm_cfg"),
                type=("BN", "SyncBN", "BN2d", "MMSyncBN"),
                eps=(1e-5,),
            )

    def _section(self, values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        section = values.get(key)
        if not isinstance(section, Mapping):
            raise self._refusal(key, section, "a dictionary of literals")
        return section

    def _boolean(self, section: Mapping[str, Any], key: str, default: bool = False) -> bool:
        value = section.get(key, default)
        if not isinstance(value, bool):
            raise self._refusal(key, value, "True or False")
        return value

    def _integers(
        self, section: Mapping[str, Any], key: str, default: tuple[int, ...] | None
    ) -> tuple[int, ...] | None:
        value = section.get(key, default)
        if value is None:
            return default
        if not isinstance(value, tuple) or not value:
            raise self._refusal(key, value, "a list of integers")
        if any(isinstance(v, bool) or not isinstance(v, int) or v < 1 for v in value):
            raise self._refusal(key, value, "positive integers")
        return value

    def _numbers(
        self, section: Mapping[str, Any], key: str, default: tuple[float, ...]
    ) -> tuple[float, ...]:
        value = section.get(key)
        if value is None:
            return default
        numbers = value if isinstance(value, tuple) else ()
        plain = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in numbers)
        if len(numbers) != 3 or not plain or (key == "std" and min(numbers) <= 0):
            raise self._refusal(key, value, "three numbers")
        return tuple(float(v) for v in numbers)

    def _refusal(self, key: str, value: Any, known: str) -> UserError:
        shown = "not a literal" if value is _OPAQUE else repr(value)[:80]
        return UserError(
            f"'{self.file}' has {key} {shown} in its config, which is not supported; supported is "
            f"{known}"
        )


def read_config(file: str, content: Mapping[str, Any]) -> Config | None:
    """The config in a checkpoint's ``meta``; None if it has none that can be parsed.

    Raises:
        UserError: the text is longer than any config, or ``model`` in it is not literal.

    >>> text = "model = dict(backbone=dict(dilations=(1, 1, 2, 4)), decode_head=dict(a=-1))"
    >>> read_config("x.pth", {"meta": {"config": text}}).values["model"]["decode_head"]
    {'a': -1}
    """
    meta = content.get("meta")
    texts = [meta.get(key) for key in ("cfg", "config")] if isinstance(meta, Mapping) else []
    text = next((text for text in texts if isinstance(text, str) and text), None)
    if text is None:
        return None
    if len(text) > _LIMIT:
        raise UserError(
            f"the config in '{file}' has {len(text):,} characters and is not read, because no "
            f"config is longer than {_LIMIT:,}; remove it from the file's meta"
        )
    try:
        values = {
            target.id: _literal(node.value)
            for node in ast.parse(text).body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        _log.warning("the config in '%s' is not Python and is ignored", file)
        return None
    return Config(file, values) if "model" in values else None


def _literal(node: ast.expr | None) -> Any:
    """The value of a literal, with tuples for lists; _OPAQUE for all else."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return tuple(_literal(item) for item in items)
        case ast.Dict(keys=keys, values=values):
            if not all(isinstance(key, ast.Constant) for key in keys):
                return _OPAQUE
            return {_literal(k): _literal(v) for k, v in zip(keys, values, strict=True)}
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords):
            if any(keyword.arg is None for keyword in keywords):  # dict(**other)
                return _OPAQUE
            return {keyword.arg: _literal(keyword.value) for keyword in keywords}
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
    return _OPAQUE


def _normalize(values: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The first ``Normalize`` in the test pipeline."""
    pending: list[Any] = [values.get("test_pipeline"), values.get("data")]
    while pending:
        value = pending.pop(0)
        if isinstance(value, Mapping):
            if value.get("type") == "Normalize":
                return value
            pending.extend(value.values())
        elif isinstance(value, tuple):
            pending.extend(value)
    return None
