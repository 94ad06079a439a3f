"""Augmentation of batches, mixing, and the shares that processes get of them."""

import itertools
import time
import urllib.error
from collections.abc import Generator

import pytest
import torch
import torchvision
from torchvision.transforms import v2

from course_utils.data import (
    Images,
    batches,
    chain,
    crop_and_flip,
    erase,
    from_torchvision,
    load_images,
    mixup_cutmix,
    prefetched,
    rand_augment,
)
from course_utils.launch import launch


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def numbered(n, side=6, channels=1):
    """Image i shows i everywhere, and its label is i."""
    x = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, channels, side, side).contiguous()
    return Images(
        x, torch.arange(n), tuple(map(str, range(n))), "numbered", (torch.zeros(channels), torch.ones(channels))
    )


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "augment",
    [crop_and_flip, erase, rand_augment(), from_torchvision(v2.RandomRotation(30)), chain(crop_and_flip, erase)],
    ids=["crop_and_flip", "erase", "rand_augment", "from_torchvision", "chain"],
)
def test_an_augmentation_draws_from_its_generator_alone_and_stays_in_bytes(augment):
    x = torch.randint(0, 256, (19, 3, 12, 10), dtype=torch.uint8)
    before, given = torch.get_rng_state(), x.clone()
    out = augment(x, generator(1))
    assert (out.dtype, out.shape) == (torch.uint8, x.shape)
    assert torch.equal(out, augment(x, generator(1)))
    assert not torch.equal(out, augment(x, generator(2)))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(x, given), "the images themselves were changed"


def test_images_of_a_batch_are_not_all_turned_alike():
    """What torchvision does to a batch by itself."""
    x = torch.randint(0, 256, (1, 1, 32, 32), dtype=torch.uint8).repeat(64, 1, 1, 1)
    assert len(torch.unique(v2.RandomRotation(30)(x), dim=0)) == 1
    assert len(torch.unique(from_torchvision(v2.RandomRotation(30), group=8)(x, generator()), dim=0)) == 8
    assert len(torch.unique(erase(x, generator(), share=1.0), dim=0)) == 64


def test_erasing_hits_the_share_and_the_area_it_is_told():
    x = torch.zeros(4000, 2, 20, 30, dtype=torch.uint8)
    out = erase(x, generator(), share=0.3, area=(0.1, 0.2))
    changed = (out != 0).any(1)  # [B, H, W]
    hit = changed.flatten(1).any(1)
    assert hit.float().mean().item() == pytest.approx(0.3, abs=0.03)
    areas = []
    for image in changed[hit]:
        rows, columns = image.any(1).nonzero(), image.any(0).nonzero()
        high, wide = (int(v.max() - v.min()) + 1 for v in (rows, columns))
        assert image.float().mean() > 0.98 * high * wide / 600, "one rectangle, full of noise"
        areas.append(high * wide / 600)
    assert min(areas) > 0.07
    assert max(areas) < 0.22
    assert torch.equal(erase(x, generator(), share=0.0), x)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_labels_are_mixed_as_the_pixels_are(mixup, cutmix):
    n, classes = 24, 24
    x = torch.eye(n)[:, :, None, None].expand(n, n, 8, 8)  # channel i of image i is 1: pixels count the labels
    mix = mixup_cutmix(classes, mixup=mixup, cutmix=cutmix)
    seen = set()
    for seed in range(8):
        mixed, y = mix(x, torch.arange(n), generator(seed))
        torch.testing.assert_close(mixed.mean((2, 3)), y)
        torch.testing.assert_close(y.sum(1), torch.ones(n))
        seen.add(bool(((mixed == 0) | (mixed == 1)).all()))  # pasted: every pixel is of one image
    assert seen == ({True, False} if mixup and cutmix else {bool(cutmix)})
    smooth = mixup_cutmix(classes, mixup=0, cutmix=0, smoothing=0.24)(x, torch.arange(n), generator())[1]
    torch.testing.assert_close(smooth, torch.eye(n) * 0.76 + 0.01)


def everything(images, batch_size, world_size, **options):
    """What all processes together see: one list of batches for each."""
    return [[*batches(images, batch_size, rank=rank, world_size=world_size, **options)] for rank in range(world_size)]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("batch_size", [7, 32, 100])
def test_shares_are_the_batch_whatever_the_number_of_processes(world_size, batch_size):
    images = numbered(230)
    options = {"shuffle": True, "epoch": 3, "augment": chain(crop_and_flip, erase), "mix": mixup_cutmix(230)}
    whole = [*batches(images, batch_size, drop_last=True, **options)]
    shares = everything(images, batch_size, world_size, drop_last=True, **options)
    assert {len(share) for share in shares} == {230 // batch_size}
    for number, (x, y) in enumerate(whole):
        parts = [share[number] for share in shares]
        assert max(len(y) for _, y in parts) - min(len(y) for _, y in parts) <= 1
        assert torch.equal(torch.cat([part[0] for part in parts]), x)
        assert torch.equal(torch.cat([part[1] for part in parts]), y)


@pytest.mark.parametrize("n", [1, 5, 31, 100])
def test_evaluation_meets_every_image_once(n):
    """A sampler that pads would give some twice."""
    for world_size in (1, 2, 4):
        shares = everything(numbered(n), 16, world_size)
        seen = torch.cat([y for share in shares for _, y in share])
        assert sorted(seen.tolist()) == list(range(n))
        assert all(len(y) for share in shares for _, y in share)


def test_images_grow_after_augmentation():
    sizes = []

    def look(x, generator):
        sizes.append(x.shape[-2:])
        return x

    images = load_images("fashion").take(slice(0, 40))
    small, _ = next(batches(images, 40))
    large, _ = next(batches(images, 40, augment=look, size=56))
    assert {tuple(size) for size in sizes} == {(28, 28)}
    expected = torch.nn.functional.interpolate(small, size=(56, 56), mode="bilinear", antialias=True)
    torch.testing.assert_close(large, expected)
    assert next(batches(images, 40, size=(14, 42)))[0].shape == (40, 1, 14, 42)


def test_batches_made_ahead_are_the_same_and_stop_with_their_reader():
    from course_utils.data.loading import _in_background

    assert [*_in_background(iter(range(20)))] == [*prefetched(range(20), "cpu")] == list(range(20))

    def failing():
        yield 1
        raise ValueError("the third image is broken")

    with pytest.raises(ValueError, match="third image"):
        list(_in_background(failing()))

    import itertools
    import threading

    endless = _in_background(itertools.count())
    assert isinstance(endless, Generator)
    assert [next(endless) for _ in range(5)] == [0, 1, 2, 3, 4]
    endless.close()
    assert "prefetched" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": 2, "world_size": 2}, "rank is 2 of 2 processes, expected 0 to 1"),
        ({"batch_size": 3, "world_size": 4}, "batch_size 3 leaves some of 4 processes without an image"),
    ],
)
def test_errors_say_what_to_do(options, words):
    with pytest.raises(ValueError, match=words):
        next(batches(numbered(10), **{"batch_size": 8} | options))


def test_one_process_downloads_at_a_time(tmp_path):
    """Three processes ask at once for what is not there: their fetches must not overlap, and each says what failed."""

    def run(root):
        spans = []

        def fetch(url, *arguments, **more):
            start = time.monotonic()
            time.sleep(0.1)
            spans.append((start, time.monotonic()))
            raise urllib.error.URLError("no route to host")

        torchvision.datasets.cifar.download_and_extract_archive = fetch
        try:
            load_images("cifar10", root=root, download=True)
        except ConnectionError as error:
            return spans[0], str(error)

    found = launch(run, 3, tmp_path)
    spans = sorted(span for span, _ in found)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans)), "two fetched at the same time"
    assert all("no route to host" in said and "check the network" in said for _, said in found)
