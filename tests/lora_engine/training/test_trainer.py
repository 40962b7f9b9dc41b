from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from lora_engine.adapters import lora
from lora_engine.config.adapter import LoraConfig, TextEncoderLoraConfig
from lora_engine.config.lr_schedule import CosineLrSchedule
from lora_engine.config.optimizer import AdamWConfig
from lora_engine.config.training import CompileMode, TrainingConfig
from lora_engine.dataset.draws import Draws, PackMember
from lora_engine.dataset.encoded import TrainingData
from lora_engine.diffusion import PredictionType
from lora_engine.errors import ModelError
from lora_engine.records import StepRecord
from lora_engine.system.distributed import ALONE, Processes
from lora_engine.training.compiled import CompiledUnet
from lora_engine.training.inputs import InputReader
from lora_engine.training.members import MemberConfig
from lora_engine.training.micro_batches import MicroBatches
from lora_engine.training.trainer import PackTrainer
from lora_engine.training.weights import PackWeights, Row
from tests.lora_engine.tiny import rows_of, tiny_data, tiny_member, tiny_noise_schedule, tiny_unet

LORA = LoraConfig(rank=3, alpha=5.0)
CONFIG = TrainingConfig(
    steps=6,
    batch_size=2,
    gradient_accumulation=2,
    optimizer=AdamWConfig(learning_rate=3e-3),
    schedule=CosineLrSchedule(name="cosine", warmup_steps=2),
    max_grad_norm=0.5,
)
MEMBERS = (tiny_member("a", 5, 1), tiny_member("b", 5, 2, dropout=0.4), tiny_member("c", 0, 3))


def trainer(
    members: tuple[PackMember, ...],
    config: TrainingConfig = CONFIG,
    prediction: PredictionType = "epsilon",
    processes: Processes = ALONE,
    data: TrainingData | None = None,
) -> tuple[PackTrainer, UNet2DConditionModel]:
    unet = tiny_unet()
    lora.inject(unet, [(m.name, m.seed) for m in members], LORA)
    configs = [MemberConfig(LORA, config)] * len(members)
    return PackTrainer(
        unet, members, data or tiny_data(), tiny_noise_schedule(prediction), configs, processes=processes
    ), unet


def run(made: PackTrainer, last: int = 6) -> list[tuple[StepRecord, ...]]:
    return [tuple(records.values()) for records in made.run(last, lambda: False)]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_pack_trains_as_its_members_do_alone(prediction: PredictionType) -> None:
    packed, packed_unet = trainer(MEMBERS, prediction=prediction)
    packed_records = run(packed)
    for k, member in enumerate(MEMBERS):
        single, single_unet = trainer((member,), prediction=prediction)
        single_records = run(single)
        pack, own = (lora.export(unet, member.name) for unet in (packed_unet, single_unet))
        torch.testing.assert_close(pack, own, rtol=0, atol=1e-10)
        for together, alone in zip(packed_records, single_records, strict=True):
            assert together[k].loss == pytest.approx(alone[0].loss, abs=1e-10)
            assert together[k].grad_norm == pytest.approx(alone[0].grad_norm, abs=1e-10)


def test_packed_gradients_are_those_of_separate_training() -> None:
    packed, packed_unet = trainer(MEMBERS)
    run(packed, 1)
    for member in MEMBERS:
        single, single_unet = trainer((member,))
        run(single, 1)
        pairs = zip(
            lora.parameters(packed_unet, member.name).values(),
            lora.parameters(single_unet, member.name).values(),
            strict=True,
        )
        compared = 0
        for together, alone in pairs:
            torch.testing.assert_close(together.grad, alone.grad, rtol=0, atol=1e-12)
            compared += int(alone.grad.abs().max() > 0)
        assert compared > 0


def test_gradients_agree_with_finite_differences() -> None:
    config = CONFIG.model_copy(update={"max_grad_norm": None})
    member = tiny_member("a", 5, 1)

    def loss_and_gradient(shift: float) -> tuple[float, float]:
        made, unet = trainer((member,), config)
        weight = next(p for key, p in lora.parameters(unet, "a").items() if "lora_B" in key)
        with torch.no_grad():
            weight[0, 0] += shift
        (record,) = run(made, 1)[0]
        assert record.loss is not None
        return record.loss, float(weight.grad[0, 0])

    # the optimizer moves the weight after the gradient was taken, so .grad is the one at the shifted point
    h = 1e-5
    numeric = (loss_and_gradient(h)[0] - loss_and_gradient(-h)[0]) / (2 * h)
    assert numeric == pytest.approx(loss_and_gradient(0.0)[1], rel=1e-5)


def test_accumulation_gives_the_gradient_of_the_whole_batch() -> None:
    folded, folded_unet = trainer(MEMBERS, CONFIG.model_copy(update={"batch_size": 4, "gradient_accumulation": 1}))
    split, split_unet = trainer(MEMBERS)
    run(folded)
    run(split)
    for key, weight in lora.export(split_unet, "a").items():
        torch.testing.assert_close(lora.export(folded_unet, "a")[key], weight, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "micro_batches",
    [
        MicroBatches(3, 2),
        pytest.param(MicroBatches(4, 3), marks=pytest.mark.slow),
        pytest.param(MicroBatches(1, 3), marks=pytest.mark.slow),
        MicroBatches(1, 1, recompute=True),
    ],
)
def test_however_an_update_is_cut_up_the_gradients_are_the_same(micro_batches: MicroBatches) -> None:
    whole, whole_unet = trainer(MEMBERS)
    cut, cut_unet = trainer(MEMBERS)
    cut.use_micro_batches(micro_batches)
    for ours, theirs in zip(run(cut), run(whole), strict=True):
        assert [record.loss for record in ours] == pytest.approx([record.loss for record in theirs], abs=1e-12)
        assert [r.grad_norm for r in ours] == pytest.approx([r.grad_norm for r in theirs], abs=1e-10)
    for member in MEMBERS:
        for key, weight in lora.export(whole_unet, member.name).items():
            torch.testing.assert_close(lora.export(cut_unet, member.name)[key], weight, rtol=0, atol=1e-10)


def test_resuming_continues_as_if_nothing_happened() -> None:
    straight, straight_unet = trainer(MEMBERS)
    run(straight)
    first, _ = trainer(MEMBERS)
    run(first, 2)
    states = {m.name: first.state(m.name) for m in MEMBERS}
    second, second_unet = trainer(MEMBERS)
    second.restore(states)
    records = run(second)
    assert [r[0].step for r in records] == [3, 4, 5, 6]
    for m in MEMBERS:
        ours, theirs = lora.export(second_unet, m.name), lora.export(straight_unet, m.name)
        assert lora.weights_sha256(ours) == lora.weights_sha256(theirs)


def test_streamed_data_trains_to_the_same_bits() -> None:
    kept, kept_unet = trainer(MEMBERS)
    streamed, streamed_unet = trainer(MEMBERS, data=tiny_data(resident=False))
    for ours, theirs in zip(run(streamed), run(kept), strict=True):
        assert [replace(record, images_per_second=0.0) for record in ours] == [
            replace(record, images_per_second=0.0) for record in theirs
        ]
    for m in MEMBERS:
        ours, theirs = lora.export(streamed_unet, m.name), lora.export(kept_unet, m.name)
        assert lora.weights_sha256(ours) == lora.weights_sha256(theirs)


def test_members_of_one_seed_start_equal_and_see_the_same() -> None:
    made, unet = trainer(MEMBERS)
    start = {m.name: lora.weights_sha256(lora.export(unet, m.name)) for m in MEMBERS}
    assert start["a"] == start["b"] != start["c"]
    for a, b, c in run(made):
        assert (a.order_sha256, a.timesteps_sha256, a.noise_sha256) == (
            b.order_sha256,
            b.timesteps_sha256,
            b.noise_sha256,
        )
        assert a.noise_sha256 != c.noise_sha256


def test_an_update_that_is_not_finite_is_its_adapters_alone_until_that_is_frozen() -> None:
    """Frozen at a multiple of ten steps, whether or not the training is interrupted; the others train on throughout."""
    config = CONFIG.model_copy(update={"max_skipped_steps": 2, "steps": 14})

    def spoiled() -> tuple[PackTrainer, torch.nn.Module]:
        made, unet = trainer(MEMBERS, config)
        with torch.no_grad():
            next(iter(lora.parameters(unet, "a").values()))[0, 0] = float("nan")
        return made, unet

    straight, unet = spoiled()
    before = straight.state("a")
    records = run(straight, 10)
    assert [[record.skipped for record in row] for row in records] == [[True, False, False]] * 10
    assert [record.loss is None for record in records[0]] == [True, False, False]
    said = "a: the update of step 1 was refused, since its loss is not finite; more than 2 of these freeze it"
    assert (straight.take_remarks(), straight.take_remarks()) == ([said], [])
    after = straight.state("a")
    for key in before.keys() - {"step", "skipped", "frozen_at"}:
        torch.testing.assert_close(after[key], before[key], rtol=0, atol=0, equal_nan=True)
    assert straight.frozen_at == {"a": 10}
    later = run(straight, 14)
    assert [[record.skipped for record in row] for row in later] == [[True, False, False]] * 4
    assert [row[0].loss for row in later] == [None] * 4
    without, without_unet = trainer(MEMBERS[1:], config)
    run(without, 14)
    for key, value in lora.export(without_unet, "b").items():
        torch.testing.assert_close(lora.export(unet, "b")[key], value, rtol=0, atol=1e-10)

    broken, _ = spoiled()
    run(broken, 7)
    states = {member.name: broken.state(member.name) for member in MEMBERS}
    for until in (12, 14):
        resumed, resumed_unet = trainer(MEMBERS, config)
        resumed.restore(states)
        run(resumed, until)
        states = {member.name: resumed.state(member.name) for member in MEMBERS}
    assert resumed.frozen_at == {"a": 10}
    for name in ("b", "c"):
        ours, theirs = lora.export(resumed_unet, name), lora.export(unet, name)
        assert lora.weights_sha256(ours) == lora.weights_sha256(theirs)


def half_precision_trainer(max_skipped_steps: int) -> tuple[PackTrainer, UNet2DConditionModel]:
    config = CONFIG.model_copy(update={"steps": 60, "max_skipped_steps": max_skipped_steps})
    unet = tiny_unet(torch.float16)
    lora.inject(unet, [("a", 5), ("b", 0)], LORA)
    data = tiny_data(dtype=torch.float16)
    members = (tiny_member("a", 5, 1), tiny_member("b", 0, 2))
    configs = [MemberConfig(LORA, config)] * 2
    return PackTrainer(unet, members, data, tiny_noise_schedule(), configs, half_precision=True), unet


def test_overflows_that_a_smaller_loss_scale_cures_are_nobodys_fault() -> None:
    """The scale doubles until gradients overflow, and does so again and again in a long run that goes well."""
    made, unet = half_precision_trainer(max_skipped_steps=2)
    states = {name: made.state(name) for name in "ab"}
    for state in states.values():
        state["loss_scale.factor"].fill_(2.0**40)
    made.restore(states)
    records = run(made, 20)
    skipped = [row[0].skipped for row in records]
    assert sum(skipped) > 3
    assert all(record.loss is not None for row in records for record in row)
    states = {name: made.state(name) for name in "ab"}
    run(made, 40)
    assert made.frozen_at == {}
    assert made.take_remarks() == []
    assert int(made.state("a")["skipped"]) == 0
    resumed, resumed_unet = half_precision_trainer(max_skipped_steps=2)
    resumed.restore(states)
    assert not run(resumed, 40)[-1][0].skipped
    ours, theirs = lora.export(resumed_unet, "a"), lora.export(unet, "a")
    assert lora.weights_sha256(ours) == lora.weights_sha256(theirs)


def test_gradients_that_overflow_at_any_loss_scale_freeze_their_adapter() -> None:
    made, unet = half_precision_trainer(max_skipped_steps=2)
    unet.conv_out.register_full_backward_hook(lambda _module, given, _taken: (given[0] * float("inf"),))
    run(made, 60)
    assert set(made.frozen_at) == {"a", "b"}
    assert float(made.state("a")["loss_scale.factor"]) == 1
    assert all("its gradient is not finite, though its loss is" in remark for remark in made.take_remarks())


def test_a_loss_that_is_not_finite_leaves_the_loss_scale_to_the_others() -> None:
    """Halved for it, the scale would let the gradients of the others vanish."""
    made, unet = half_precision_trainer(max_skipped_steps=5)
    before = float(made.state("a")["loss_scale.factor"])
    with torch.no_grad():
        next(iter(lora.parameters(unet, "a").values()))[0, 0] = float("nan")
    records = run(made, 12)
    assert made.frozen_at == {"a": 10}
    assert not records[-1][1].skipped
    assert float(made.state("b")["loss_scale.factor"]) == before


def test_what_goes_on_beside_a_frozen_adapter_is_what_it_would_be_without_it() -> None:
    alone, alone_unet = trainer(MEMBERS[1:])
    run(alone)
    made, unet = trainer(MEMBERS)
    made.freeze("a")
    start = lora.weights_sha256(lora.export(unet, "a"))
    run(made)
    assert lora.weights_sha256(lora.export(unet, "a")) == start
    for key, value in lora.export(alone_unet, "b").items():
        torch.testing.assert_close(lora.export(unet, "b")[key], value, rtol=0, atol=1e-10)


def test_one_that_is_frozen_after_its_last_step_is_so_since_then() -> None:
    configs = [MemberConfig(LORA, CONFIG.model_copy(update={"steps": steps})) for steps in (2, 4, 4)]
    unet = tiny_unet()
    lora.inject(unet, [(m.name, m.seed) for m in MEMBERS], LORA)
    made = PackTrainer(unet, MEMBERS, tiny_data(), tiny_noise_schedule(), configs)
    run(made, 3)
    made.freeze("a")
    assert made.frozen_at == {"a": 2}
    assert (int(made.state("a")["step"]), int(made.state("a")["frozen_at"])) == (2, 2)


def test_the_training_ends_when_all_adapters_are_frozen() -> None:
    made, _ = trainer(MEMBERS)
    for member in MEMBERS:
        made.freeze(member.name)
    assert run(made) == []
    assert made.step == 0


def test_stop_ends_between_updates() -> None:
    made, _ = trainer(MEMBERS)
    answers = iter([False, False, True])
    records = list(made.run(6, lambda: next(answers)))
    assert [row["a"].step for row in records] == [1, 2]
    assert made.step == 2


@pytest.mark.parametrize(
    ("asked", "remark"),
    [
        ({"compile": "regional"}, "regional pays from 4000 updates on, and there are 6"),
        ({"compile": "full"}, "full pays from 8000 updates on, and there are 6"),
    ],
)
def test_what_was_asked_for_and_is_not_done_is_said_once(asked: dict[str, str], remark: str) -> None:
    made, unet = trainer(MEMBERS, CONFIG.model_copy(update=asked))
    run(made)
    (said,) = made.take_remarks()
    assert remark in said
    assert made.take_remarks() == []
    plain, plain_unet = trainer(MEMBERS)
    run(plain)
    ours, theirs = lora.export(unet, "a"), lora.export(plain_unet, "a")
    assert lora.weights_sha256(ours) == lora.weights_sha256(theirs)


def test_one_layer_without_gradients_is_as_wrong_as_can_be() -> None:
    """What a compiled UNet is refused for."""
    _, unet = trainer(MEMBERS)
    pack = PackWeights(unet, [Row(member.name, CONFIG.optimizer) for member in MEMBERS])
    true = torch.randn(pack.gradients_KP.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lost, spoiled, noisy = true.clone(), true.clone(), true * 1.01
    first = next(iter(lora.parameters(unet, "a").values())).numel()
    lost[1, :first] = 0
    spoiled[2, -1] = float("nan")
    assert pack.relative_error(true, true) == 0
    assert pack.relative_error(noisy, true) == pytest.approx(0.01)
    assert pack.relative_error(lost, true) == pytest.approx(1)
    assert np.isnan(pack.relative_error(spoiled, true))
    assert np.isnan(pack.relative_error(true, spoiled))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
def test_a_compiled_unet_is_itself_outside_of_training_and_the_process_as_before() -> None:
    unet = tiny_unet()
    before = {name: module.forward for name, module in unet.named_modules()}
    compiled, used = CompiledUnet(unet, "regional"), []

    def backend(graph: torch.fx.GraphModule, _inputs: list[torch.Tensor]) -> Callable[..., object]:
        used.append(graph)
        return graph.forward

    torch.compile(torch.sin, backend=backend)(torch.ones(2))
    assert used
    with compiled.applied():
        changed = {name for name, module in unet.named_modules() if module.forward != before[name]}
    assert len(changed) == 4
    assert all("transformer_blocks" in name for name in changed)
    assert all(module.forward == before[name] for name, module in unet.named_modules())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
@pytest.mark.parametrize("mode", ["regional", "full"])
def test_a_compiled_pack_trains_as_an_eager_one(mode: CompileMode) -> None:
    """Whole batches, batches in parts, with activations computed again, and beside a frozen adapter."""
    config = CONFIG.model_copy(update={"compile": mode, "steps": 8000})
    eager = config.model_copy(update={"compile": "off"})
    (made, unet), (plain, plain_unet) = trainer(MEMBERS, config), trainer(MEMBERS, eager)
    for each in (MicroBatches(2, 3), MicroBatches(4, 2), MicroBatches(1, 1, recompute=True)):
        made.use_micro_batches(each)
        plain.use_micro_batches(each)
        ours, theirs = (run(t, t.step + 3) for t in (made, plain))
        assert [[r.loss for r in row] for row in ours] == [
            [pytest.approx(r.loss, abs=1e-9) for r in row] for row in theirs
        ]
    for each_trainer in (made, plain):
        each_trainer.freeze("a")
        run(each_trainer, 11)
    assert not made.take_remarks()
    for key, weight in lora.export(plain_unet, "b").items():
        torch.testing.assert_close(lora.export(unet, "b")[key], weight, rtol=0, atol=1e-8)


def test_mirror_images_are_seen_half_of_the_time() -> None:
    """An image's number says that its mirror image is meant; what is drawn otherwise stays as it was."""
    plain = tiny_data()
    moments = plain.moments.place(plain.moments.read(np.arange(7)))
    flipped = TrainingData(plain.image_ids, rows_of(torch.cat([moments, moments.flip(4)])), plain.texts, flips=True)

    def draws_of(data: TrainingData) -> Draws:
        return Draws((MEMBERS[0].seed,), data.image_ids, data.latent_shape, 400, 1000, flips=data.flips)

    ours, theirs = (InputReader(data, MEMBERS[:1], draws_of(data), slice(0, 400)).read(1) for data in (flipped, plain))
    numbers = ours.inputs.moments[0]
    assert (numbers >= 7).double().mean() == pytest.approx(0.5, abs=0.1)
    assert torch.equal(numbers % 7, theirs.inputs.moments[0])
    assert torch.equal(ours.inputs.noise, theirs.inputs.noise)
    assert ours.hashes[0][0] != theirs.hashes[0][0]
    assert ours.hashes[0][1:] == theirs.hashes[0][1:]


def test_dropout_replaces_captions_by_the_empty_prompt_at_its_rate() -> None:
    member, data = tiny_member("a", 3, 2, dropout=0.25), tiny_data()
    draws = Draws((member.seed,), data.image_ids, data.latent_shape, 1000, 1000)
    rows = np.concatenate([draws.caption_rows(draws.of_step(step), [member])[0] for step in range(1, 5)])
    assert set(rows) == {0, 2}
    assert (rows == 0).mean() == pytest.approx(0.25, abs=0.03)


def test_targets_that_cannot_be_adapted_are_named() -> None:
    with pytest.raises(ModelError, match=r"no such layer.*to_q"):
        lora.inject(tiny_unet(), [("a", 0)], LoraConfig(target_modules=("to_qq",)))
    with pytest.raises(ModelError, match=r"norm1.*LayerNorm"):
        lora.inject(tiny_unet(), [("a", 0)], LoraConfig(target_modules=("transformer_blocks.0.norm1",)))
    for target in ("linear_1", "time_embedding.linear_2", "conv_in", "conv_out"):
        with pytest.raises(ModelError, match=r"kohya's format leaves (time_embedding\.linear_|conv_).*to_v"):
            lora.inject(tiny_unet(), [("a", 0)], LoraConfig(target_modules=(target, "to_q")))
    with pytest.raises(ModelError, match=r"patterns names 'mid', .*up_blocks\.1, mid_block"):
        lora.inject(tiny_unet(), [("a", 0)], LoraConfig(patterns={"mid": {"rank": 4}}))
    with pytest.raises(ModelError, match=r"text_encoder"):
        lora.inject(tiny_unet(), [("a", 0)], LoraConfig(text_encoder=TextEncoderLoraConfig()))
    every = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "time_emb_proj", "conv1", "proj_in")
    lora.inject(tiny_unet(), [("a", 0)], LoraConfig(target_modules=every))
