"""Image benchmarks: which image belongs to which task, label and human label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mtrl.core.errors import UserError
from mtrl.core.specs import ImageSpec
from mtrl.data import image_files
from mtrl.data.images import LabelledImages, Split
from mtrl.envs import SUITES
from mtrl.envs.images.cifar import SUPERCLASSES, within_superclass
from mtrl.envs.images.digits import overlaid
from tests.support import image_files as files


def suite(kind: str, **options: Any) -> Any:
    return SUITES.build(SUITES.config_class(kind)(**options))


def test_cifar100_domains_are_superclasses_of_five_classes(tmp_path: Path) -> None:
    files.cifar100(tmp_path)
    made = suite("cifar100", root=str(tmp_path))
    split, _, _ = image_files.cifar100(tmp_path)
    train, coarse = made.data.train, split.train.coarse
    assert coarse is not None
    assert made.tasks == SUPERCLASSES and made.spec.num_classes == (5,) * 20
    for task in (0, 7, 19):
        rows = train.rows[task, : train.counts[task]]
        assert (coarse[rows] == task).all() and len(rows) == 10
        classes = split.train.labels[rows]
        labels = train.labels[task, : train.counts[task]]
        assert sorted(set(labels.tolist())) == [0, 1, 2, 3, 4]
        for label in range(5):  # one class each, in the order of the classes' numbers
            assert set(classes[labels == label].tolist()) == {sorted(set(classes.tolist()))[label]}


def test_cifar100s_classes_are_the_human_labels_of_its_superclasses(tmp_path: Path) -> None:
    files.cifar100(tmp_path)
    made = suite("cifar100_20", root=str(tmp_path))
    train = made.data.train
    assert made.spec.num_classes == (20,) and train.human is not None
    assert torch.equal(train.human[0] // 5, train.labels[0])
    split, _, _ = image_files.cifar100(tmp_path)
    pairs = set(zip(split.train.labels.tolist(), train.human[0].tolist(), strict=True))
    assert len(pairs) == 100, "as many human labels as classes"


def test_places_within_superclasses_agree_between_the_parts(tmp_path: Path) -> None:
    """Training and test images of one class get one label, whatever images there are."""
    files.cifar100(tmp_path)
    split, _, _ = image_files.cifar100(tmp_path)
    tables = [dict(zip(p.labels.tolist(), within_superclass(p).tolist(), strict=True)) for p in split[:2]]
    assert tables[0] == tables[1]


def test_cifar10_mnist_and_svhn(tmp_path: Path) -> None:
    files.cifar10(tmp_path)
    files.mnist(tmp_path)
    assert suite("cifar10", root=str(tmp_path)).data.train.labels.shape == (1, 20)
    mnist = suite("mnist", root=str(tmp_path)).data
    digits = image_files.mnist(tmp_path).train.labels
    assert torch.equal(mnist.train.labels[0], digits % 2)
    assert mnist.train.human is not None
    assert torch.equal(mnist.train.human[0], 5 * (digits % 2) + digits // 2)
    pytest.importorskip("scipy.io")
    files.svhn(tmp_path)
    assert suite("svhn", root=str(tmp_path)).data.train.labels.tolist() == [[1, 0, 9, 0]]


def test_two_images_on_one() -> None:
    images = torch.tensor([[[[10]]], [[[20]]]], dtype=torch.uint8)
    pairs = overlaid(Split(*[LabelledImages(images, torch.tensor([3, 4]))] * 2), 1, seed=0).train
    for image, labels in zip(pairs.images, pairs.labels.tolist(), strict=True):
        value = {3: 10, 4: 20}
        assert image[0].tolist() == [[value[labels[0]], 0], [0, value[labels[1]]]]


def test_multi_mnist_shares_its_images(tmp_path: Path) -> None:
    files.mnist(tmp_path)
    made = suite("multi_mnist", root=str(tmp_path))
    assert made.spec == ImageSpec(("first", "second"), (1, 36, 36), (10, 10), shared_input=True)
    train = made.data.train
    assert train.rows.shape == (1, 6) and train.labels.shape == (2, 6)
    original = image_files.mnist(tmp_path).train
    assert torch.equal(train.labels[0], original.labels)
    assert torch.equal(train.pool[0, :, :8, :28], original.images[0, :, :8, :28])


@pytest.mark.parametrize("kind", ["cifar100", "multi_mnist"])
def test_a_noise_task_has_random_labels(kind: str, tmp_path: Path) -> None:
    files.cifar100(tmp_path)
    files.mnist(tmp_path)
    made = suite(kind, root=str(tmp_path), noise_task=True)
    again = suite(kind, root=str(tmp_path), noise_task=True)
    assert made.tasks[-1] == "noise"
    labels = made.data.train.labels[-1]
    assert torch.equal(labels, again.data.train.labels[-1])
    assert not torch.equal(labels, suite(kind, root=str(tmp_path), noise_task=True, split_seed=1).data.train.labels[-1])
    assert int(labels[labels >= 0].min()) >= 0 and int(labels.max()) < made.spec.num_classes[-1]


def test_one_task_alone_and_smaller_training_sets(tmp_path: Path) -> None:
    files.cifar100(tmp_path)
    made = suite("cifar100", root=str(tmp_path), tasks=["people"], train_size=3)
    everything = suite("cifar100", root=str(tmp_path)).data
    index = SUPERCLASSES.index("people")
    assert made.tasks == ("people",) and made.data.train.labels.shape == (1, 3)
    assert set(made.data.train.rows[0].tolist()) <= set(everything.train.rows[index].tolist())
    assert torch.equal(made.data.test.labels[0], everything.test.labels[index])
    with pytest.raises(UserError, match=r"benchmark\.tasks"):
        suite("cifar100", tasks=["robots"])


@pytest.mark.parametrize("kind", ["cifar100", "multi_mnist"])
def test_some_tasks_have_the_images_and_labels_that_they_have_among_all(kind: str, tmp_path: Path) -> None:
    files.cifar100(tmp_path)
    files.mnist(tmp_path)
    everything = suite(kind, root=str(tmp_path), noise_task=True)
    chosen = [everything.tasks[-1], everything.tasks[0]]
    made = suite(kind, root=str(tmp_path), noise_task=True, tasks=chosen)
    assert made.tasks == tuple(chosen)
    for part in ("train", "test"):
        some, whole = getattr(made.data, part), getattr(everything.data, part)
        for index, task in enumerate(chosen):
            other = everything.tasks.index(task)
            count = int(whole.counts[other])
            assert int(some.counts[index]) == count
            assert torch.equal(some.labels[index, :count], whole.labels[other, :count])
            rows = [(some.rows, index), (whole.rows, other)]
            first, second = (table[place if len(table) > 1 else 0, :count] for table, place in rows)
            assert torch.equal(some.pool[first], whole.pool[second])


def test_scikit_learns_digits() -> None:
    pytest.importorskip("sklearn")
    made = suite("digits", test_share=0.25)
    data = made.data
    assert int(data.train.counts) + int(data.test.counts) == 1797 and int(data.test.counts) == 449
    assert data.train.human is not None
    human = data.train.human[0]
    assert torch.equal(human // 5, data.train.labels[0]) and sorted(set(human.tolist())) == list(range(10))
    assert data.mean.isfinite().all() and int(data.train.pool.max()) == 255
    assert made.description()["benchmark"] == "digits"


def test_a_part_may_lack_digits_but_not_all_images_of_a_task() -> None:
    pytest.importorskip("sklearn")
    assert suite("digit_domains", test_share=0.002).data.test.counts.tolist() == [1, 3]
    assert suite("digits", test_share=0.9999).data.train.counts.tolist() == [1]
    with pytest.raises(UserError, match=r"of the task (even|odd) .* should be 1 or more\. Found 0"):
        _ = suite("digit_domains", test_share=0.0003).data


@pytest.mark.parametrize(
    ("kind", "option"),
    [("digit_styles", {"noise": 1.0}), ("mnist_styles", {"shifted_classes": 5}), ("digits", {"test_share": 0.1})],
)
def test_a_benchmarks_own_options_are_in_its_description(kind: str, option: dict[str, Any]) -> None:
    assert suite(kind, **option).description() != suite(kind).description()


def test_absent_files_are_one_line_that_says_where_to_get_them(tmp_path: Path) -> None:
    for kind, fetched in (("cifar100", "cifar100"), ("cifar10", "cifar10"), ("mnist", "mnist"), ("svhn", "svhn")):
        with pytest.raises(UserError, match=f"mtrl data fetch {fetched}") as caught:
            _ = suite(kind, root=str(tmp_path)).data
        assert "\n" not in str(caught.value)


def test_bad_options_are_refused_by_name() -> None:
    for kind, name, value in (("cifar100", "padding", -1), ("digits", "test_share", 1.0), ("multi_mnist", "shift", -2)):
        with pytest.raises(UserError, match=f"benchmark.{name}"):
            SUITES.config_class(kind)(**{name: value})
