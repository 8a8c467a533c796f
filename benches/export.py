"""Weights, inputs and references of the peers' workloads, under the names of models/bench/*.nn.

  export.py SCRIPTS OUT WORKLOAD MODE BATCH      (MODE: train or infer)

Writes OUT/WORKLOAD.npz, the weights, and OUT/WORKLOAD_bBATCH_MODE.npz: the inputs by name, and PyTorch's `expected` output or first five `losses`.
SCRIPTS is the folder of peers.py and models_torch.py. What is there already is not made again.
"""
import copy, os, re, sys

scripts, out, workload, mode, batch = *sys.argv[1:5], int(sys.argv[5])
target = os.path.join(out, f"{workload}_b{batch}_{mode}.npz")
weights = os.path.join(out, workload + ".npz")
if os.path.exists(target) and os.path.exists(weights):
    sys.exit()
sys.path.insert(0, scripts)
import numpy as np, torch, peers, models_torch

# A rule: PyTorch's name, as a regular expression, and the program's.
ATTENTION = [(r"\.(qkv|proj)\.", r".attn.\1.")]
TABLES = [(r"^(tok|pos|typ)\.weight$", r"\1")]
RESNET = [(r"\.down\.0\.", ".down."), (r"\.down\.1\.", ".down_bn.")]
RULES = {
    "digits_mlp": [(r"^l\.0", "fc1"), (r"^l\.1", "fc2")],
    "mnist_mlp": [(r"^l\.0", "fc1"), (r"^l\.1", "fc2"), (r"^l\.2", "fc3")],
    "simple_cnn": [],
    "lstm": [(r"^lstm\.(weight|bias)_(ih|hh)_l0$", r"l0.cell.\2.\1"), (r"^lstm\.(weight|bias)_(ih|hh)_l1$", r"l1.\2.\1")],
    "gpt_small": TABLES + ATTENTION,
    "gpt2_124m": TABLES + ATTENTION,
    "minilm": TABLES + ATTENTION + [(r"^(?!head)", "MiniLm."), (r"^head", "Classifier.head")],
    "resnet18_c32": RESNET,
    "resnet18_224": RESNET,
}


def name_here(name):
    for pattern, new in RULES[workload.removesuffix("_ft")]:
        name = re.sub(pattern, new, name)
    return name


# The program holds both uses of MiniLM, and so do its weights.
model = models_torch.build("minilm_ft" if workload == "minilm" else workload)
named = {name_here(k): v.detach().numpy() for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
os.makedirs(out, exist_ok=True)
np.savez(weights, **named)

x, y = peers.data(workload, batch)
words = workload.startswith(("gpt", "minilm"))
arrays = {"tokens" if words else "x" if workload == "lstm" else "image": x, "next" if workload.startswith("gpt") else "label": y}
tx, ty = torch.from_numpy(x), torch.from_numpy(y)
torch.set_num_threads(2)


def first_losses(model, tx):
    model.train()
    optimizer = models_torch.optimizer(workload, model.parameters(), False)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = models_torch.loss(model(tx), ty)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return np.array(losses)


if mode == "infer":
    if workload == "minilm":
        model.head = None
    with torch.no_grad():
        arrays["expected"] = model.eval()(tx).numpy()
else:
    arrays["losses"] = first_losses(copy.deepcopy(model), tx)
    # Batch norm over sixteen images amplifies rounding from step to step: how much PyTorch's own losses are off, its doubles tell.
    if workload.startswith("resnet"):
        arrays["losses_f64"] = first_losses(model.double(), tx.double())
np.savez(target, **arrays)
