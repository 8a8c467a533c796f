"""Golden values of the library from PyTorch, in float64: writes values.json beside this file.

    python3 tests/golden/make.py        (PyTorch 2.15; about ten seconds; the same file every time)

A case is an entry here: its name, its body in .nn text, its definition in PyTorch, its inputs and parameters. The file holds what
tests/golden.rs needs: body, inputs, parameters, results, a cotangent for each result and the gradients that autograd makes of them.
Inputs are drawn by Python's generator, seeded with the case's name, and have three decimals; the file does not depend on PyTorch's random numbers.
"""
import json
import math
import pathlib
import random

import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.optim import lr_scheduler as schedulers

torch.set_default_dtype(torch.float64)

# At and around the kinks of every activation, and far out.
KINKS = [-30, -6.5, -3, -1, -0.5, -0.25, 0, 0.25, 0.5, 1, 3, 6, 25]
INF = math.inf


class Draw:
    """A tensor to be drawn in [lo, hi); whole numbers below `classes` if that is given."""

    def __init__(self, *shape, lo=-1.0, hi=1.0, classes=None):
        self.shape, self.lo, self.hi, self.classes = shape, lo, hi, classes

    def make(self, name):
        generator = random.Random(name)
        count = math.prod(self.shape)
        if self.classes is not None:
            return torch.tensor([generator.randrange(self.classes) for _ in range(count)]).reshape(self.shape)
        return torch.tensor([round(generator.uniform(self.lo, self.hi), 3) for _ in range(count)]).reshape(self.shape)


def T(*shape, lo=-1.0, hi=1.0):
    return Draw(*shape, lo=lo, hi=hi)


def I(*shape, below):
    return Draw(*shape, classes=below)


def made(name, what):
    if isinstance(what, Draw):
        return what.make(name)
    return torch.tensor(what)


def number(v):
    """Fifteen digits: far closer than the comparison."""
    if math.isnan(v) or math.isinf(v):
        return str(v)
    return int(v) if v == int(v) and abs(v) < 1e6 else float(f"{v:.15g}")


def tensor(t):
    t = t.detach()
    kind = "int" if t.dtype == torch.int64 else "real"
    return {"shape": list(t.shape), kind: [v if kind == "int" else number(v) for v in t.flatten().tolist()]}


functions = []


def case(name, body, define, params=None, training=False, states=None, rtol=1e-9, **inputs):
    """`define` takes the inputs and, by the last parts of their paths joined with `_`, the parameters; it gives a tensor, or a dictionary of results.
    With `training`, the body runs in a step of training, and `states` are the layer's states before it; `define` returns them after it as well.
    `rtol` is for both sides rounding each operation once, in sums of at most 50 terms, unless a comment says more."""
    ins = {n: made(f"{name}.{n}", w) for n, w in inputs.items()}
    pars = {n: made(f"{name}.{n}", w) for n, w in (params or {}).items()}
    stat = {n: made(f"{name}.{n}", w) for n, w in (states or {}).items()}
    active = {n: t.requires_grad_() for n, t in {**ins, **pars}.items() if t.dtype == torch.float64}
    results = define(**ins, **{n.split(".", 1)[1].replace(".", "_"): t for n, t in {**pars, **stat}.items()})
    after = {}
    if training:
        results, after = results
    if not isinstance(results, dict):
        results = {"output": results}
    smooth = {n: r for n, r in results.items() if r.dtype == torch.float64}
    cotangents = {n: made(f"{name}.d.{n}", T(*r.shape)) if r.dim() else torch.tensor(1.0) for n, r in smooth.items()}
    gradients = {}
    if any(r.requires_grad for r in smooth.values()):
        total = sum((r * cotangents[n]).sum() for n, r in smooth.items())
        found = torch.autograd.grad(total, list(active.values()), allow_unused=True)
        # PyTorch has no derivative for the weights of classes, and at 0 none for the targets of kl.
        gradients = {n: g for n, g in zip(active, found) if g is not None}
    entry = {"name": name, "body": body, "rtol": rtol}
    groups = {"inputs": ins, "parameters": pars, "results": results, "cotangents": cotangents, "gradients": gradients, "states": stat, "after": after}
    functions.append(entry | {g: {n: tensor(t) for n, t in ts.items()} for g, ts in groups.items() if ts})


def module(m, names):
    """A module of PyTorch as a definition: `names` gives, for each of its parameters, the last parts of ours."""
    theirs = dict(m.named_parameters())
    assert set(names) == set(theirs), (set(names), set(theirs))

    def define(*args, **given):
        weights = {n: given.pop(o) for n, o in names.items()}
        return torch.func.functional_call(m, weights, (*args, *given.values()))

    return define


# ---- Activations
case("relu", "relu(x)", lambda x: F.relu(x), x=KINKS)
case("relu6", "relu6(x)", lambda x: F.relu6(x), x=KINKS)
case("leaky_relu", "leaky_relu(x, slope: 0.1)", lambda x: F.leaky_relu(x, 0.1), x=KINKS)
case("prelu", "prelu(x)", lambda x, weight: F.prelu(x, weight), {"prelu.weight": T(1)}, x=KINKS)
case("elu", "elu(x, alpha: 1.5)", lambda x: F.elu(x, 1.5), x=KINKS)
case("celu", "celu(x, alpha: 2)", lambda x: F.celu(x, 2.0), x=KINKS)
case("selu", "selu(x)", lambda x: F.selu(x), x=KINKS)
case("gelu", "gelu(x)", lambda x: F.gelu(x), x=KINKS)
case("gelu_tanh", "gelu_tanh(x)", lambda x: F.gelu(x, approximate="tanh"), x=KINKS)
case("silu", "silu(x)", lambda x: F.silu(x), x=KINKS)
case("mish", "mish(x)", lambda x: F.mish(x), x=KINKS)
case("softplus", "softplus(x, beta: 2, threshold: 3)", lambda x: F.softplus(x, 2, 3), x=KINKS)
case("log_sigmoid", "log_sigmoid(x)", lambda x: F.logsigmoid(x), x=KINKS)
case("softsign", "softsign(x)", lambda x: F.softsign(x), x=KINKS)
case("hardtanh", "hardtanh(x)", lambda x: F.hardtanh(x), x=KINKS)
case("clamp", "clamp(x, low: -0.5, high: 3)", lambda x: x.clamp(-0.5, 3), x=KINKS)
case("hard_sigmoid", "hard_sigmoid(x)", lambda x: F.relu6(x + 3) / 6, x=KINKS)  # PyTorch has the derivative 1/6 in single precision
case("hard_swish", "hard_swish(x)", lambda x: F.hardswish(x), x=KINKS)
case("hard_shrink", "hard_shrink(x)", lambda x: F.hardshrink(x), x=KINKS)
case("soft_shrink", "soft_shrink(x)", lambda x: F.softshrink(x), x=KINKS)
case("tanh_shrink", "tanh_shrink(x)", lambda x: F.tanhshrink(x), x=KINKS)
case("glu", "glu(x)", lambda x: F.glu(x), x=T(2, 3, 6))

# ---- Functions of one number
EVERYWHERE = [-3.0, -1, -0.4, -1e-5, 0, 1e-5, 0.3, 1, 2.5]
UNIT = [-0.999, -0.6, -1e-5, 0.0, 1e-5, 0.3, 0.9999]
POSITIVE = [1e-6, 0.1, 0.5, 1.0, 2, 8, 1000]
case("reciprocal", "reciprocal(x)", lambda x: x.reciprocal(), x=POSITIVE)
case("rsqrt", "rsqrt(x)", lambda x: x.rsqrt(), x=POSITIVE)
case("square", "square(x)", lambda x: x.square(), x=EVERYWHERE)
case("tan", "tan(x)", lambda x: x.tan(), x=EVERYWHERE)
case("asin", "asin(x)", lambda x: x.asin(), x=UNIT)
case("acos", "acos(x)", lambda x: x.acos(), x=UNIT)
case("sinh", "sinh(x)", lambda x: x.sinh(), x=EVERYWHERE)
case("cosh", "cosh(x)", lambda x: x.cosh(), x=EVERYWHERE)
case("asinh", "asinh(x)", lambda x: x.asinh(), x=EVERYWHERE)
case("acosh", "acosh(x)", lambda x: x.acosh(), x=[1 + 1e-9, 1.001, 1.5, 3.0, 1000])
case("atanh", "atanh(x)", lambda x: x.atanh(), x=UNIT)
case("erfc", "erfc(x)", lambda x: torch.erfc(x), x=EVERYWHERE)
case("logit", "logit(x)", lambda x: x.logit(), x=[1e-6, 0.1, 0.5, 0.7, 0.99999])
case("log2", "log2(x)", lambda x: x.log2(), x=POSITIVE)

GAMMA = [-7.3, -2.5, -0.1, 1e-5, 0.4999, 0.5, 0.9, 1.0, 1.3, 2, 2.5, 3.0, 7.7, 12.999, 13, 13.5, 100, 1e5]
case("lgamma", "lgamma(x)", lambda x: torch.lgamma(x), x=GAMMA)
case("digamma", "digamma(x)", lambda x: torch.digamma(x), x=GAMMA)

# ---- The softmax family
case("softmax", "softmax(x)", lambda x: x.softmax(-1), x=[[0.5, -1, 2.0, 0], [1000, 999.0, -1000, 998], [-INF, 0.5, 0.25, 1]])
case("softmin", "softmin(x)", lambda x: F.softmin(x, -1), x=T(2, 3, 4, lo=-5, hi=5))
case("log_softmax", "log_softmax(x)", lambda x: x.log_softmax(-1), x=[[0.5, -1, 2.0, 0], [1000, 999.0, -1000, 998]])
case("logsumexp", "logsumexp(x)", lambda x: x.logsumexp(-1), x=[[0.5, -1, 2.0, 0], [1000, 999.0, -1000, 998], [-INF, 0.5, 0.25, 1]])
case("argmax", "argmax(x)", lambda x: x.argmax(-1), x=[[0.5, 2, 2.0], [-1.0, -2, -3], [0, 0, 0]])

# ---- Moving elements about, folds
case("transpose", "transpose(x)", lambda x: x.transpose(-1, -2), x=T(2, 3, 2))
case("flatten2", "flatten2(x)", lambda x: x.flatten(1), x=T(2, 2, 3))
case("flatten", "flatten(x)", lambda x: x.flatten(1), x=T(2, 2, 1, 3))
case("sum_last", "sum_last(x)", lambda x: x.sum(-1), x=T(3, 4))
case("mean_last", "mean_last(x)", lambda x: x.mean(-1), x=T(3, 4))
case("cumsum", "cumsum(x)", lambda x: x.cumsum(-1), x=T(2, 5))
case("cumprod", "cumprod(x)", lambda x: x.cumprod(-1), x=[[0.5, 2, -1.5, 0.7], [0.5, 0, 2.0, 3], [0, 0, 1.5, 2]])
case("diagonal", "diagonal(x)", lambda x: x.diagonal(dim1=-2, dim2=-1), x=T(2, 3, 3))
case("tril", "tril(x)", lambda x: x.tril(), x=T(2, 3, 4))
case("amax_last", "amax_last(x)", lambda x: x.amax(-1), x=[[0.5, 2, 2.0], [-1.0, -2, -3], [0, 0, 0]])
case("upsample_nearest2d", "upsample_nearest2d(x, 3)", lambda x: F.interpolate(x, scale_factor=3), x=T(1, 2, 2, 2))

for name, settings in [("down", "align_corners: false"), ("corners", "align_corners: true"), ("antialias", "antialias: true")]:
    at = dict(align_corners=name == "corners", antialias=name == "antialias")
    case(f"resize_bilinear2d.{name}", f"resize_bilinear2d(x, 2, 3, {settings})",
         lambda x: F.interpolate(x, size=(2, 3), mode="bilinear", **at), x=T(1, 2, 5, 7))
case("resize_bilinear2d.up", "resize_bilinear2d(x, 5, 7)", lambda x: F.interpolate(x, size=(5, 7), mode="bilinear"), x=T(1, 2, 2, 3))
case("resize_bilinear2d.antialias_up", "resize_bilinear2d(x, 5, 4, antialias: true)", lambda x: F.interpolate(x, size=(5, 4), mode="bilinear", antialias=True), x=T(1, 1, 2, 3))
for padding in ["zeros", "border", "reflection"]:
    for corners in [False, True]:
        case(f"grid_sample.{padding}{'.corners' if corners else ''}", f'grid_sample(x, grid, padding: "{padding}", align_corners: {str(corners).lower()})',
             lambda x, grid: F.grid_sample(x, grid, padding_mode=padding, align_corners=corners), x=T(1, 2, 3, 4), grid=T(1, 3, 3, 2, lo=-2.5, hi=2.5))

# ---- Products
case("linear", "linear(x, 3)", lambda x, weight, bias: F.linear(x, weight, bias), {"linear.weight": T(3, 4), "linear.bias": T(3)}, x=T(2, 2, 4))
case("linear.nobias", "linear(x, 3, bias: false)", lambda x, weight: F.linear(x, weight), {"linear.weight": T(3, 4)}, x=T(2, 4))
case("bilinear", "bilinear(x, z, 2)", lambda x, z, weight, bias: F.bilinear(x, z, weight, bias),
     {"bilinear.weight": T(2, 3, 2), "bilinear.bias": T(2)}, x=T(3, 3), z=T(3, 2))
case("matmul", "matmul(x, w)", lambda x, w: x @ w, x=T(2, 3, 4), w=T(4, 2))
case("batch_matmul", "batch_matmul(a, b)", lambda a, b: a @ b, a=T(2, 2, 3), b=T(2, 3, 2))
case("dot", "dot(a, b)", lambda a, b: (a * b).sum(-1), a=T(2, 4), b=T(2, 4))

# ---- Tables, positions
case("embedding", "embedding(i, rows: 4, dim: 3)", lambda i, weight: F.embedding(i, weight), {"embedding.weight": T(4, 3)}, i=I(2, 3, below=4))
case("one_hot", "one_hot(i, 4)", lambda i: F.one_hot(i, 4).double(), i=I(2, 3, below=4))


def rope(x, base=10000.0):
    t, d = x.shape[-2:]
    angle = torch.outer(torch.arange(t).double(), base ** (-2 * torch.arange(d // 2) / d))
    turned = torch.view_as_complex(x.reshape(*x.shape[:-1], d // 2, 2)) * torch.polar(torch.ones_like(angle), angle)
    return torch.view_as_real(turned).flatten(-2)


case("rope", "rope(x)", rope, x=T(2, 3, 4))
case("rope.base", "rope(x, base: 100)", lambda x: rope(x, 100.0), x=T(4, 6))

# ---- Attention
case("scaled_dot_product", "scaled_dot_product(q, k, v)", lambda q, k, v: F.scaled_dot_product_attention(q, k, v), q=T(1, 2, 3, 2), k=T(1, 2, 4, 2), v=T(1, 2, 4, 3))
case("scaled_dot_product.causal", "scaled_dot_product(q, k, v, causal: true)", lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
     q=T(2, 4, 2), k=T(2, 4, 2), v=T(2, 4, 2))
FUTURE = torch.ones(3, 3, dtype=torch.bool).triu(1)
case("attention_scores", "attention_scores(q, k, causal: true)", lambda q, k: (q @ k.transpose(-1, -2) / math.sqrt(2)).masked_fill(FUTURE, -INF), q=T(2, 3, 2), k=T(2, 3, 2))
case("split_heads", "split_heads(x, 2)", lambda x: x.view(2, 3, 2, 2).transpose(1, 2), x=T(2, 3, 4))
case("merge_heads", "merge_heads(x)", lambda x: x.transpose(1, 2).flatten(2), x=T(2, 2, 3, 2))


def attention(causal):
    m = nn.MultiheadAttention(4, 2, batch_first=True)
    names = {"in_proj_weight": "qkv_weight", "in_proj_bias": "qkv_bias", "out_proj.weight": "proj_weight", "out_proj.bias": "proj_bias"}
    mask = nn.Transformer.generate_square_subsequent_mask(3) if causal else None

    def define(x, **given):
        weights = {n: given[o] for n, o in names.items()}
        return torch.func.functional_call(m, weights, (x, x, x), {"attn_mask": mask, "need_weights": False})[0]

    return define


QKV = {"attention.qkv.weight": T(12, 4), "attention.qkv.bias": T(12), "attention.proj.weight": T(4, 4), "attention.proj.bias": T(4)}
case("attention", "attention(x, heads: 2)", attention(False), QKV, x=T(2, 3, 4))
case("attention.causal", "attention(x, heads: 2, causal: true)", attention(True), QKV, x=T(2, 3, 4))

# ---- Convolutions
ALL = dict(stride=2, padding=1, dilation=2, groups=2)
NN_ALL = "stride: 2, padding: 1, dilation: 2, groups: 2"
OUT = dict(stride=2, padding=1, output_padding=1, groups=2)
NN_OUT = "stride: 2, padding: 1, output_padding: 1, groups: 2"
case("convolve1d", f"convolve1d(x, w, {NN_ALL})", lambda x, w: F.conv1d(x, w, **ALL), x=T(2, 4, 8), w=T(4, 2, 3))
case("convolve2d", f"convolve2d(x, w, {NN_ALL})", lambda x, w: F.conv2d(x, w, **ALL), x=T(1, 2, 6, 5), w=T(4, 1, 3, 2))
case("convolve2d.uneven", "convolve2d(x, w, stride: 2, stride_w: 1, padding: 0, padding_w: 2, dilation: 1, dilation_w: 2)",
     lambda x, w: F.conv2d(x, w, stride=(2, 1), padding=(0, 2), dilation=(1, 2)), x=T(1, 2, 5, 3), w=T(2, 2, 2, 3))
case("convolve3d", f"convolve3d(x, w, {NN_ALL})", lambda x, w: F.conv3d(x, w, **ALL), x=T(1, 2, 3, 4, 4), w=T(2, 1, 2, 2, 2))
case("convolve_transpose1d", f"convolve_transpose1d(x, w, {NN_OUT}, dilation: 2)", lambda x, w: F.conv_transpose1d(x, w, dilation=2, **OUT), x=T(2, 4, 4), w=T(4, 2, 3))
case("convolve_transpose2d", f"convolve_transpose2d(x, w, {NN_OUT})", lambda x, w: F.conv_transpose2d(x, w, **OUT), x=T(1, 4, 3, 2), w=T(4, 1, 3, 2))
case("convolve_transpose3d", f"convolve_transpose3d(x, w, {NN_OUT})", lambda x, w: F.conv_transpose3d(x, w, **OUT), x=T(1, 2, 2, 2, 1), w=T(2, 1, 2, 2, 3))
case("conv1d", f"conv1d(x, 4, kernel: 3, {NN_ALL})", lambda x, weight, bias: F.conv1d(x, weight, bias, **ALL),
     {"conv1d.weight": T(4, 1, 3), "conv1d.bias": T(4)}, x=T(2, 2, 8))
case("conv2d", f"conv2d(x, 4, kernel: 2, {NN_ALL})", lambda x, weight, bias: F.conv2d(x, weight, bias, **ALL),
     {"conv2d.weight": T(4, 1, 2, 2), "conv2d.bias": T(4)}, x=T(2, 2, 4, 3))
case("conv3d", f"conv3d(x, 2, kernel: 2, {NN_ALL})", lambda x, weight, bias: F.conv3d(x, weight, bias, **ALL),
     {"conv3d.weight": T(2, 1, 2, 2, 2), "conv3d.bias": T(2)}, x=T(1, 2, 3, 3, 4))
case("conv_transpose2d", f"conv_transpose2d(x, 4, kernel: 3, {NN_OUT})", lambda x, weight, bias: F.conv_transpose2d(x, weight, bias, **OUT),
     {"conv_transpose2d.weight": T(2, 2, 3, 3), "conv_transpose2d.bias": T(4)}, x=T(1, 2, 2, 3))

# ---- Pooling, with ties
TIES = [[[3.0, 1, 3, 3, 0, 2, 2], [-1, -1, -2, -1, -3.0, -5, -1]]]
IMAGE = [[[[1.0, 2, 2, 0, 1], [2, 2, 1, 3, 0], [0, 1, 3, 3, 3], [-1, -2, 0, 3, 1]], [[-1.0, -2, -1, -1, -2], [0.5, 0, 0, 0.5, -1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]]]]
case("max_pool1d", "max_pool1d(x, 3, stride: 2, padding: 1)", lambda x: F.max_pool1d(x, 3, 2, 1), x=TIES)
case("max_pool2d", "max_pool2d(x, 3, stride: 2, padding: 1)", lambda x: F.max_pool2d(x, 3, 2, 1), x=IMAGE)
case("max_pool2d.dilated", "max_pool2d(x, 2, stride: 1, dilation: 2)", lambda x: F.max_pool2d(x, 2, 1, dilation=2), x=IMAGE)
case("max_pool3d", "max_pool3d(x, 2, stride: 1)", lambda x: F.max_pool3d(x, 2, 1), x=T(1, 2, 2, 3, 3))
case("avg_pool1d", "avg_pool1d(x, 3, stride: 2, padding: 1)", lambda x: F.avg_pool1d(x, 3, 2, 1), x=TIES)
case("avg_pool2d", "avg_pool2d(x, 3, stride: 2, padding: 1)", lambda x: F.avg_pool2d(x, 3, 2, 1), x=IMAGE)
case("avg_pool2d.inside", "avg_pool2d(x, 3, stride: 2, padding: 1, count_padding: false)", lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), x=IMAGE)
case("avg_pool2d.divisor", "avg_pool2d(x, 2, divisor: 3)", lambda x: F.avg_pool2d(x, 2, divisor_override=3), x=IMAGE)
case("avg_pool3d", "avg_pool3d(x, 2, padding: 1)", lambda x: F.avg_pool3d(x, 2, 2, 1), x=T(1, 2, 2, 2, 3))
case("global_avg_pool2d", "global_avg_pool2d(x)", lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1), x=T(2, 2, 2, 3))

# ---- Normalisation
case("layer_norm", "layer_norm(x)", lambda x, weight, bias: F.layer_norm(x, (4,), weight, bias), {"layer_norm.weight": T(4), "layer_norm.bias": T(4)}, x=T(2, 2, 4))
case("layer_norm.nobias", "layer_norm(x, eps: 0.1, bias: false)", lambda x, weight: F.layer_norm(x, (4,), weight, eps=0.1), {"layer_norm.weight": T(4)}, x=T(3, 4))
case("rms_norm", "rms_norm(x)", lambda x, weight: F.rms_norm(x, (4,), weight, 1e-5), {"rms_norm.weight": T(4)}, x=T(2, 2, 4))
case("group_norm", "group_norm(x, 2)", lambda x, weight, bias: F.group_norm(x, 2, weight, bias), {"group_norm.weight": T(4), "group_norm.bias": T(4)}, x=T(2, 4, 2, 1))
case("normalize", "normalize(x)", lambda x: F.normalize(x, dim=-1), x=[[3.0, 4], [-0.1, 0.2], [0, 0]])


def batch_norm(training):
    def define(x, weight, bias, running_mean, running_var):
        mean, var = running_mean.clone(), running_var.clone()
        y = F.batch_norm(x, mean, var, weight, bias, training, 0.3, 1e-5)
        return y, {"running_mean": mean, "running_var": var}

    return define


for name, shape in [("batch_norm1d", (5, 2)), ("batch_norm2d", (2, 2, 2, 3))]:
    weights = {f"{name}.weight": T(2), f"{name}.bias": T(2)}
    running = {f"{name}.running_mean": T(2), f"{name}.running_var": T(2, lo=0.5, hi=2)}
    prefixed = lambda after: {f"{name}.{n}": t for n, t in after.items()}
    for training in [True, False]:
        define = lambda **given: (lambda y, after: (y, prefixed(after)) if training else y)(*batch_norm(training)(**given))
        case(f"{name}.{'training' if training else 'evaluation'}", f"{name}(x, momentum: 0.3)", define, weights, training=training, states=running, x=T(*shape))

# ---- Recurrence
CELL = {"weight_ih": "ih_weight", "weight_hh": "hh_weight", "bias_ih": "ih_bias", "bias_hh": "hh_bias"}
OVER = {f"{n}_l0": f"cell_{o}" for n, o in CELL.items()}


def recurrent(of, gates, inputs=2, hidden=3):
    return {f"{of}.ih.weight": T(gates * hidden, inputs), f"{of}.ih.bias": T(gates * hidden),
            f"{of}.hh.weight": T(gates * hidden, hidden), f"{of}.hh.bias": T(gates * hidden)}


def lstm_cell(x, h, c, **weights):
    h, c = torch.func.functional_call(nn.LSTMCell(2, 3), {n: weights[o] for n, o in CELL.items()}, (x, (h, c)))
    return {"h": h, "c": c}


case("rnn_cell", "rnn_cell(x, h)", lambda x, h, **w: module(nn.RNNCell(2, 3), CELL)(x, h, **w), recurrent("rnn_cell", 1), x=T(2, 2), h=T(2, 3))
case("lstm_cell", "lstm_cell(x, h, c)", lstm_cell, recurrent("lstm_cell", 4), x=T(2, 2), h=T(2, 3), c=T(2, 3))
case("gru_cell", "gru_cell(x, h)", lambda x, h, **w: module(nn.GRUCell(2, 3), CELL)(x, h, **w), recurrent("gru_cell", 3), x=T(2, 2), h=T(2, 3))
for name, gates, layer in [("rnn", 1, nn.RNN), ("lstm", 4, nn.LSTM), ("gru", 3, nn.GRU)]:
    case(name, f"{name}(x, 3)", lambda x, **w: module(layer(2, 3, batch_first=True), OVER)(x, **w)[0], recurrent(f"{name}.cell", gates), x=T(2, 4, 2))

case("gates", "gates(x, 3, bound: 0.5)", lambda x, weight, bias: F.linear(x, weight, bias), {"gates.weight": T(3, 4), "gates.bias": T(3)}, x=T(2, 4))

# ---- Losses, at their kinks
NEAR = dict(x=[0.0, 1, 2, 0.25, -1, 3], target=[0.0, 0, 0.5, 0.5, 1, 3.5])
LABELS = dict(scores=T(4, 3, lo=-3, hi=3), label=[0, 2, 1, 2])
case("cross_entropy", "cross_entropy(scores, label)", lambda scores, label: F.cross_entropy(scores, label), **LABELS)
case("cross_entropy.sequence", "cross_entropy(scores, label)", lambda scores, label: F.cross_entropy(scores.transpose(1, 2), label), scores=T(2, 3, 4), label=I(2, 3, below=4))
case("cross_entropy.smoothing_ignore", "cross_entropy(scores, label, smoothing: 0.1, ignore: 2)",
     lambda scores, label: F.cross_entropy(scores, label, label_smoothing=0.1, ignore_index=2), **LABELS)
case("weighted_cross_entropy", "weighted_cross_entropy(scores, label, weights, ignore: 1)",
     lambda scores, label, weights: F.cross_entropy(scores, label, weights.detach(), ignore_index=1), **LABELS, weights=[0.5, 2.0, 1.5])
case("soft_cross_entropy", "soft_cross_entropy(scores, target, smoothing: 0.2)", lambda scores, target: F.cross_entropy(scores, target, label_smoothing=0.2),
     scores=T(2, 3), target=[[0.2, 0.5, 0.3], [0.0, 1, 0]])
case("nll", "nll(scores, label, ignore: 0)", lambda scores, label: F.nll_loss(scores, label, ignore_index=0), **LABELS)
case("weighted_nll", "weighted_nll(scores, label, weights)", lambda scores, label, weights: F.nll_loss(scores, label, weights.detach()), **LABELS, weights=[0.5, 2.0, 1.5])
case("mse", "mse(x, target)", lambda x, target: F.mse_loss(x, target), **NEAR)
case("l1", "l1(x, target)", lambda x, target: F.l1_loss(x, target), **NEAR)
case("huber", "huber(x, target, delta: 1.5)", lambda x, target: F.huber_loss(x, target, delta=1.5), **NEAR)
case("smooth_l1", "smooth_l1(x, target, beta: 0.5)", lambda x, target: F.smooth_l1_loss(x, target, beta=0.5), **NEAR)
case("bce_with_logits", "bce_with_logits(x, target)", lambda x, target: F.binary_cross_entropy_with_logits(x, target),
     x=[-800.0, -3, 0, 0.5, 2, 800], target=[1.0, 0, 0.5, 1, 0.25, 1])
case("binary_entropy", "binary_entropy(p, target)", lambda p, target: F.binary_cross_entropy(p, target, reduction="none"), p=[0.1, 0.5, 0.9, 1e-7], target=[0.0, 1, 0.5, 1])
case("bce", "bce(p, target)", lambda p, target: F.binary_cross_entropy(p, target), p=[0.1, 0.5, 0.9, 1e-7, 0.3, 0, 1], target=[0.0, 1, 0.5, 1, 0.25, 0, 1])
# PyTorch has the least divisor, 1e-12, in single precision.
case("bce.saturated", "bce(p, target)", lambda p, target: F.binary_cross_entropy(p, target.detach()), rtol=1e-8, p=[0.0, 1, 0, 1], target=[1, 0, 0.5, 0.5])
case("kl", "kl(x, target)", lambda x, target: F.kl_div(x, target.detach(), reduction="batchmean"), x=T(3, 4, lo=-3, hi=-0.1), target=[[0.25, 0.25, 0.5, 0], [1, 0, 0, 0], [0.1, 0.2, 0.3, 0.4]])
case("gaussian_nll", "gaussian_nll(x, target, variance, eps: 0.01)", lambda x, target, variance: F.gaussian_nll_loss(x, target, variance, eps=0.01),
     **NEAR, variance=[0.5, 1, 2, 0.002, 1.5, 3.0])

# Three samples of 6, 5 and 4 steps: a label with a repetition, a shorter one, an empty one.
CTC = dict(scores=T(3, 6, 4, lo=-2, hi=2), label=[[1, 3, 3], [2, 1, 0], [1, 1, 1]], steps=[6, 5, 4], lengths=[3, 2, 0])


def ctc(reduction):
    return lambda scores, label, steps, lengths: F.ctc_loss(scores.log_softmax(-1).transpose(0, 1), label, steps, lengths, reduction=reduction)


case("ctc_entropy", "ctc_entropy(log_softmax(scores), label, steps, lengths)", ctc("none"), **CTC)
case("ctc", "ctc(log_softmax(scores), label, steps, lengths)", ctc("mean"), **CTC)

# ---- Optimizers: six steps with given gradients, for a matrix and a vector
optimizers = []
START = {"m": made("start.m", T(2, 2)), "v": made("start.v", T(3))}
GRADIENTS = {n: made(f"gradients.{n}", T(6, *t.shape, lo=-2, hi=2)) for n, t in START.items()}


def optimizer(name, code, make):
    p = {n: t.clone().requires_grad_() for n, t in START.items()}
    theirs = make(p)
    rows = {n: [] for n in p}
    for step in range(6):
        for n, t in p.items():
            t.grad = GRADIENTS[n][step].clone()
        theirs.step()
        for n, t in p.items():
            rows[n].append(t.detach().clone())
    optimizers.append({"name": name, "code": code, "after": {n: tensor(torch.stack(r)) for n, r in rows.items()}})


def all_of(kind, **settings):
    return lambda p: kind(list(p.values()), **settings)


optimizer("sgd", "sgd(lr: 0.1, momentum: 0.9, dampening: 0.2, decay: 0.05)", all_of(optim.SGD, lr=0.1, momentum=0.9, dampening=0.2, weight_decay=0.05))
optimizer("sgd.nesterov", "sgd(lr: 0.1, momentum: 0.9, nesterov: true)", all_of(optim.SGD, lr=0.1, momentum=0.9, nesterov=True))
optimizer("sgd.maximize", "sgd(lr: 0.1, decay: 0.1, maximize: true)", all_of(optim.SGD, lr=0.1, weight_decay=0.1, maximize=True))
optimizer("adam", "adam(lr: 0.05, decay: 0.1)", all_of(optim.Adam, lr=0.05, weight_decay=0.1))
optimizer("adam.amsgrad", "adam(lr: 0.05, beta1: 0.8, beta2: 0.9, eps: 1e-3, amsgrad: true)", all_of(optim.Adam, lr=0.05, betas=(0.8, 0.9), eps=1e-3, amsgrad=True))
optimizer("adamw", "adamw(lr: 0.05, decay: 0.3)", all_of(optim.AdamW, lr=0.05, weight_decay=0.3))
optimizer("adamw.matrices_only", "adamw(lr: 0.05, decay: 0.3, matrices_only: true)",
          lambda p: optim.AdamW([{"params": [p["m"]], "weight_decay": 0.3}, {"params": [p["v"]], "weight_decay": 0.0}], lr=0.05))
optimizer("nadam", "nadam(lr: 0.05, decay: 0.1)", all_of(optim.NAdam, lr=0.05, weight_decay=0.1))
optimizer("nadam.decoupled", "nadam(lr: 0.05, decay: 0.1, decoupled: true)", all_of(optim.NAdam, lr=0.05, weight_decay=0.1, decoupled_weight_decay=True))
optimizer("adamax", "adamax(lr: 0.05, decay: 0.1)", all_of(optim.Adamax, lr=0.05, weight_decay=0.1))
optimizer("adadelta", "adadelta(lr: 0.5, rho: 0.8, decay: 0.1)", all_of(optim.Adadelta, lr=0.5, rho=0.8, weight_decay=0.1))
optimizer("rmsprop", "rmsprop(lr: 0.01, momentum: 0.5, centered: true, decay: 0.1)",
          all_of(optim.RMSprop, lr=0.01, momentum=0.5, centered=True, weight_decay=0.1))
optimizer("adagrad", "adagrad(lr: 0.1, lr_decay: 0.1, decay: 0.05, start: 0.1)",
          all_of(optim.Adagrad, lr=0.1, lr_decay=0.1, weight_decay=0.05, initial_accumulator_value=0.1))
optimizer("radam", "radam(lr: 0.05, beta2: 0.5, decay: 0.1)", all_of(optim.RAdam, lr=0.05, betas=(0.9, 0.5), weight_decay=0.1))
optimizer("asgd", "asgd(lr: 0.1, lambda: 0.01, decay: 0.1)", all_of(optim.ASGD, lr=0.1, lambd=0.01, weight_decay=0.1))
optimizer("rprop", "rprop(lr: 0.01)", all_of(optim.Rprop, lr=0.01))


class Lion:
    """PyTorch has no Lion; this is its paper's algorithm 2 (Chen and others 2023), on PyTorch's tensors."""

    def __init__(self, p, lr, beta1, beta2, decay):
        self.p, self.lr, self.beta1, self.beta2, self.decay = list(p), lr, beta1, beta2, decay
        self.m = [torch.zeros_like(t) for t in self.p]

    @torch.no_grad()
    def step(self):
        for p, m in zip(self.p, self.m):
            update = torch.sign(self.beta1 * m + (1 - self.beta1) * p.grad)
            p -= self.lr * (update + self.decay * p)
            m.mul_(self.beta2).add_(p.grad, alpha=1 - self.beta2)


optimizer("lion", "lion(lr: 0.01, decay: 0.1)", lambda p: Lion(p.values(), 0.01, 0.9, 0.99, 0.1))


class Lamb:
    """PyTorch has no LAMB; this is its paper's algorithm 2 (You and others 2020) with the identity for its function phi, on PyTorch's tensors."""

    def __init__(self, p, lr, decay, beta1=0.9, beta2=0.999, eps=1e-6):
        self.p, self.lr, self.decay, self.beta1, self.beta2, self.eps, self.t = list(p), lr, decay, beta1, beta2, eps, 0
        self.m, self.v = [torch.zeros_like(t) for t in self.p], [torch.zeros_like(t) for t in self.p]

    @torch.no_grad()
    def step(self):
        self.t += 1
        for p, m, v in zip(self.p, self.m, self.v):
            m.mul_(self.beta1).add_(p.grad, alpha=1 - self.beta1)
            v.mul_(self.beta2).add_(p.grad**2, alpha=1 - self.beta2)
            move = m / (1 - self.beta1**self.t) / ((v / (1 - self.beta2**self.t)).sqrt() + self.eps) + self.decay * p
            p -= self.lr * p.norm() / move.norm() * move


optimizer("lamb", "lamb(lr: 0.02, decay: 0.1)", lambda p: Lamb(p.values(), 0.02, 0.1))

# ---- Schedules of 20 steps, five an epoch: the learning rate at each
STEPS, EPOCH = 20, 5
schedules = []


def schedule(name, code, make, every_step=True):
    p = torch.zeros(1, requires_grad=True)
    sgd = optim.SGD([p], lr=0.1)
    theirs = make(sgd)
    rates = []
    for step in range(STEPS):
        rates.append(number(sgd.param_groups[0]["lr"]))
        sgd.step()
        if every_step or (step + 1) % EPOCH == 0:
            theirs.step()
    schedules.append({"name": name, "code": code, "rates": rates})


def warm(sgd, warmup, then):
    start = schedulers.LinearLR(sgd, start_factor=1 / (warmup + 1), total_iters=warmup)
    return schedulers.SequentialLR(sgd, [start, then(sgd, STEPS - warmup)], milestones=[warmup])


cosine = lambda sgd, over: schedulers.CosineAnnealingLR(sgd, over, eta_min=0.01)
line = lambda sgd, over: schedulers.LinearLR(sgd, start_factor=1, end_factor=0.1, total_iters=over)
schedule("warmup", "warmup(0.1, 8)", lambda sgd: schedulers.LambdaLR(sgd, lambda i: min(1, (i + 1) / 8)))
schedule("ramp", "ramp(0.1, from: 0.25, to: 0.75, over: 12)", lambda sgd: schedulers.LinearLR(sgd, 0.25, 0.75, 12))
schedule("step_decay", "step_decay(0.1, every: 2, gamma: 0.5)", lambda sgd: schedulers.StepLR(sgd, 2, 0.5), every_step=False)
schedule("exponential", "exponential(0.1, gamma: 0.9)", lambda sgd: schedulers.ExponentialLR(sgd, 0.9), every_step=False)
schedule("linear_decay", "linear_decay(0.1, end: 0.01)", lambda sgd: line(sgd, STEPS))
schedule("linear_decay.warmup", "linear_decay(0.1, end: 0.01, warmup: 6)", lambda sgd: warm(sgd, 6, line))
schedule("cosine", "cosine(0.1, end: 0.01)", lambda sgd: cosine(sgd, STEPS))
schedule("cosine.warmup", "cosine(0.1, end: 0.01, warmup: 6)", lambda sgd: warm(sgd, 6, cosine))

# ---- Initialisers: PyTorch's random numbers are others, its formulas the same. A large tensor, and the distribution of its elements.
initialisers = []
LARGE = torch.empty(80, 25, 4, 5)
FAN_IN, FAN_OUT = nn.init._calculate_fan_in_and_fan_out(LARGE)


def uniform(name, code, bound):
    initialisers.append({"name": name, "code": code, "shape": list(LARGE.shape), "low": -bound, "high": bound})


def normal(name, code, std, mean=0.0):
    initialisers.append({"name": name, "code": code, "shape": list(LARGE.shape), "mean": mean, "std": std})


def xavier(gain):
    return gain * math.sqrt(2 / (FAN_IN + FAN_OUT))


def kaiming(fan, function, a=0):
    return nn.init.calculate_gain(function, a) / math.sqrt(fan)


ROOT3 = math.sqrt(3)  # of a uniform distribution's bound over its deviation, as in PyTorch
uniform("constant", "constant(0.25)", 0)
initialisers[-1] |= {"low": 0.25, "high": 0.25}
uniform("uniform", "uniform(0.3)", 0.3)
normal("normal", "normal(0.02, mean: 0.5)", 0.02, 0.5)
uniform("kaiming_uniform", f"kaiming_uniform(fan: {FAN_IN})", ROOT3 * kaiming(FAN_IN, "leaky_relu", math.sqrt(5)))
uniform("kaiming_uniform.relu", f"kaiming_uniform(fan: {FAN_OUT}, a: 0)", ROOT3 * kaiming(FAN_OUT, "relu"))
normal("kaiming_normal", f"kaiming_normal(fan: {FAN_IN})", kaiming(FAN_IN, "relu"))
normal("kaiming_normal.leaky", f"kaiming_normal(fan: {FAN_OUT}, a: 0.2)", kaiming(FAN_OUT, "leaky_relu", 0.2))
uniform("xavier_uniform", f"xavier_uniform(fan_in: {FAN_IN}, fan_out: {FAN_OUT})", ROOT3 * xavier(1))
uniform("xavier_uniform.tanh", f"xavier_uniform(fan_in: {FAN_IN}, fan_out: {FAN_OUT}, gain: 5 / 3)", ROOT3 * xavier(nn.init.calculate_gain("tanh")))
normal("xavier_normal", f"xavier_normal(fan_in: {FAN_IN}, fan_out: {FAN_OUT})", xavier(1))

# ---- What the layers start from: the arguments with which PyTorch's layers draw their parameters
layers = []


def layer(name, body, make, names, *inputs):
    """`make` builds the module while the functions that fill tensors tell what they are asked for; the last filling of a tensor counts."""
    filled = {}

    def watch(method, describe):
        original = getattr(torch.Tensor, method)

        def told(t, *args, **settings):
            filled[t.data_ptr()] = describe(*args, **settings)
            return original(t, *args, **settings)

        setattr(torch.Tensor, method, told)
        return original

    said = {
        "uniform_": lambda a=0.0, b=1.0, **_: {"low": a, "high": b},
        "normal_": lambda mean=0.0, std=1.0, **_: {"mean": mean, "std": std},
        "fill_": lambda value: {"low": float(value), "high": float(value)},
        "zero_": lambda: {"low": 0.0, "high": 0.0},
    }
    originals = {m: watch(m, d) for m, d in said.items()}
    module = make()
    for m, original in originals.items():
        setattr(torch.Tensor, m, original)
    theirs = {n: filled[p.data_ptr()] for n, p in module.named_parameters()}
    assert set(theirs) == set(names)
    layers.append({"name": name, "body": body, "shapes": [list(i) for i in inputs], "parameters": {names[n]: d for n, d in theirs.items()}})


AFFINE = lambda of: {"weight": f"{of}.weight", "bias": f"{of}.bias"}
layer("prelu", "prelu(x)", lambda: nn.PReLU(), {"weight": "prelu.weight"}, (2, 3))
layer("linear", "linear(x, 64)", lambda: nn.Linear(90, 64), AFFINE("linear"), (2, 90))
layer("bilinear", "bilinear(x, z, 20)", lambda: nn.Bilinear(30, 10, 20), AFFINE("bilinear"), (2, 30), (2, 10))
layer("conv1d", "conv1d(x, 48, kernel: 5, groups: 2)", lambda: nn.Conv1d(32, 48, 5, groups=2), AFFINE("conv1d"), (1, 32, 7))
layer("conv2d", "conv2d(x, 48, kernel: 3)", lambda: nn.Conv2d(16, 48, 3), AFFINE("conv2d"), (1, 16, 3, 3))
layer("conv3d", "conv3d(x, 32, kernel: 2)", lambda: nn.Conv3d(16, 32, 2), AFFINE("conv3d"), (1, 16, 2, 2, 2))
layer("conv_transpose2d", "conv_transpose2d(x, 16, kernel: 3, groups: 2)", lambda: nn.ConvTranspose2d(48, 16, 3, groups=2), AFFINE("conv_transpose2d"), (1, 48, 2, 2))
layer("embedding", "embedding(int(argmax(x)), rows: 90, dim: 40)", lambda: nn.Embedding(90, 40), {"weight": "embedding.weight"}, (2, 90))
layer("layer_norm", "layer_norm(x)", lambda: nn.LayerNorm(8), AFFINE("layer_norm"), (2, 8))
layer("rms_norm", "rms_norm(x)", lambda: nn.RMSNorm(8), {"weight": "rms_norm.weight"}, (2, 8))
layer("group_norm", "group_norm(x, 2)", lambda: nn.GroupNorm(2, 8), AFFINE("group_norm"), (1, 8, 2, 2))
layer("batch_norm1d", "batch_norm1d(x)", lambda: nn.BatchNorm1d(8), AFFINE("batch_norm1d"), (2, 8))
layer("batch_norm2d", "batch_norm2d(x)", lambda: nn.BatchNorm2d(8), AFFINE("batch_norm2d"), (2, 8, 2, 2))
for name, cell, over in [("rnn", nn.RNNCell, nn.RNN), ("lstm", nn.LSTMCell, nn.LSTM), ("gru", nn.GRUCell, nn.GRU)]:
    state = ", h, c" if name == "lstm" else ", h"
    of = lambda path: {theirs: f"{path}.{ours.replace('_', '.')}" for theirs, ours in CELL.items()}
    layer(f"{name}_cell", f"{name}_cell(x{state})", lambda: cell(20, 50), of(f"{name}_cell"), (2, 20), *[(2, 50)] * state.count(","))
    layer(name, f"{name}(x, 50)", lambda: over(20, 50), {f"{n}_l0": p for n, p in of(f"{name}.cell").items()}, (2, 3, 20))


def lines(entries):
    """One line an entry, but one a tensor where an entry has tensors: a changed value is a changed line."""
    def entry(e):
        tensors = {g: t for g, t in e.items() if isinstance(t, dict) and t}
        head = [json.dumps({k: v for k, v in e.items() if k not in tensors})[1:-1]]
        body = [f'"{g}": {{\n' + ",\n".join(f'{json.dumps(n)}: {json.dumps(t)}' for n, t in ts.items()) + "}" for g, ts in tensors.items()]
        return "{" + ",\n".join([h for h in head if h] + body) + "}"

    return "[\n" + ",\n".join(entry(e) for e in entries) + "\n]"


given = [{"start": {n: tensor(t) for n, t in START.items()}, "gradients": {n: tensor(t) for n, t in GRADIENTS.items()}}]
out = {"functions": functions, "given": given, "optimizers": optimizers, "schedules": schedules, "initialisers": initialisers, "layers": layers}
text = ",\n".join(f"{json.dumps(k)}: {lines(v)}" for k, v in out.items())
header = json.dumps({"made_by": "tests/golden/make.py", "torch": torch.__version__.split("+")[0]})[:-1]
pathlib.Path(__file__).with_name("values.json").write_text(f"{header},\n{text}\n}}\n")
