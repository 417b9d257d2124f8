"""Shared fixtures: new memory is poisoned, real data sets are found or their tests skipped, commands are run."""

import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """A test that sets PyTorch's threads leaves the next one as many as there were: they decide a sum's last bits."""
    import torch

    before = torch.get_num_threads()
    try:
        return (yield)
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def data_file() -> Callable[[str], Path]:
    """The path of a real data set, or a skip where it is not on this machine."""

    def find(name: str) -> Path:
        path = DATA / name
        if not path.exists():
            pytest.skip(f"the data set {name} is not on this machine")
        return path

    return find


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray cluster of two machines of one core each, as far as Ray can tell; a skip where there is no Ray."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray spells it so; on a busy machine it would wait for ever
    node = {"num_cpus": 1, "object_store_memory": 100_000_000}
    made = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    made.add_node(**node)
    ray.init(address=made.address, log_to_driver=False, logging_level="error")
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def ears() -> Iterator[None]:
    """A test that hears Ctrl-C even where it is a shell's background job, and leaves signals as it found them."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fills every new torch tensor with NaN, so an element that a kernel forgot to write fails the test."""
    import torch

    def poison(make: Callable[..., Any]) -> Callable[..., Any]:
        def made(*args: Any, **kwargs: Any) -> Any:
            out = make(*args, **kwargs)
            return out.fill_(float("nan")) if out.is_floating_point() else out

        return made

    for owner, name in [
        (torch, "empty"),
        (torch, "empty_like"),
        (torch, "empty_strided"),
        (torch.Tensor, "new_empty"),
    ]:
        monkeypatch.setattr(owner, name, poison(getattr(owner, name)))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a tiny CLIP with random weights."""
    from commands import tiny_clip

    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of reddish, greenish and bluish pictures."""
    from commands import coloured

    return coloured(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is handed to the runs that faults befall."""
    from faults import give

    return give(tmp_path_factory.mktemp("given"))


@pytest.fixture
def undisturbed(given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, bytes]:
    """What such a run leaves when nothing befalls it."""
    from faults import labelling, run
    from test_parts import contents

    assert run(capsys, *labelling(given), tmp_path / "undisturbed")[0] == 0
    return contents(tmp_path / "undisturbed")


@pytest.fixture
def names(tmp_path: Path) -> Path:
    """A file of the names of those pictures."""
    path = tmp_path / "names.txt"
    path.write_text("red\n\n green \nblue\n")
    return path


@pytest.fixture
def gdui(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command in this process: exit code, stdout, stderr."""
    from gdui import cli

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            code = cli.main([str(one) for one in arguments])
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        return code, *capsys.readouterr()

    return run
