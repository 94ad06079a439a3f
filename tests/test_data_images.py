"""The image sets: what they hold, how they are cut and normalised, and what is said about data that are not right."""

import hashlib
import pickle
import urllib.error

import numpy as np
import pytest
import torch
import torchvision

from course_utils.data import Images, batches, channel_statistics, crop_and_flip, hold_out, load_images
from course_utils.data.builtin import FASHION_SHA256


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Operations this small are several times slower on two threads when the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def fashion():
    return {split: load_images("fashion", split=split) for split in ("train", "test")}


def test_embedded_set_is_balanced_and_its_splits_share_no_image(fashion):
    train, test = fashion["train"], fashion["test"]
    assert train.x.shape == (10_000, 1, 28, 28)
    assert test.x.shape == (2_000, 1, 28, 28)
    assert train.y.bincount().tolist() == [1000] * 10
    assert test.y.bincount().tolist() == [200] * 10
    assert train.y[:100].bincount().tolist() == [10] * 10  # the first images are balanced too
    digests = [{hashlib.md5(x.numpy().tobytes()).digest() for x in s.x} for s in (train, test)]
    assert len(digests[0] & digests[1]) == 0


def test_embedded_labels_belong_to_their_images(fashion):
    """Nearest class mean gets 68 % of the full test set right; with labels out of step it would get 10 %."""
    train, test = fashion["train"], fashion["test"]
    means = torch.stack([train.x[train.y == c].float().mean(0).flatten() for c in range(10)])
    nearest = torch.cdist(test.x.float().flatten(1), means).argmin(1)
    assert (nearest == test.y).float().mean() > 0.6
    # Trousers are tall and narrow, bags are wide: the names stand in the right order.
    mass = train.x.float().mean((0, 1)).sum()
    assert mass > 0
    width = {name: (means[c].view(28, 28).mean(0) > 30).sum().item() for c, name in enumerate(train.classes)}
    assert min(width, key=width.__getitem__) == "Trouser"


def test_a_damaged_embedded_file_is_noticed(monkeypatch):
    monkeypatch.setitem(FASHION_SHA256, "train", "0" * 64)
    with pytest.raises(ValueError, match=r"fashion_train.png have SHA-256 3137.*install course_utils again"):
        load_images("fashion")


def test_digits_keep_their_grey_levels():
    train, test = (load_images("digits", split=s) for s in ("train", "test"))
    assert (len(train), len(test)) == (1437, 360)
    assert test.y.bincount().tolist() == [36] * 10
    assert train.x.unique().numel() == 17
    assert (train.x.min(), train.x.max()) == (0, 255)


def test_statistics_are_those_of_the_set_not_the_mean_of_the_images(fashion):
    torch.manual_seed(0)
    shape = (3000, 3, 4, 5)  # more than one chunk
    x = (torch.randint(0, 120, shape) + torch.randint(0, 130, (3000, 3, 1, 1))).to(torch.uint8)
    mean, std = channel_statistics(x)
    values = x.numpy() / 255
    np.testing.assert_allclose(mean, values.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(std, values.std((0, 2, 3)), rtol=1e-6)
    assert (values.std((2, 3)).mean(0) < 0.8 * std.numpy()).all(), "or this test cannot tell the two apart"
    floats = channel_statistics(x.float() / 255)
    torch.testing.assert_close(floats, (mean, std))
    # a float32 running sum would stall here: the mean of a constant plus a little
    big = torch.full((8, 1, 1024, 1024), 0.1)
    big[0, 0, 0, 0] = 0.2
    assert channel_statistics(big)[0].item() == pytest.approx(0.1, rel=1e-6)


def test_validation_is_cut_from_the_training_images_by_class(fashion):
    train, validation = hold_out(fashion["train"], 0.1)
    assert (len(train), len(validation)) == (9000, 1000)
    assert validation.y.bincount().tolist() == [100] * 10
    together = sorted(hashlib.md5(x.numpy().tobytes()).digest() for part in (train, validation) for x in part.x)
    assert together == sorted(hashlib.md5(x.numpy().tobytes()).digest() for x in fashion["train"].x)
    same, _ = hold_out(fashion["train"], 0.1)
    other, _ = hold_out(fashion["train"], 0.1, seed=1)
    assert torch.equal(train.x, same.x)
    assert not torch.equal(train.x, other.x)
    torch.testing.assert_close(validation.statistics, channel_statistics(train.x))
    with pytest.raises(ValueError, match=r"fraction is 1.5, expected between 0 and 1"):
        hold_out(train, 1.5)
    with pytest.raises(ValueError, match="leaves one part empty"):
        hold_out(train, 1e-6)


def test_batches_are_normalised_with_the_training_statistics(fashion):
    x = torch.cat([x for x, _ in batches(fashion["train"], 999)])
    assert x.dtype == torch.float32
    assert x.mean().item() == pytest.approx(0, abs=1e-4)
    assert x.std().item() == pytest.approx(1, abs=1e-4)
    mean, std = channel_statistics(fashion["train"].x)
    first, _ = next(batches(fashion["test"], 5))
    torch.testing.assert_close(first, (fashion["test"].x[:5] / 255 - mean) / std)


def test_an_epoch_holds_every_image_once_in_an_order_of_its_own():
    n = 103
    x = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 1, 2, 2).contiguous()
    images = Images(x, torch.arange(n), tuple(map(str, range(n))), "counted")
    torch.manual_seed(0)
    random = torch.get_rng_state()

    def order(**options):
        return torch.cat([y for _, y in batches(images, 10, **options)]).tolist()

    assert order() == list(range(n))
    shuffled = {(s, e): order(shuffle=True, seed=s, epoch=e) for s in range(4) for e in range(4)}
    assert all(sorted(o) == list(range(n)) for o in shuffled.values())
    assert len(set(map(tuple, shuffled.values()))) == 16  # seed 0, epoch 1 is not seed 1, epoch 0
    assert order(shuffle=True, seed=2, epoch=3) == shuffled[2, 3]
    assert [len(y) for _, y in batches(images, 10)] == [10] * 10 + [3]
    assert [len(y) for _, y in batches(images, 10, drop_last=True)] == [10] * 10
    for images_x, y in batches(images, 10, shuffle=True):  # pixels and labels stay together
        assert torch.equal(images_x[:, 0, 0, 0].argsort(), y.argsort())
    assert torch.equal(random, torch.get_rng_state())


def test_crop_and_flip_moves_each_image_by_itself():
    image = torch.arange(1, 37, dtype=torch.uint8).view(1, 1, 6, 6)
    x = image.repeat(400, 3, 1, 1)
    generator = torch.Generator().manual_seed(0)
    out = crop_and_flip(x, generator, padding=1)
    assert out.shape == x.shape
    assert out.dtype == torch.uint8
    padded = torch.nn.functional.pad(image.float(), (1, 1, 1, 1), mode="replicate").byte()[0, 0]
    crops = [padded[i : i + 6, j : j + 6] for i in range(3) for j in range(3)]
    allowed = {c.numpy().tobytes() for crop in crops for c in (crop, crop.flip(1).contiguous())}
    seen = {o[c].contiguous().numpy().tobytes() for o in out for c in range(3)}
    assert seen == allowed  # all 18, and nothing else
    assert all(torch.equal(o[0], o[1]) for o in out)  # channels move together
    straight = crop_and_flip(x, generator, padding=0, flip=False)
    assert torch.equal(straight, x)


def test_augmented_epochs_repeat_themselves():
    images = load_images("digits").take(slice(0, 100))
    epoch = [
        torch.cat([x for x, _ in batches(images, 32, shuffle=True, epoch=e, augment=crop_and_flip)]) for e in (0, 1, 0)
    ]
    assert torch.equal(epoch[0], epoch[2])
    assert not torch.equal(epoch[0], epoch[1])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: load_images("mnist"), "'mnist'.*'fashion', 'digits', 'cifar10' or 'cifar100'"),
        (lambda: load_images("fashion", split="validation"), r"'validation'.*load_splits"),
        (lambda: load_images("fashion", root="x"), "'fashion' is built in"),
        (lambda: load_images("cifar10"), r"give root=FOLDER.*or root=FOLDER and download=True"),
        (lambda: next(batches(load_images("digits"), 0)), "batch_size is 0"),
        (lambda: next(batches(load_images("digits"), 2000, drop_last=True)), "larger than the set"),
        (lambda: channel_statistics(torch.zeros(2, 3)), r"\[2, 3\], expected \[N, C, H, W\]"),
        (lambda: channel_statistics(torch.zeros(2, 1, 3, 3)), "channel 0"),
        (lambda: Images(torch.zeros(2, 1, 3, 3), torch.zeros(2).long(), (), "n"), "expected torch.uint8"),
        (lambda: Images(torch.zeros(2, 1, 3, 3).byte(), torch.zeros(3).long(), (), "n"), r"expected torch.int64 \[2\]"),
    ],
)
def test_errors_say_what_to_do(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# ---- CIFAR-10, from what a reader may bring --------------------------------------------------------------------------


def cifar_arrays(n=20):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    y = (np.arange(n) % 10).astype(np.uint8)
    return {"x_train": x, "y_train": y, "x_test": x[:10], "y_test": y[:10]}


def test_cifar_from_npz(tmp_path):
    arrays = cifar_arrays()
    np.savez_compressed(tmp_path / "c.npz", **arrays, classes=np.array(["more keys do no harm"]))
    train, test = (load_images("cifar10", split=s, root=tmp_path / "c.npz") for s in ("train", "test"))
    assert train.x.shape == (20, 3, 32, 32)
    assert train.x[3, 2, 5, 7] == arrays["x_train"][3, 5, 7, 2]
    assert test.y.tolist() == list(range(10))
    torch.testing.assert_close(test.statistics, channel_statistics(train.x))
    assert train.classes[3] == "cat"


class Trap:
    """Unpickling it would leave a mark."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return (open, (self.mark, "w"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x_test": None}, "it has no x_test, only x_train, y_train, y_test; make it with np.savez"),
        ({"x_train": np.zeros((4, 32, 32, 3), np.float32)}, r"x_train is float32 \[4, 32, 32, 3\], expected uint8"),
        ({"x_train": np.zeros((20, 3, 32, 32), np.uint8)}, r"\[20, 3, 32, 32\], expected .*channels last"),
        ({"x_train": np.zeros((0, 32, 32, 3), np.uint8)}, r"\[0, 32, 32, 3\]"),
        ({"y_train": np.zeros((20, 1), np.uint8)}, r"y_train is uint8 \[20, 1\], expected integers \[20\].*reshape"),
        ({"y_train": np.zeros(19, np.uint8)}, r"\[19\], expected integers \[20\]"),
        ({"y_test": np.full(10, 11)}, "labels from 11 to 11, expected 0 to 9"),
    ],
)
def test_cifar_npz_of_the_wrong_kind(tmp_path, change, words):
    arrays = {k: v for k, v in (cifar_arrays() | change).items() if v is not None}
    np.savez(tmp_path / "c.npz", **arrays)
    with pytest.raises(ValueError, match=words):
        load_images("cifar10", root=tmp_path / "c.npz")


def test_cifar_that_is_black_is_named(tmp_path):
    np.savez(tmp_path / "c.npz", **(cifar_arrays() | {"x_train": np.zeros((20, 32, 32, 3), np.uint8)}))
    with pytest.raises(ValueError, match=r"cifar10 from .*c\.npz: channel 0 has the same value"):
        load_images("cifar10", root=tmp_path / "c.npz")


def test_cifar_npz_with_a_pickle_inside_is_refused_unread(tmp_path):
    mark = tmp_path / "mark"
    np.savez(tmp_path / "c.npz", **(cifar_arrays() | {"y_train": np.array([Trap(mark)], dtype=object)}))
    with pytest.raises(ValueError, match="cannot be read as CIFAR-10: Object arrays"):
        load_images("cifar10", root=tmp_path / "c.npz")
    assert not mark.exists()


def test_cifar_npz_truncated_anywhere(tmp_path):
    np.savez_compressed(tmp_path / "whole.npz", **cifar_arrays(4))
    whole = (tmp_path / "whole.npz").read_bytes()
    for size in [0, 1, 3, *range(10, len(whole), len(whole) // 40), len(whole) - 1]:
        (tmp_path / "cut.npz").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut\.npz cannot be read as CIFAR-10"):
            load_images("cifar10", root=tmp_path / "cut.npz")


def test_cifar_missing_and_offline(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nothing.npz"):
        load_images("cifar10", root=tmp_path / "nothing.npz")
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist: unpack cifar-10-python.tar.gz there"):
        load_images("cifar10", root=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no folder cifar-10-batches-py"):
        load_images("cifar10", root=tmp_path)
    with pytest.raises(ValueError, match=r"root is the file .*give a folder"):
        load_images("cifar10", root=tmp_path / "c.npz", download=True)

    def offline(*args, **kwargs):
        raise urllib.error.URLError("Temporary failure in name resolution")

    monkeypatch.setattr(torchvision.datasets.utils.urllib.request, "urlopen", offline)
    with pytest.raises(ConnectionError, match=r"could not be downloaded .*name resolution.*check the network"):
        load_images("cifar10", root=tmp_path / "new", download=True)


def test_cifar_in_torchvisions_layout_is_read_only_when_its_checksums_match(tmp_path, monkeypatch):
    folder, mark = tmp_path / "cifar-10-batches-py", tmp_path / "mark"
    folder.mkdir()
    arrays, sums = cifar_arrays(), {}
    flat = arrays["x_train"].transpose(0, 3, 1, 2).reshape(20, -1)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]:
        content = (
            {"label_names": ["airplane"]} if "meta" in name else {"data": flat, "labels": arrays["y_train"].tolist()}
        )
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()

    with pytest.raises(ValueError, match="is incomplete or not the original"):
        load_images("cifar10", root=tmp_path)

    cifar = torchvision.datasets.CIFAR10
    monkeypatch.setattr(cifar, "train_list", [[n, s] for n, s in sums.items() if n.startswith("data")])
    monkeypatch.setattr(cifar, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(cifar, "meta", {**cifar.meta, "md5": sums["batches.meta"]})
    train = load_images("cifar10", root=tmp_path)
    assert train.x.shape == (100, 3, 32, 32)
    assert train.x[3, 2, 5, 7] == arrays["x_train"][3, 5, 7, 2]

    (folder / "data_batch_3").write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(ValueError, match=r"not the original.*delete it"):
        load_images("cifar10", root=tmp_path)
    assert not mark.exists()
