import pickle
from itertools import product

import pytest
import torch
from torch.func import grad_and_value

from tasks import DatasetError, get_task
from tasks.augment import Augmentation, Range, augmented
from tasks.base import instance_generator
from tasks.images import FolderImages
from tasks.patterns import PatternData
from tasks.vit import PARAMETRIC, folder_vit_family, timm_vit
from tests.tasks.folders import write_folder
from tests.tasks.populations import assert_population_equals_loop
from tests.tasks.test_vit_models import LinearAttention

(FAMILY,) = PARAMETRIC


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data") / "photos")


def test_the_judges_are_the_stated_models():
    module = get_task("digits-vit").module
    assert len(module.blocks) == 3
    assert module.blocks[0].attn.num_heads == 4
    assert module.pos_embed.shape == (1, 17, 32)
    assert get_task("digits-vit").description == "digits: ViT, patch 2, width 32, depth 3, batch 64"


def test_configurations_span_their_sizes_and_none_is_a_judges():
    rng = generator()
    configs = [FAMILY.sample_family(rng).sampler.args[0] for _ in range(500)]
    assert {config.dataset.split("-")[0] for config in configs} == {"patterns", "fashion"}
    assert {config.image for config in configs} >= {8, 12, 14, 16, 20, 24, 28}
    assert {config.depth for config in configs} == {1, 2, 3, 4}
    for config in configs:
        assert config.dataset == "patterns" or config.dataset == f"fashion-mnist-{config.image}"
        assert config.image < 28 or config.dataset == "patterns", "on 28 pixels of Fashion-MNIST ViTs judge"
        assert 8 <= config.image <= 28
        assert config.image % config.patch == 0
        assert config.width % config.heads == 0
        assert 8 <= config.width <= 96
        assert 16 <= config.batch_size <= 128


def of_patterns():
    seeds = (seed for seed in range(100) if "patterns" in sampled(seed).description)
    return sampled(next(seeds))


def sampled(seed):
    return FAMILY.sample_family(instance_generator(seed, "vit"))


def test_tasks_of_a_configuration_differ_and_form_a_population():
    family = pickle.loads(pickle.dumps(of_patterns()))
    rng = generator()
    members = [family.sample(rng) for _ in range(2)]
    batches = [member.batch(generator(1))[0] for member in members]
    assert not torch.equal(*batches)
    assert torch.equal(family.sample(generator()).batch(generator(1))[0], batches[0])
    assert_population_equals_loop(members)


def test_a_task_on_clothes(fashion_mnist):
    rng = generator(2)
    family = FAMILY.sample_family(rng)
    while "fashion" not in family.description:
        family = FAMILY.sample_family(rng)
    task = family.sample(rng)
    loss = task.loss(task.init(rng), task.batch(rng))
    assert 0.7 < task.normalise(loss) < 1.3


@pytest.mark.parametrize(
    ("model", "image", "patch"), [("vit_tiny_patch16_224", 8, 4), ("vit_tiny_patch16_224", 32, None)]
)
def test_a_model_by_name_learns_from_any_source(model, image, patch):
    task = timm_vit(model, data=PatternData(0, image=image, classes=3), patch=patch, batch_size=4)
    params = task.init(generator())
    gradient, loss = grad_and_value(task.loss)(params, task.batch(generator(1)))
    assert params["head.weight"].shape == (3, 192)
    assert 0.6 < task.normalise(loss) < 1.4
    assert all(part.isfinite().all() for part in gradient.values())
    assert f"{model}: {image} pixels" in task.description


def test_data_may_be_a_name_and_the_size_is_checked():
    task = timm_vit("vit_tiny_patch16_224", data="digits", image=8, patch=4, name="tiny")
    assert task.name == "tiny"
    assert task.checksums
    with pytest.raises(ValueError, match="data must hold 16 by 16 pixels, got 8 by 8"):
        timm_vit("vit_tiny_patch16_224", data="digits", image=16, patch=4)


def test_images_that_are_not_square_are_refused():
    class Wide(PatternData):
        def draw(self, generator, shape, split):
            images, labels = super().draw(generator, shape, split)
            return images[..., :4, :], labels

    with pytest.raises(ValueError, match="data must hold square images, got 4 by 8"):
        timm_vit("vit_tiny_patch16_224", data=Wide(0, image=8), patch=4)


def test_swapped_attention_is_trained_in_a_population():
    data = PatternData(0, image=8, classes=3)
    task = timm_vit("vit_tiny_patch16_224", data=data, patch=4, batch_size=4, attention=LinearAttention)
    assert "LinearAttention" in task.description
    assert all(type(block.attn) is LinearAttention for block in task.module.blocks)
    assert_population_equals_loop([task, task])


def test_a_folder_of_jpegs_becomes_a_family(folder):
    family = folder_vit_family(folder, image=32, batch_size=6)
    assert family.name == "photos-vit_tiny_patch16_224-32"
    task = family.sample(generator())
    assert sorted(task.checksums) == ["photos/train", "photos/validation"]
    images, labels = task.batch(generator())
    assert images.shape == (6, 3, 32, 32)
    params = task.init(generator())
    gradient, loss = grad_and_value(task.loss)(params, (images, labels))
    stepped = {name: value - 0.01 * gradient[name] for name, value in params.items()}
    assert task.loss(stepped, (images, labels)) < loss
    assert set(task.evaluate(params)) == {"loss", "accuracy"}


def test_tasks_of_a_folder_may_take_different_classes(folder):
    family = folder_vit_family(folder, image=16, patch=8, classes=2, batch_size=4)
    assert "of which 2 a task" in family.description
    rng = generator()
    members = [family.sample(rng) for _ in range(8)]
    chosen = {member.data.chosen for member in members}
    assert len(chosen) > 2
    assert chosen <= set(product(range(3), repeat=2))
    assert members[0].init(rng)["head.weight"].shape[0] == 2
    copy = pickle.loads(pickle.dumps(members[0]))
    assert torch.equal(copy.batch(generator(1))[0], members[0].batch(generator(1))[0])
    assert_population_equals_loop(members[:2])


def test_a_folder_family_can_be_augmented(folder):
    family = folder_vit_family(folder, image=16, patch=8, batch_size=4)
    wrapped = augmented(family, Augmentation(batch_size=2, label_noise=Range(0.1, 0.2), dtype=torch.bfloat16))
    task = wrapped.sample(generator())
    loss = task.loss(task.init(generator()), task.batch(generator(1)))
    assert loss.dtype == torch.float32
    assert 0.5 < task.normalise(loss) < 1.5


def test_bad_folders_are_refused_when_the_family_is_made(folder, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DatasetError, match="is a file; expected a folder of images"):
        folder_vit_family(tmp_path / "file", image=16)
    with pytest.raises(ValueError, match="classes must be from 2 to the folder's 3, got 4"):
        folder_vit_family(folder, image=16, classes=4)
    with pytest.raises(ValueError, match="patch must divide image, got patch 16 and image 24"):
        folder_vit_family(folder, image=24)


def test_evaluation_takes_no_more_images_at_once_than_training(folder, monkeypatch):
    task = timm_vit("vit_tiny_patch16_224", data=FolderImages(folder, image=16), batch_size=4)
    sizes = []
    walk = task.data.chunks
    monkeypatch.setattr(task.data, "chunks", lambda split, size: sizes.append(size) or walk(split, size))
    task.evaluate(task.init(generator()))
    assert sizes == [4]
