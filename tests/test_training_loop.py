"""The loop: each step's order and averages, against what is computed without it."""

import functools
import math

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from course_utils.data import batches, hold_out, load_images
from course_utils.launch import launch
from course_utils.training import adamw, constant, evaluate, make_scaler, schedule_lr, train, train_step, warmup_cosine


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Operations this small are several times slower on two threads when the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def mlp(seed=0, dropout=0.0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.GELU(), nn.Dropout(dropout), nn.Linear(32, 10))


@pytest.fixture(scope="module")
def digits():
    return hold_out(load_images("digits"))


def epochs(images, size=64, **options):
    return lambda epoch: batches(images, size, shuffle=True, epoch=epoch, **options)


def test_scaling_changes_nothing_but_the_range(digits):
    """A power of two scales exactly: with it, clipping included, the step is the same bit for bit."""
    batch = list(batches(digits[0], 64))[:1]
    plain, scaled = mlp(), mlp()
    for model, scaler in ((plain, make_scaler("fp32")), (scaled, torch.amp.GradScaler("cpu", init_scale=2.0**16))):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        result = train_step(model, optimizer, batch, scaler=scaler, clip=0.05)
        assert 0.1 < result.grad_norm < 100  # the norm of the true gradient, and far above the bound
        assert not result.skipped
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), scaled.parameters(), strict=True))


def test_clipping_bounds_the_step(digits):
    model = mlp()
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    train_step(model, optimizer, list(batches(digits[0], 64))[:1], scaler=make_scaler("fp32"), clip=0.05)
    moved = nn.utils.parameters_to_vector(model.parameters()).detach() - before
    assert moved.norm().item() == pytest.approx(0.05, rel=1e-3)


def test_unequal_micro_batches_give_the_gradient_of_the_whole_batch(digits):
    images = digits[0].take(slice(0, 70))
    whole, cut = mlp(), mlp()
    results = []
    for model, size in ((whole, 70), (cut, 32)):  # 32 + 32 + 6
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        results.append(train_step(model, optimizer, list(batches(images, size)), scaler=make_scaler("fp32")))
    assert results[1].loss == pytest.approx(results[0].loss, rel=1e-6)
    for a, b in zip(whole.parameters(), cut.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-7)


def test_an_overflow_skips_the_step_and_halves_the_scale(digits):
    model = mlp()
    optimizer = adamw(model, 1e-3)
    scheduler = schedule_lr(optimizer, warmup_cosine(steps=20, warmup=5))
    images = digits[0]

    def spoiled(epoch):
        for i, (x, y) in enumerate(batches(images, 64)):
            yield (x * math.inf if i in (0, 3) else x), y

    before = [p.detach().clone() for p in model.parameters()]
    unmoved = []
    history = train(
        model,
        spoiled,
        optimizer,
        steps=6,
        scheduler=scheduler,
        scaler=make_scaler("fp16", init_scale=2.0**10, growth_interval=3),
        precision="fp16",
        after_step=lambda step: unmoved.append(
            all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        ),
    )
    assert history.skipped == [True, False, False, True, False, False]
    assert unmoved[0]
    assert not unmoved[2]
    assert history.scale == [1024, 512, 512, 512, 256, 256]
    assert history.lr == pytest.approx([0, 0, 2e-4, 4e-4, 4e-4, 6e-4])  # the schedule waits with the weights
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_learns_and_repeats_itself(digits, precision):
    runs = []
    for _ in range(2):
        model = mlp(dropout=0.1)
        optimizer = adamw(model, 1e-2)
        scheduler = schedule_lr(optimizer, warmup_cosine(steps=60, warmup=5))
        torch.manual_seed(1)
        history = train(
            model,
            epochs(digits[0]),
            optimizer,
            steps=60,
            scheduler=scheduler,
            precision=precision,
            clip=1.0,
            validate=lambda: batches(digits[1], 100),
            validate_every=25,
        )
        runs.append((history, nn.utils.parameters_to_vector(model.parameters()).detach()))
    (a, weights), (b, again) = runs
    assert torch.equal(weights, again)
    assert a.loss == b.loss
    assert a.step == list(range(1, 61))
    assert a.validated_step == [25, 50, 60]
    assert a.validation_accuracy[-1] > 0.9
    assert a.seconds == sorted(a.seconds)
    assert {len(v) for k, v in vars(a).items() if not k.startswith("valid")} == {60}


def test_training_and_evaluation_run_in_the_precision_asked_for(digits):
    model = mlp()
    seen = []
    model[1].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    batch = list(batches(digits[0], 32))[:1]
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        seen.clear()
        train(model, lambda epoch: batch, adamw(model, 1e-3), steps=1, precision=precision, validate=lambda: batch)
        assert seen == [dtype, dtype]
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_evaluation_averages_over_samples(digits):
    images, model = digits[0].take(slice(0, 101)), mlp()
    logits = model(next(batches(images, 101))[0])
    expected = F.cross_entropy(logits, images.y).item()
    metrics = evaluate(model, batches(images, 25))  # the last batch holds one image
    assert metrics.loss == pytest.approx(expected, rel=1e-5)
    assert metrics.accuracy == pytest.approx((logits.argmax(1) == images.y).double().mean().item())
    assert metrics.samples == 101
    parts = [F.cross_entropy(model(x), y).item() for x, y in batches(images, 25)]
    assert abs(sum(parts) / len(parts) - expected) > 1e-3, "the naive mean must differ, or this test shows nothing"


def test_evaluation_leaves_no_trace(digits):
    model = nn.Sequential(nn.BatchNorm2d(1), mlp(dropout=0.5)).train()
    model[0].eval()  # a frozen norm
    before, random = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    first = evaluate(model, batches(digits[1], 50))
    assert evaluate(model, batches(digits[1], 50)) == first  # no dropout
    assert [m.training for m in model.modules()] == [True, False, True, True, True, True, True, True]
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_micro_batches_run_on_over_the_end_of_an_epoch(digits):
    images, seen = digits[0].take(slice(0, 50)), []

    def watched(epoch):
        for x, y in batches(images, 20, shuffle=True, epoch=epoch):  # 20, 20, 10
            seen.append((epoch, len(y)))
            yield x, y

    model = mlp()
    train(model, watched, torch.optim.SGD(model.parameters(), lr=0.1), steps=3, accumulate=2)
    assert seen == [(0, 20), (0, 20), (0, 10), (1, 20), (1, 20), (1, 10)]


def test_the_bar_is_off_unless_asked_for(digits, capfd):
    model = mlp()
    run = functools.partial(train, model, epochs(digits[0]), torch.optim.SGD(model.parameters(), lr=0.1), steps=2)
    run()
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    run(progress=True)
    assert "2/2" in capfd.readouterr().err


def test_errors_say_what_to_do(digits):
    model = mlp()
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    run = functools.partial(train, model, epochs(digits[0]), sgd)
    with pytest.raises(ValueError, match="start is step 7, expected between 0 and steps = 5"):
        run(steps=5, start=7)
    with pytest.raises(ValueError, match="precision is 'half', expected one of fp32, bf16, fp16"):
        run(steps=5, precision="half")
    with pytest.raises(ValueError, match="a disabled scaler was given for precision 'fp16'"):
        run(steps=5, precision="fp16", scaler=make_scaler("fp32"))
    used = batches(digits[0], 500)
    with pytest.raises(ValueError, match="epoch 1 holds no batch"):
        train(model, lambda epoch: used, sgd, steps=5)
    with pytest.raises(ValueError, match="hold no sample"):
        evaluate(model, [])
    assert all(module.training for module in model.modules())

    def hot(epoch):
        return [(x * math.nan, y) for x, y in batches(digits[0], 500)]

    with pytest.raises(FloatingPointError, match="the loss is nan at step 1: lower the learning rate"):
        train(model, hot, sgd, steps=5)
    with pytest.raises(FloatingPointError, match="41 steps in a row were skipped"):
        train(model, hot, sgd, steps=50, precision="fp16")
    with pytest.raises(ValueError, match="the optimizer holds parameters that are not the model's"):
        train(mlp(), epochs(digits[0]), sgd, steps=5)


def test_a_schedule_of_one_rate_is_plain_training(digits):
    losses = []
    for scheduled in (False, True):
        model = mlp()
        optimizer = adamw(model, 1e-3)
        scheduler = schedule_lr(optimizer, constant()) if scheduled else None
        losses.append(train(model, epochs(digits[0]), optimizer, steps=5, scheduler=scheduler).loss)
    assert losses[0] == losses[1]


WEIGHTED = functools.partial(F.cross_entropy, weight=torch.tensor([1.0, 3.0, 0.5]), label_smoothing=0.1)
LOSSES = {  # name -> loss, and targets of six samples of three classes
    "plain": (F.cross_entropy, torch.tensor([0, 1, 2, 0, 1, 1])),
    "class weights": (WEIGHTED, torch.tensor([0, 1, 2, 0, 1, 1])),
    "a module": (nn.CrossEntropyLoss(torch.tensor([1.0, 3.0, 0.5]), ignore_index=2), torch.tensor([0, 1, 2, 2, 2, 1])),
    "ignored": (F.cross_entropy, torch.tensor([0, -100, -100, -100, -100, 1])),
    "tokens, some ignored": (F.cross_entropy, torch.tensor([[0, 1], [2, -100], [0, 1]] + [[-100, -100]] * 3)),
    "soft targets": (F.cross_entropy, torch.rand(6, 3, generator=torch.Generator().manual_seed(0)).softmax(-1)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_micro_batch_weighs_as_much_as_the_loss_divides_by(name):
    """The step over 4 + 2 samples is the step over six at once: weighed by lengths, it is another."""
    loss_fn, y = LOSSES[name]
    x = torch.randn(
        6, 2 if y.dim() == 2 and not y.is_floating_point() else 1, 5, generator=torch.Generator().manual_seed(1)
    )

    class Model(nn.Linear):
        def forward(self, x):  # [B, T, 5] -> [B, 3, T], or [B, 3] for one token
            logits = super().forward(x).transpose(1, 2)
            return logits if logits.shape[2] > 1 else logits[..., 0]

    gradients, losses = [], []
    for cuts in ([6], [4, 2], [1, 2, 3]):
        torch.manual_seed(0)
        model = Model(5, 3)
        batches_ = list(zip(x.split(cuts), y.split(cuts), strict=True))
        result = train_step(
            model, torch.optim.SGD(model.parameters(), 0.0), batches_, scaler=make_scaler("fp32"), loss_fn=loss_fn
        )
        gradients.append(model.weight.grad.clone())
        losses.append(result.loss)
        expected = loss_fn(model(x), y)
        assert result.loss == pytest.approx(expected.item(), rel=1e-5)
        (exact,) = torch.autograd.grad(expected, [model.weight])
        torch.testing.assert_close(gradients[-1], exact, rtol=1e-4, atol=1e-7)
        if not y.is_floating_point():
            found = evaluate(model, batches_, loss_fn=loss_fn)
            assert found.loss == pytest.approx(expected.item(), rel=1e-5)
            ignored = getattr(loss_fn, "ignore_index", -100)
            assert found.samples == int((y != ignored).sum())
            right = (model(x).argmax(1) == y) & (y != ignored)
            assert found.accuracy == pytest.approx(int(right.sum()) / found.samples)


def one_step_of_a_share() -> tuple[list[float], float]:
    """Two processes with targets that weigh differently."""
    loss_fn, y = LOSSES["class weights"]
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    mine = slice(0, 4) if dist.get_rank() == 0 else slice(4, 6)
    replica = nn.parallel.DistributedDataParallel(model)
    parts = [(x[mine][:1], y[mine][:1]), (x[mine][1:], y[mine][1:])]
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    result = train_step(replica, optimizer, parts, scaler=make_scaler("fp32"), loss_fn=loss_fn, processes=2)
    gradient = model.weight.grad.flatten().tolist()
    found = evaluate(model, parts, loss_fn=loss_fn, processes=2)
    assert found.samples == 6
    assert found.loss == pytest.approx(result.loss, rel=1e-5)
    return gradient, result.loss


def test_processes_weigh_as_much_as_the_loss_divides_by():
    loss_fn, y = LOSSES["class weights"]
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    expected = loss_fn(model(x), y)
    (exact,) = torch.autograd.grad(expected, [model.weight])
    for gradient, loss in launch(one_step_of_a_share, 2, show=False):
        assert loss == pytest.approx(expected.item(), rel=1e-5)
        assert gradient == pytest.approx(exact.flatten().tolist(), rel=1e-4, abs=1e-7)
