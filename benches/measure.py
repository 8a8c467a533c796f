"""A peer's step, timed on demand: a line on standard input is a round of so many seconds, a JSON line comes back.

  measure.py SCRIPTS WORKLOAD FRAMEWORK MODE BATCH THREADS
  measure.py SCRIPTS product MODEL numpy|torch M,N,K THREADS      (the models of models/bench/product.nn)
  measure.py SCRIPTS convolution MODEL torch B,C,O,SIZE,SIDE,STRIDE THREADS   (those of models/bench/convolution.nn)

SCRIPTS is the folder of peers.py, which defines what a step is; PEERS_DIR the one of its artifacts. The first line says that it is ready.
"""
import argparse, json, os, resource, sys, time

scripts, workload, framework, mode, batch, threads = sys.argv[1:7]
threads = int(threads)
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = str(threads)
if threads == 1:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, scripts)
sys.stdout, answers = sys.stderr, sys.stdout  # what libraries print is no answer


def product(model, sizes):
    import numpy as np

    m, n, k = sizes
    random = np.random.default_rng(0)
    turned = model == "Linear" or model.startswith("Packed")
    a = random.standard_normal((k, m) if model == "Weights" else (m, k), dtype=np.float32)
    b = random.standard_normal((n, k) if turned else (k, n), dtype=np.float32)
    out = np.empty((m, n), np.float32)
    x, y = a.T if model == "Weights" else a, b.T if turned else b
    if mode == "torch":
        import torch

        torch.set_num_threads(threads)
        x, y, out = torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(out)
        return (lambda: torch.mm(x, y, out=out)), 1
    return (lambda: np.matmul(x, y, out=out)), 1


def convolution(model, sizes):
    import torch

    torch.set_num_threads(threads)
    b, c, o, size, side, stride = sizes
    pad, small = side // 2, (size + side // 2 * 2 - side) // stride + 1
    x, w, dy = torch.randn(b, c, size, size), torch.randn(o, c, side, side), torch.randn(b, o, small, small)
    x, dy = (t.contiguous(memory_format=torch.channels_last) for t in (x, dy))
    wanted = {"Forward": None, "Data": [True, False, False], "Weights": [False, True, False]}[model]
    if wanted is None:
        return (lambda: torch.nn.functional.conv2d(x, w, stride=stride, padding=pad)), 1
    return (lambda: torch.ops.aten.convolution_backward(dy, x, w, None, [stride, stride], [pad, pad], [1, 1], False, [0, 0], 1, wanted)), 1


def on_gpu():
    """PyTorch's step on a GPU, in full f32, with one batch that stays there; over when the GPU is."""
    import models_torch, peers, torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    model = models_torch.build(workload).to("cuda")
    x, y = (torch.from_numpy(a).to("cuda") for a in peers.data(workload, int(batch)))
    if mode == "infer":
        model.eval()

        def step():
            with torch.inference_mode():
                model(x)
            torch.cuda.synchronize()

        return step, 1
    model.train()
    optimizer = models_torch.optimizer(workload, model.parameters(), fused=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        models_torch.loss(model(x), y).backward()
        optimizer.step()
        torch.cuda.synchronize()

    return step, 1


def peer():
    if framework == "torch_cuda":
        return on_gpu()
    import peers

    arguments = argparse.Namespace(w=workload, fw=framework, mode=mode, batch=int(batch), threads=threads, dtype="f32", seconds=1.0, warm_cache=True, mkl512=False, malloc=False)
    own = {"onnxruntime": peers.ort_setup, "openvino": peers.ov_setup, "numpy": peers.numpy_setup}
    setup = own.get(framework, peers.jax_setup if framework.startswith("jax") else peers.torch_setup)
    step, _, info = setup(arguments)
    return step, info.get("inner", 1)


def answer(**fields):
    fields["rss_kb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps(fields), file=answers, flush=True)


if workload in ("product", "convolution"):
    # The words stand for other things here: the model, the library, the sizes.
    step, inner = {"product": product, "convolution": convolution}[workload](framework, [int(n) for n in batch.split(",")])
else:
    step, inner = peer()
for _ in range(3):
    step()
answer(ready=True)
for line in sys.stdin:
    seconds, times = float(line), []
    step()
    began = now = time.perf_counter()
    while now - began < seconds or len(times) < 3:
        start = now
        step()
        now = time.perf_counter()
        times.append((now - start) * 1e3 / inner)
    times.sort()
    at = lambda share: times[round((len(times) - 1) * share)]
    answer(steps=len(times) * inner, median_ms=at(0.5), min_ms=times[0], p10_ms=at(0.1), p90_ms=at(0.9))
os._exit(0)
