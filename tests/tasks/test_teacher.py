import pytest
import torch

from tasks import TeacherData, get_task


def test_every_class_occurs_and_teachers_differ():
    for seed in range(10):
        inputs, labels = next(TeacherData(seed).chunks("validation", 5000))
        assert inputs.shape == (2048, 16)
        assert (torch.bincount(labels, minlength=10) > 0).sum() >= 9
    same = next(TeacherData(0).chunks("validation", 100))
    again = next(TeacherData(0).chunks("validation", 100))
    other = next(TeacherData(1).chunks("validation", 100))
    assert torch.equal(same[1], again[1])
    assert not torch.equal(same[0], other[0])


def test_labels_are_the_same_function_in_both_splits():
    data = TeacherData(0)
    inputs, labels = data.draw(torch.Generator().manual_seed(0), (3, 7), "validation")
    every_input, every_label = next(data.chunks("validation", 5000))
    for row, label in zip(inputs.flatten(0, 1), labels.flatten(), strict=True):
        assert label == every_label[(every_input == row).all(1).nonzero().item()]


def test_a_student_learns():
    task = get_task("teacher")
    rng = torch.Generator().manual_seed(0)
    params = {k: v.requires_grad_() for k, v in task.init(rng).items()}
    optimizer = torch.optim.Adam(params.values(), lr=1e-2)
    before = task.evaluate(params)["accuracy"]
    for _ in range(300):
        optimizer.zero_grad()
        task.loss(params, task.batch(rng)).backward()
        optimizer.step()
    assert task.evaluate(params)["accuracy"] > before + 0.3


def test_bad_arguments():
    with pytest.raises(ValueError, match="classes at least 2, got 16, 32, 1"):
        TeacherData(0, classes=1)
    with pytest.raises(ValueError, match="training stream of a teacher has no end"):
        next(TeacherData(0).chunks("train", 10))
