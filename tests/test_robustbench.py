"""Networks of RobustBench through its own loader.

The package cannot be installed beside satbench's dependencies (it pins an older gdown and timm), so a stand-in with the
same interface takes its place: `utils.all_models`, `utils.load_model`, and files where that looks for them.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from satbench.core.errors import BadInput
from satbench.zoo import cache, load
from satbench.zoo import robustbench as room

pytestmark = pytest.mark.usefixtures("home")

STAND_IN = """
import enum
from pathlib import Path
import torch
from torch import nn

class Data(enum.Enum):
    cifar_10 = "cifar10"

class Kind(enum.Enum):
    Linf = "Linf"
    L2 = "L2"

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3072, 10)
    def forward(self, x):
        return self.linear(x.flatten(1))

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.models = nn.ModuleList([Net(), Net()])
    def forward(self, x):
        return self.models[0](x) + self.models[1](x)

all_models = {Data.cifar_10: {
    Kind.Linf: {
        "One2020": {"model": Net, "gdrive_id": "D" * 33},
        "Two2021": {"model": Two, "gdrive_id": ["A" * 33, "B" * 33]},
        "Timm2022": {"model": None, "gdrive_id": None},
    },
    Kind.L2: {},
}}

def load_model(model_name, model_dir, dataset, threat_model):
    entry = all_models[Data(dataset)][Kind(threat_model)][model_name]
    path, model = Path(model_dir, dataset, threat_model, model_name), entry["model"]()
    if isinstance(entry["gdrive_id"], list):
        for i in range(2):
            model.models[i].load_state_dict(torch.load(f"{path}.pt_m{i}.pt", weights_only=False))
    else:
        model.load_state_dict(torch.load(f"{path}.pt", weights_only=False))
    return model.eval()
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site" / "robustbench").mkdir(parents=True)
    (tmp_path / "site" / "robustbench" / "__init__.py").touch()
    (tmp_path / "site" / "robustbench" / "utils.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    for name in ("robustbench", "robustbench.utils"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.fixture
def drive(package: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder in the place of Google Drive, with a file for every id."""
    folder = tmp_path / "drive"
    folder.mkdir()
    for number, source in enumerate("DAB"):
        torch.manual_seed(number)
        torch.save(nn.ModuleDict({"linear": nn.Linear(3072, 10)}).state_dict(), folder / (source * 33))

    def download(name: str, url: str, whose: str, target: Path, progress: Callable[..., None]) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((folder / url.rpartition("=")[2]).read_bytes())

    monkeypatch.setattr(room, "download", download)
    return folder


def test_a_network_is_built_by_the_packages_loader_from_pinned_files(drive: Path, home: Path) -> None:
    loaded = load("robustbench:cifar10/Linf/One2020")
    assert loaded.info.ref == loaded.info.label == "robustbench:cifar10/Linf/One2020"
    assert (loaded.dataset, loaded.image_size) == ("cifar10", 32)
    assert loaded.info.trained_for is not None
    assert (loaded.info.trained_for.norm, loaded.info.trained_for.eps) == ("Linf", 8 / 255)
    assert not loaded.model.training
    x = torch.rand(2, 3, 32, 32)
    torch.manual_seed(0)
    assert torch.equal(loaded.model(x), nn.Linear(3072, 10)(x.flatten(1)))
    assert list(cache.pinned("robustbench:cifar10/Linf/One2020")) == ["One2020.pt"]
    for file in drive.iterdir():
        file.unlink()
    assert load("robustbench:cifar10/Linf/One2020").info.digest == loaded.info.digest


def test_an_ensemble_has_a_file_for_each_of_its_networks(drive: Path) -> None:
    load("robustbench:cifar10/Linf/Two2021")
    assert sorted(cache.pinned("robustbench:cifar10/Linf/Two2021")) == ["Two2021.pt_m0.pt", "Two2021.pt_m1.pt"]


def test_a_cached_file_that_has_changed_is_refused_before_it_is_read(drive: Path, home: Path) -> None:
    load("robustbench:cifar10/Linf/One2020")
    file = home / "robustbench" / "cifar10" / "Linf" / "One2020.pt"
    file.write_bytes((drive / ("A" * 33)).read_bytes())
    with pytest.raises(BadInput, match=r"robustbench:cifar10/Linf/One2020: One2020\.pt has SHA-256 .* has pinned"):
        load("robustbench:cifar10/Linf/One2020")


def test_a_pickle_is_not_run_though_the_loader_would(drive: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.write_text, (tmp_path / "sprung", "x")

    torch.save({"linear.weight": Trap()}, drive / ("D" * 33))
    with pytest.raises(BadInput, match="its file holds more than plain weights"):
        load("robustbench:cifar10/Linf/One2020")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("One2020", "give robustbench:DATASET/THREAT/NAME"),
        ("cifar10/../One2020", "give robustbench:DATASET/THREAT/NAME"),
        ("cifar1O/Linf/One2020", "no data set 'cifar1O'; did you mean cifar10"),
        ("cifar10/linf/One2020", "no threat 'linf' for cifar10; did you mean Linf"),
        ("cifar10/Linf/One2021", "no cifar10/Linf/One2021; did you mean One2020 or Two2021"),
        ("cifar10/L2/One2020", "no cifar10/L2/One2020; none is known"),
        ("cifar10/Linf/Timm2022", "has no file of its own"),
    ],
)
def test_a_name_that_is_not_there_meets_the_nearest(name: str, message: str, package: None) -> None:
    with pytest.raises(BadInput, match=message):
        load(f"robustbench:{name}")


def test_offline_a_network_that_was_not_fetched_is_named(package: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SATBENCH_OFFLINE", "1")
    with pytest.raises(BadInput, match=r"Google Drive is not asked while offline; .* save the file as .*One2020\.pt"):
        load("robustbench:cifar10/Linf/One2020")


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "robustbench", None)
    with pytest.raises(BadInput, match=r"'satbench\[robustbench\]' && pip install --no-deps robustbench"):
        load("robustbench:cifar10/Linf/One2020")
