"""Named points of the MIRAS map: the models that papers place on it, as the four choices and what is around them.

A config names one (``memory: {preset: yaad}``, or for the block too ``backbone: {preset: yaad_h}``) and may override
any field. What is resolved is written to ``config.json``, not the name. Where a model has more than its memory rule
(Mamba-2's D skip, HGRN2's lower bounds of the decay, LaCT's SwiGLU memory, RWKV-7's token shift and the tanh inside
its decay), that is not here: a preset is the rule in our block. Longhorn's β is one a head, not of each channel.

Where a paper's form does not last we keep ours, and name the difference: Titans and MIRAS forget towards the initial
memory, not zero (``retention: {towards: zero}`` is as printed), and the step of Titans and TTT is normalised
(``learning: {normalised: false}`` is as printed; that of MIRAS' three is not, see `_AS_PRINTED`). MIRAS makes θ of
each channel by a projection of low rank; α is one a head, and so is Yaad's δ, since its switch looks at a norm (with
``bias: {kind: huber, delta: token}`` δ is one a channel).

To add one: a line in `PRESETS`.
"""

from typing import Any, NamedTuple


class Preset(NamedTuple):
    """One model of the map."""

    memory: dict[str, Any]  # fields of `MemoryConfig`; none where there is no memory
    source: str  # paper and equation of the rule
    block: dict[str, Any] = {"kind": "lmm", "persistent": 0}  # noqa: RUF012 (never changed)


_TITANS = "Titans, arXiv 2501.00663"
_MIRAS = "MIRAS, arXiv 2504.13173"
_LMM = {
    "structure": {"kind": "mlp"},
    "bias": {"kind": "l2"},
    "retention": {"kind": "forgetting"},
    "learning": {"kind": "momentum"},
}
_PLAIN: dict[str, Any] = {"structure": {"kind": "matrix"}, "features": "plain", "conv": 1}  # no norm, no convolution
_HYBRID: dict[str, Any] = {"kind": "hybrid"}
_DEEP = {"kind": "mlp", "depth": 2, "expansion": 4.0, "norm": True}  # x + LN(W GELU(W x)), MIRAS section 5.3
# Steps as printed, not divided by what a token's Jacobian bears: under the norm that bound is an order too careful, so
# that these memories, which forget, would hardly move, and it would cancel the δ of Yaad's slope. What bounds Yaad and
# Memora is their own: δ, the simplex, and the norm, under which gradients shrink as weights grow. Moneta's slope grows
# with the square of its error, faster than the norm shrinks it: large values overflow in a stream, tried by hand from a
# norm of some 20 on, ten times what a layer makes at first (``learning: {normalised: true}`` bounds it too).
_AS_PRINTED = {"kind": "gradient_descent", "normalised": False}
_MIRAS_BLOCK = {"structure": _DEEP, "learning": _AS_PRINTED, "rope": True, "gate_rank": 32}
# κ of Yaad, whose slope has norm δ√D beyond δ and which with 1 trains with gradients of norm 400, and of Memora, which
# with 1 overshoots
_QUARTER = {"learning": _AS_PRINTED | {"step": 0.25}}
_DELTA = {"structure": {"kind": "matrix"}, "bias": {"kind": "l2"}, "retention": {"kind": "none"}}
_HEBB = {"bias": {"kind": "dot_product"}, "retention": {"kind": "none"}, "learning": {"kind": "exact", "rate": "one"}}
_GATED = {"kind": "decay", "by": "head", "form": "exponential"}

_MONETA = _MIRAS_BLOCK | {"bias": {"kind": "lp", "p": 3.0}, "retention": {"kind": "lq", "q": 4.0}}
_YAAD = (
    _MIRAS_BLOCK | _QUARTER | {"bias": {"kind": "huber_switch", "delta": "token"}, "retention": {"kind": "forgetting"}}
)
_MEMORA = _MIRAS_BLOCK | _QUARTER | {"bias": {"kind": "l2"}, "retention": {"kind": "kl"}}
_GATED_DELTANET = _DELTA | {"retention": _GATED, "learning": {"kind": "exact", "rate": "sigmoid"}}
_TTT = {
    "bias": {"kind": "l2"},
    "retention": {"kind": "none"},
    "learning": {"kind": "gradient_descent"},
    "chunk_size": 16,
}

PRESETS: dict[str, Preset] = {
    "lmm": Preset(_LMM, f"{_TITANS}, eq. 8-15", {"kind": "lmm"}),
    "mac": Preset(_LMM, f"{_TITANS}, eq. 21-25, eq. 23 with a residual connection", {"kind": "mac"}),
    "mag": Preset(_LMM, f"{_TITANS}, eq. 26-28", {"kind": "mag"}),
    "mal": Preset(_LMM, f"{_TITANS}, eq. 29-31", {"kind": "mal"}),
    "moneta": Preset(_MONETA, f"{_MIRAS}, eq. 24-25"),
    "yaad": Preset(_YAAD, f"{_MIRAS}, eq. 26"),
    "memora": Preset(_MEMORA, f"{_MIRAS}, eq. 27"),
    "moneta_h": Preset(_MONETA, f"{_MIRAS}, eq. 24-25 and figure 2", _HYBRID),
    "yaad_h": Preset(_YAAD, f"{_MIRAS}, eq. 26 and figure 2", _HYBRID),
    "memora_h": Preset(_MEMORA, f"{_MIRAS}, eq. 27 and figure 2", _HYBRID),
    "ttt_linear": Preset(
        _TTT | {"structure": {"kind": "mlp", "depth": 1, "norm": True}}, "TTT, arXiv 2407.04620, section 2.7"
    ),
    "ttt_mlp": Preset(
        _TTT | {"structure": _DEEP, "learning": {"kind": "gradient_descent", "step": 0.1}},
        "TTT, arXiv 2407.04620, section 2.7",
    ),
    "lact": Preset(
        {
            "structure": {"kind": "mlp", "depth": 2, "expansion": 1.0, "activation": "silu"},
            "bias": {"kind": "dot_product"},
            "retention": {"kind": "row_norm"},
            "learning": {"kind": "orthogonalised", "normalised": False},
            "chunk_size": 512,
            "read": "start",
        },
        "LaCT, arXiv 2505.23884, section 3",
        {"kind": "hybrid"},
    ),
    "linear_attention": Preset(_PLAIN | _HEBB | {"features": "elu"}, "Linear attention, arXiv 2006.16236, eq. 16-20"),
    "retnet": Preset(
        _PLAIN | _HEBB | {"rope": True, "retention": {"kind": "decay", "by": "head", "form": "fixed"}},
        "RetNet, arXiv 2307.08621, eq. 6-8",
    ),
    "gla": Preset(
        _PLAIN
        | _HEBB
        | {"retention": {"kind": "decay", "by": "channel", "form": "sigmoid", "temperature": 16.0}, "gate_rank": 16},
        "GLA, arXiv 2312.06635, eq. 3",
    ),
    "mamba2": Preset(
        _PLAIN
        | _HEBB
        | {"features": "silu", "conv": 4, "retention": _GATED, "learning": {"kind": "exact", "rate": "step"}},
        "Mamba-2, arXiv 2405.21060, eq. 1-2",
    ),
    "hgrn2": Preset(
        _PLAIN
        | _HEBB
        | {
            "features": "silu",
            "retention": {"kind": "decay", "by": "channel", "form": "sigmoid", "temperature": 1.0},
            "learning": {"kind": "exact", "rate": "complement"},
            "gate_rank": 16,
        },
        "HGRN2, arXiv 2404.07904, eq. 6",
    ),
    "deltanet": Preset(
        _DELTA | {"learning": {"kind": "exact", "rate": "sigmoid"}}, "DeltaNet, arXiv 2406.06484, eq. 3"
    ),
    "gated_deltanet": Preset(_GATED_DELTANET, "Gated DeltaNet, arXiv 2412.06464, eq. 10"),
    "gated_deltanet_h1": Preset(_GATED_DELTANET, "Gated DeltaNet, arXiv 2412.06464, section 3.4", _HYBRID),
    # whose own paper stacks Mamba-2 in between too; Titans' tables have it as this
    "gated_deltanet_h2": Preset(_GATED_DELTANET, "Gated DeltaNet and attention, Titans, section 5.2: as h1", _HYBRID),
    "longhorn": Preset(
        _DELTA | {"features": "silu", "learning": {"kind": "implicit"}}, "Longhorn, arXiv 2407.14207, theorem 3.1"
    ),
    "deltaproduct": Preset(
        _DELTA | {"retention": _GATED, "learning": {"kind": "exact", "rate": "twice", "keys": 2}},
        "DeltaProduct, arXiv 2502.10297, eq. 4",
    ),
    "rwkv7": Preset(
        _DELTA
        | {
            "features": "plain",
            "conv": 1,
            "retention": {"kind": "decay", "by": "channel", "form": "bounded"},
            "learning": {"kind": "in_context"},
            "gate_rank": 32,
        },
        "RWKV-7, arXiv 2503.14456, section 4",
    ),
    "transformer": Preset({}, "Transformer++: attention to all before, no memory", {"kind": "attention"}),
    "sliding_window": Preset({}, "sliding-window attention, no memory", {"kind": "attention", "window": 64}),
}


def with_preset(given: Any, part: str) -> Any:
    """The mapping ``given`` with its key ``preset`` resolved: the ``part`` of the preset below what is given.

    A field that is a choice, a mapping with ``kind``, is overridden as a whole where the kind differs, and key by key
    where it is the same or not given. A memory that names a preset of its own keeps nothing of the backbone's.

    Raises:
        ValueError: if there is no such preset, naming those there are, or it has no memory where one is asked for.
    """
    if not isinstance(given, dict) or "preset" not in given:
        return given
    name = given["preset"]
    if name not in tuple(PRESETS):  # which a list or a mapping may be asked about
        raise ValueError(f"preset {name!r} is not known; there are {', '.join(PRESETS)}")
    preset = PRESETS[name]
    if part == "memory" and preset.block["kind"] == "attention":
        raise ValueError(f"preset {name} has no memory; give it as the preset of the backbone")
    base: dict[str, Any] = preset.memory if part == "memory" else {"block": preset.block, "memory": preset.memory}
    return _over(base, {key: value for key, value in given.items() if key != "preset"})


def _over(base: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """``given`` over ``base``, mappings key by key unless they are of another kind or a preset."""
    found = dict(base)
    for key, value in given.items():
        below = found.get(key)
        if isinstance(below, dict) and isinstance(value, dict) and "preset" not in value:
            kind = below.get("kind")
            value = _over(below, value) if value.get("kind", kind) == kind else value
        found[key] = value
    return found
