"""Fine-tuning: what trains, which epoch is taken, how often the test images are seen, and what is said."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from course_utils.data import Images, Splits, batches, load_splits
from course_utils.models import ViT, ViTConfig
from course_utils.training import checkpoint, choose_precision
from course_utils.training import run as module
from course_utils.training.checkpoint import parameters_named
from course_utils.vision.fine_tune import data as data_module
from course_utils.vision.fine_tune.config import FineTune
from course_utils.vision.fine_tune.data import Data, few_labels, load_data, seen_by
from course_utils.vision.fine_tune.model import Classifier, load_classifier
from course_utils.vision.fine_tune.predict import open_run
from course_utils.vision.fine_tune.train import main, train


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny(classes=4, **options):
    torch.manual_seed(0)
    config = ViTConfig(
        width=16, depth=2, heads=2, mlp_ratio=2.0, image_size=8, patch_size=4, channels=1, num_classes=classes
    )
    return Classifier(ViT(config), "ours", classes, (8, 8), **{"statistics": ((0.5,), (0.5,)), **options})


def bright(n, seed=0):
    """Four classes: in which quarter the light is."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 4
    x = torch.randint(0, 90, (n, 1, 8, 8), generator=g, dtype=torch.uint8)
    for i, c in enumerate(y.tolist()):
        x[i, 0, 4 * (c // 2) : 4 * (c // 2) + 4, 4 * (c % 2) : 4 * (c % 2) + 4] += 150
    return Images(x, y, ("a", "b", "c", "d"), "quarters")


@pytest.fixture(scope="module")
def data():
    return Data(bright(60), bright(30, 1), bright(45, 2))


CONFIG = FineTune(epochs=3, batch_size=16, lr=3e-3, augment="none", output=None)
EASY = CONFIG.model_copy(update={"lr": 1e-2, "epochs": 3})


def test_it_learns_and_goes_back_to_the_best_epoch(data, monkeypatch):
    model, weights = tiny(), []
    original, calls = module.evaluate, []

    def watched(model, batches, **options):
        metrics = original(model, batches, **options)
        calls.append(metrics.samples)
        weights.append({name: p.detach().clone() for name, p in model.named_parameters()})
        accuracy = (0.3, 0.9, 0.5, 0.0)[len(calls) - 1]  # the second epoch is the best
        return replace(metrics, accuracy=accuracy)

    monkeypatch.setattr(module, "evaluate", watched)
    result = train(CONFIG, data, model)
    assert calls == [30, 30, 30, 45], "the test images are looked at once, after all else"
    assert (result.best_epoch, result.validation.accuracy, result.validation.samples) == (2, 0.9, 30)
    assert all(torch.equal(p, weights[1][name]) for name, p in model.named_parameters())
    assert result.epochs[-1]["loss"] < result.epochs[0]["loss"]
    assert result.test.samples == 45


def test_accuracy_on_what_it_can_learn(data):
    assert train(EASY, Data(bright(400), data.validation, data.test), tiny()).test.accuracy > 0.9


@pytest.mark.parametrize("tactic", ["full", "head", "lora"])
def test_each_tactic_moves_what_it_says(data, tactic):
    model = tiny()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    config = FineTune(
        epochs=2, batch_size=16, tactic=tactic, augment="none", output=None, **({"rank": 2} if tactic == "lora" else {})
    )
    result = train(config, data, model)
    same = {name for name, p in model.named_parameters() if name in before and torch.equal(p, before[name])}
    if tactic == "full":
        assert not same
        assert result.trainable == result.total
    else:
        assert len(same) == len([name for name in before if ".head." not in name]) - (4 if tactic == "lora" else 0) * 2
        head, lora = 16 * 4 + 4, 4 * 2 * (16 + 16) * (tactic == "lora")
        assert result.trainable == head + lora


def test_the_head_warms_up_alone(data, monkeypatch):
    model, moved = tiny(), []
    original, before = module.evaluate, {name: p.detach().clone() for name, p in model.named_parameters()}

    def watched(model, batches, **options):
        moved.append({name.split(".")[1] for name, p in model.named_parameters() if not torch.equal(p, before[name])})
        return original(model, batches, **options)

    monkeypatch.setattr(module, "evaluate", watched)
    train(CONFIG.model_copy(update={"head_epochs": 2}), data, model)
    assert moved[0] == moved[1] == {"head"}
    assert {"encoder", "positions", "head"} <= moved[2]


def test_a_run_is_a_function_of_its_seed(data):
    results = [train(CONFIG.model_copy(update={"seed": seed}), data, tiny()).epochs for seed in (1, 1, 2)]
    losses = [[row["loss"] for row in history] for history in results]
    assert losses[0] == losses[1] != losses[2]


def test_few_labels_are_balanced_and_refused_where_there_are_fewer():
    few = few_labels(bright(60), 3)
    assert few.y.bincount().tolist() == [3] * 4
    with pytest.raises(ValueError, match=r"quarters has fewer than 16 images of a, b, c, d: choose a smaller"):
        few_labels(bright(60), 16)


def test_the_data_are_normalised_as_the_base_was_trained(data, monkeypatch):
    seen = []
    model = tiny(statistics=((0.25,), (0.5,)))
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    train(CONFIG.model_copy(update={"epochs": 1}), data, model)
    expected = (data.test.x / 255 - 0.25) / 0.5
    torch.testing.assert_close(seen[-1], expected[-len(seen[-1]) :])


def test_precision_is_what_the_machine_has(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert choose_precision("auto", cpu) == "fp32"
    for has, wanted in ((True, "bf16"), (False, "fp16")):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True, has=has: has or including_emulation
        )
        assert choose_precision("auto", gpu) == wanted
    assert choose_precision("bf16", cpu) == "bf16"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains_and_evaluates_alike(data, precision, monkeypatch):
    dtypes, model = set(), tiny()
    model.model.head.register_forward_hook(lambda module, inputs, output: dtypes.add(output.dtype))
    result = train(
        EASY.model_copy(update={"precision": precision}), Data(bright(400), data.validation, data.test), model
    )
    assert dtypes == {torch.bfloat16 if precision == "bf16" else torch.float16}, "evaluation too"
    assert result.test.accuracy > 0.9


def test_from_the_command_line_to_a_model_that_predicts(tmp_path, capsys, monkeypatch):
    images, _, test = load_splits("fashion")
    splits = Splits(images.take(slice(100)), None, test.take(slice(100)))
    monkeypatch.setattr(data_module, "load", lambda *_: splits)
    folder = tmp_path / "run"
    words = ["--tactic", "lora", "--per-class", "6", "--epochs", "2", "--rank", "2", "--output", str(folder)]
    main([*words, "--validation", "0.34"])
    history = json.loads((folder / "history.json").read_text())
    assert len(history["epochs"]) == 2
    model, classes = open_run(folder)
    assert classes[3] == "Dress"
    assert (folder / "best.safetensors").stat().st_size < 100_000, "the base is not in it"
    test = splits.test
    with torch.inference_mode():
        images, size = seen_by(model, test)
        x = next(batches(images, 100, size=size))[0]
        assert (model(x).argmax(1) == test.y).float().mean().item() == pytest.approx(history["test"]["accuracy"])
    with pytest.raises(SystemExit, match=r"error: .*run holds a run already: .*replace it \(--overwrite\)"):
        main(words)

    whole = (folder / "best.safetensors").read_bytes()
    (folder / "best.safetensors").write_bytes(whole[:-50])
    with pytest.raises(ValueError, match="truncated"):
        open_run(folder)
    with pytest.raises(FileNotFoundError, match="there is no run"):
        open_run(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"rank": 4}, "rank is 4, but tactic full does not read it: only lora do"),
        ({"tactic": "head", "layer_decay": 0.8}, "layer_decay is 0.8, but tactic head"),
        ({"head_epochs": 5}, "head_epochs 5 leaves no epoch of 5 for the rest"),
        ({"data": "cifar10"}, "data cifar10 needs data_dir"),
        ({"library": "timm"}, "the embedded base is a model of ours, not of timm"),
        ({"start": "scratch", "tactic": "lora"}, "would tune noise"),
        ({"layer_decay": 1.5}, r"layer_decay is 1.5, expected less than or equal to 1 \(each layer nearer"),
        ({"per_class": 1}, "per_class is 1, expected greater than or equal to 2"),
        ({"tactics": "head"}, "unknown key 'tactics': did you mean tactic"),
        ({"data": "mnist"}, "no image set 'mnist': choose 'fashion', 'digits', 'cifar10' or"),
    ],
)
def test_choices_that_do_not_fit_are_refused(choices, words):
    with pytest.raises(ValueError, match=words):
        FineTune.load(**choices)


def test_bad_inputs_are_said_and_nothing_is_half_written(tmp_path):
    arrays = {"x_train": np.zeros((20, 32, 32, 3), np.uint8), "y_train": np.arange(20) % 10}
    arrays |= {"x_test": arrays["x_train"], "y_test": arrays["y_train"]}
    arrays["x_train"][::2] = 200
    np.savez(tmp_path / "c.npz", **arrays)
    output = str(tmp_path / "out")
    cifar = {"data": "cifar10", "data_dir": str(tmp_path / "c.npz"), "output": output, "validation": 0.5}
    cases = [
        (FineTune(**cifar), r"cifar10 has 3 channels and the model was trained on 1: choose a base for"),
        (FineTune(**{**cifar, "data_dir": str(tmp_path / "no.npz")}), "there is no file .*no.npz"),
        (FineTune(base=str(tmp_path / "no"), output=output), "there is no file or directory"),
        (FineTune(per_class=2000, output=output), "fashion has fewer than 2000 images of T-shirt"),
        (FineTune(image_size=30, output=output), "30 is no multiple of the patch's 7"),
    ]
    for config, words in cases:
        with pytest.raises((ValueError, OSError), match=words):
            train(config)
    assert not (tmp_path / "out").exists()


def test_another_base_is_not_filled_with_a_run(tmp_path):
    """The class count of a checkpoint that differs from the head's."""
    model = load_classifier("embedded", 10)
    held = parameters_named(tiny(), dict(tiny().named_parameters()))
    extra = {"classes": ["a", "b", "c", "d"]}  # as an older version wrote it
    checkpoint.save(tmp_path / "best.safetensors", model=held, config=FineTune().model_dump(), extra=extra)
    with pytest.raises(ValueError, match=r"best\.safetensors"):
        open_run(tmp_path)
    assert model.classes == 10


def test_the_default_needs_nothing():
    data = load_data(FineTune(per_class=10))
    assert (len(data.train), len(data.validation), len(data.test), data.classes) == (90, 10, 2000, 10)
