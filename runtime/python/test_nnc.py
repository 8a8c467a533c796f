"""The module as a person uses it. Arguments: digits.nnc as training left it, its bare artifact, an image and what `nnc run infer` makes of it (.npy)."""

import sys
import tempfile
import threading
from pathlib import Path

import numpy as np

import nnc

shipped, bare, image, wanted = sys.argv[1], sys.argv[2], np.load(sys.argv[3]), np.load(sys.argv[4])


def refuses(kind, words, call):
    try:
        call()
    except kind as error:
        assert words in str(error), f"{error!r} does not say {words!r}"
    else:
        raise AssertionError(f"nothing was refused; wanted: {words}")


def test_results_are_those_of_the_command():
    m = nnc.load(shipped)
    result = m.infer(image=image)
    assert list(result) == ["output"] and result["output"].dtype == np.float32
    assert result["output"].tobytes() == wanted.tobytes() and result["output"].shape == wanted.shape
    for same in (image.astype(np.float64), image.tolist(), np.asfortranarray(image)):
        assert m.infer("Digits", image=same)["output"].tobytes() == wanted.tobytes()
    result["output"][0] = 0  # the caller's own
    assert m.infer(image=image)["output"].tobytes() == wanted.tobytes()
    assert m.models == ["Digits(image: f32[B, 64]) -> output: f32[B, 10]"]
    assert "digits.nn" in repr(m) and "fit(" in repr(m)


def test_it_learns_and_is_saved():
    random = np.random.default_rng(1)
    images = random.random((256, 64), dtype=np.float32)
    labels = (images[:, :10].argmax(axis=1)).astype(np.uint8)
    m = nnc.load(bare)
    refuses(ValueError, "no weights", lambda: m.infer(image=images))
    first = m.train_step(image=images[:32], label=labels[:32])
    assert set(first) == {"loss", "accuracy"} and 2 < first["loss"] < 3
    for _ in range(20):
        last = m.train_epoch(image=images, label=labels)
    assert last["loss"] < first["loss"] / 2, (first, last)
    before = m.eval(image=images, label=labels)
    m.set("optimizer.lr", 0.0)
    m.train_step(image=images, label=labels)
    assert m.eval(image=images, label=labels)["loss"] == before["loss"]
    scores = m.infer(image=images)["output"]
    assert (scores.argmax(axis=1) == labels).mean() == before["accuracy"]
    with tempfile.TemporaryDirectory() as folder:
        m.save(Path(folder) / "own.nnc")
        m.save_weights(f"{folder}/own.safetensors")
        again, other = nnc.load(f"{folder}/own.nnc"), nnc.load(bare)
        other.load_weights(f"{folder}/own.safetensors")
        for loaded in (again, other):
            assert loaded.infer(image=images)["output"].tobytes() == scores.tobytes()
            assert all((value == loaded.tensors()[name]).all() for name, value in m.tensors().items())
    assert m.tensors()["Digits.fc1.weight"].shape == (64, 64)


def test_what_does_not_fit_is_refused():
    m = nnc.load(shipped)
    refuses(OSError, "cannot read absent.nnc", lambda: nnc.load("absent.nnc"))
    refuses(ValueError, "is not an artifact of nnc", lambda: nnc.load(__file__))
    refuses(ValueError, "needs the input image", lambda: m.infer())
    refuses(ValueError, "has no input imge; it has image: did you mean image?", lambda: m.infer(imge=image))
    refuses(ValueError, "image has the shape [1, 63]", lambda: m.infer(image=image[:, :63]))
    refuses(TypeError, "image has the type str", lambda: m.infer(image="three"))
    refuses(TypeError, "complex64", lambda: m.infer(image=image * 1j))
    refuses(ValueError, "no model Digit", lambda: m.infer("Digit", image=image))
    refuses(ValueError, "the column label is not given", lambda: m.train_step(image=image))
    refuses(ValueError, "label holds 10, but must be in 0..10", lambda: m.train_step(image=image, label=[10]))
    refuses(ValueError, "no such setting", lambda: m.set("optimizer.rate", 1))
    refuses(ValueError, "1..=1024", lambda: m.set_threads(0))
    refuses(OSError, "cannot write", lambda: m.save("/absent/folder/model.nnc"))
    assert m.infer(image=image)["output"].tobytes() == wanted.tobytes()


def test_threads_take_turns_and_python_goes_on():
    m = nnc.load(shipped)
    m.set_threads(1)
    many = np.repeat(image, 20000, axis=0)
    counted, over, good = [0], threading.Event(), []

    def count():
        while not over.is_set():
            counted[0] += 1

    def work():
        for _ in range(5):
            good.append(m.infer(image=many)["output"][-1:].tobytes() == wanted.tobytes())

    counter = threading.Thread(target=count)
    workers = [threading.Thread(target=work) for _ in range(2)]
    counter.start()
    [w.start() for w in workers]
    [w.join() for w in workers]
    over.set()
    counter.join()
    assert len(good) == 10 and all(good) and counted[0] > 0


tests = [(name, test) for name, test in list(globals().items()) if name.startswith("test_")]
for name, test in tests:
    test()
    print(f"{name} ... ok")
